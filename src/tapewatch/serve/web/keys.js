// The page without a mouse: 1, 2, … for the views, / for the filter, ? for this list.

import { byId, make } from "./dom.js";

const isTyping = () => Boolean(document.activeElement?.closest("input, select, textarea, dialog"));

/** Listen to keys. ``views`` are the names of the views, ``go(place)`` shows one. */
export function listenToKeys({ views, go }) {
  const known = [
    ...views.map((name, i) => [String(i + 1), name]),
    ["/", "Filter the symbols"], ["↑ ↓", "The symbol or alert above, or below"], ["Esc", "Leave the filter, close what is open"],
    ["?", "These keys"],
  ];
  byId("help-keys").append(...known.map(([key, what]) => make("div", "", make("dt", "", make("kbd", "", key)), make("dd", "", what))));
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("login").open) return;
    if (event.key === "Escape" && document.activeElement === byId("filter")) leaveFilter();
    if (isTyping()) return;
    const place = Number(event.key) - 1;
    if (place >= 0 && place < views.length) go(place);
    else if (event.key === "?") byId("help").showModal();
    else if (event.key === "/") toFilter(go);
    else return;
    event.preventDefault();
  });
}

function toFilter(go) {
  const own = document.querySelector(".view:not([hidden]) input[type=search]");
  if (!own) go(0);
  (own ?? byId("filter")).focus();
}

function leaveFilter() {
  const filter = byId("filter");
  filter.value = "";
  filter.dispatchEvent(new Event("input"));
  filter.blur();
}
