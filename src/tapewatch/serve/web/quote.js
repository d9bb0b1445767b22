// The head of the chart: the chosen symbol, its price and how old that is, and the numbers of its day.

import { byId, make, setData, setText } from "./dom.js";
import * as format from "./format.js";

const OLD_S = 60;

/** Seconds since the stock's newest trade, less what the feed is delayed by; null in a recording, which has no now. */
export function ageOf(stock, hello) {
  const { origin, delay_ms: delay } = hello ?? { origin: "REPLAYED" }; // Not known yet: nothing is called old.
  const seconds = (Date.now() - Date.parse(stock.timestamp)) / 1000;
  return origin === "REPLAYED" || Number.isNaN(seconds) ? null : Math.max(0, seconds - (delay ?? 0) / 1000);
}

/** A price that stands still is not taken for a live one. ``session``: of its market; a closed one owes no trades. */
export const isOld = (seconds, session) => seconds !== null && seconds > OLD_S && session !== "closed";

/** ``hello`` is the server's, ``session`` the name of the session its market is in. */
export function showQuote(stock, hello, session, sessionWords) {
  const way = stock.change > 0 ? "up" : stock.change < 0 ? "down" : "flat";
  const show = (value) => format.price(value, stock.market);
  const change = Math.max(2, format.priceDigits(stock.price ?? 1, stock.market));
  setText(byId("symbol"), stock.symbol);
  setText(byId("symbol-market"), `${format.kindName(stock.market)} · ${sessionWords}`);
  setText(byId("price"), show(stock.price));
  setText(byId("change"), `${format.signed(stock.change, change)}  ${format.signed(stock.change_percent, 2, " %")}`);
  byId("change").title = stock.change_from === "day_open" ? "since the day's open" : "since the previous close";
  setData(byId("change"), "way", way);
  showAge(stock, hello, session);
  document.title = `${stock.symbol} ${show(stock.price)} · Tapewatch`;
  showFacts([
    ["Open", show(stock.day_open)],
    ["High", show(stock.day_high)],
    ["Low", show(stock.day_low)],
    ["Average", show(stock.ma_5min)],
    ["Volume", format.hasVolume(stock.market) ? format.short(stock.day_volume) : "none"],
  ]);
}

/** When the price was made, and how long ago. */
function showAge(stock, hello, session) {
  const at = Date.parse(stock.timestamp);
  const seconds = ageOf(stock, hello);
  const when = Number.isNaN(at) ? "–" : `${format.otherDay(at, stock.market)}${format.clock(at, stock.market)}`;
  const delay = hello?.origin !== "REPLAYED" && hello?.delay_ms ? `, told ${Math.round(hello.delay_ms / 60_000)} min late` : "";
  const age = seconds === null ? "" : `${format.age(seconds)} ago${delay} · `;
  setText(byId("age"), `Last trade ${age}${when} ${format.zoneMark(stock.market)}`);
  const state = isOld(seconds, session) ? "old" : "new";
  setData(byId("price"), "age", state);
  setData(byId("age"), "age", state);
  setText(byId("zone"), `Times: ${format.zoneName(stock.market)}`);
}

function showFacts(facts) {
  const box = byId("facts");
  while (box.childElementCount < facts.length) box.append(make("div", "", make("dt"), make("dd")));
  facts.forEach(([name, value], i) => {
    setText(box.children[i].firstChild, name);
    setText(box.children[i].lastChild, value);
  });
}
