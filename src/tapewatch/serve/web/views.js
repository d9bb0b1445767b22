// Which view is shown is said by the address, and by it alone: #/overview/AAPL/1m, #/technical/AAPL, #/alerts/ID, …
//
// The Overview is there from the start. Another view is an ES module of its own, loaded when it is first shown.

import { byId, make } from "./dom.js";

export const VIEWS = [["overview", "Overview"], ["technical", "Technical"], ["health", "Health"], ["alerts", "Alerts"]];
const MODULES = {
  technical: async () => (await import("./technical.js")).TechnicalView,
  health: async () => (await import("./health_view.js")).HealthView,
  alerts: async () => (await import("./alerts_view.js")).AlertsView,
};

const STYLES = { technical: "technical.css", health: "health_view.css", alerts: "alerts_view.css" };

/** Load a style sheet once; one that cannot be had leaves the view plain, and is no reason not to show it. */
function styled(file) {
  const href = `/static/${file}`;
  if (document.querySelector(`link[href="${href}"]`)) return Promise.resolve();
  return new Promise((done) => {
    const link = Object.assign(make("link"), { rel: "stylesheet", href, onload: done, onerror: done });
    document.head.append(link);
  });
}

/** What an address asks for. Without a view it is a symbol, as older links have it: #AAPL/5m. Unknown: the Overview. */
export function readAddress(hash) {
  const parts = hash.replace(/^#/, "").split("/").map(decoded);
  if (parts[0] !== "") return { view: "overview", parts };
  const [, view, ...rest] = parts;
  if (view === "explain") return { view: "alerts", parts: ["explain", ...rest] };
  return VIEWS.some(([name]) => name === view) ? { view, parts: rest } : { view: "overview", parts: [] };
}

export function writeAddress(view, ...parts) {
  const [first, ...rest] = parts;
  const all = view === "alerts" && first === "explain" ? [first, ...rest] : [view, ...parts];
  return `#/${all.filter((part) => part != null).map(encodeURIComponent).join("/")}`;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // A broken escape is nothing's name.
  }
}

/** The views that were shown so far. Each gets ``context`` when it is made, and events only while it is visible. */
export class Views {
  constructor(context) {
    this.context = context;
    this.made = new Map();
    this.shown = null;
    this.params = {};
  }

  /** Show one, or tell the shown one that its params changed. */
  async show(name, params) {
    const before = this.shown;
    Object.assign(this, { shown: name, params });
    for (const [view] of VIEWS) byId(`view-${view}`).hidden = view !== name;
    if (before !== name) this.made.get(before)?.hide();
    if (!MODULES[name]) return;
    if (!this.made.has(name) && !(await this.#make(name))) return;
    if (this.shown === name) this.made.get(name).show(this.params);
  }

  /** Hand an event to the shown view, if it listens to that. */
  tell(event, data) {
    this.made.get(this.shown)?.[event]?.(data);
  }

  probe(name) {
    return this.made.get(name)?.probe ?? null;
  }

  async #make(name) {
    const root = byId(`view-${name}`);
    try {
      const [View] = await Promise.all([MODULES[name](), styled(STYLES[name])]);
      if (!this.made.has(name)) this.made.set(name, new View(root, this.context));
      root.querySelector(":scope > .view-trouble")?.remove();
    } catch (error) {
      if (!root.firstChild) root.append(make("p", "empty view-trouble", `This view could not be loaded: ${error.message}`));
    }
    return this.made.has(name);
  }
}
