// The list of alerts, newest first. An alert keeps its place when it is confirmed or retracted.

import { kindOf } from "./alert_words.js";
import { batched, byId, make, segments, setData, setText } from "./dom.js";
import * as format from "./format.js";

const SHOWN_MAX = 200;

const isLater = (a, b) => Date.parse(a.decided_at) > Date.parse(b.decided_at);

export class Alerts {
  /** ``marketOf(symbol)`` says which clock an alert is told in; ``changed`` runs after every change. */
  constructor(marketOf, chosen, changed) {
    this.marketOf = marketOf;
    this.chosen = chosen;
    this.changed = changed;
    this.byId = new Map();
    this.items = new Map();
    this.symbol = null;
    this.onlySymbol = false;
    this.draw = batched(() => this.#draw());
    const names = [["all", "All"], ["one", "Symbol", "Only the symbol on the chart"]];
    segments(byId("alerts-scope"), names, (value) => {
      this.onlySymbol = value === "one";
      this.draw();
    })("all");
  }

  get list() {
    return [...this.byId.values()];
  }

  /** Take what the server has. What the stream brought while this was on its way is newer, and stays. */
  replace(alerts) {
    const known = this.byId;
    this.byId = new Map(alerts.map((alert) => [alert.alert_id, alert]));
    const newest = Math.max(0, ...alerts.map((alert) => Date.parse(alert.triggered_at)));
    for (const alert of known.values()) {
      const theirs = this.byId.get(alert.alert_id);
      if (theirs ? isLater(alert, theirs) : Date.parse(alert.triggered_at) > newest) {
        this.byId.set(alert.alert_id, alert);
      }
    }
    this.#changed();
  }

  /** One new alert, or a new state of one. */
  update(alert) {
    const known = this.byId.get(alert.alert_id);
    if (known && isLater(known, alert)) return;
    this.byId.set(alert.alert_id, alert);
    const [kind] = kindOf(alert);
    setText(byId("alerts-news"), `${kind} ${alert.symbol}, ${alert.status}, at ${format.price(alert.price, this.marketOf(alert.symbol))}`);
    this.fresh = alert.alert_id;
    this.#changed();
  }

  show(symbol) {
    this.symbol = symbol;
    this.draw();
  }

  #changed() {
    this.draw();
    this.changed(this.list);
  }

  #draw() {
    const wanted = this.list
      .filter((alert) => !this.onlySymbol || alert.symbol === this.symbol)
      .sort((a, b) => Date.parse(b.triggered_at) - Date.parse(a.triggered_at))
      .slice(0, SHOWN_MAX);
    const box = byId("alerts");
    let place = box.firstElementChild;
    const kept = new Set();
    // One calendar for all headings: in the evening the dates of New York and of UTC differ, and would alternate.
    const calendar = wanted.some((alert) => this.marketOf(alert.symbol) !== "crypto") ? "stocks" : "crypto";
    let before = null;
    for (const alert of wanted) {
      const item = this.#item(alert);
      const at = Date.parse(alert.triggered_at);
      const day = `${format.day(at, calendar)} · ${format.zoneName(calendar)}`;
      setText(item.firstChild, day);
      setText(item.querySelector("time"), this.#when(alert, at, calendar));
      item.firstChild.hidden = day === before; // Each day is named once, above its newest alert.
      before = day;
      kept.add(item);
      if (item === place) place = place.nextElementSibling;
      else box.insertBefore(item, place);
    }
    for (const item of [...box.children]) if (!kept.has(item)) item.remove();
    for (const id of this.items.keys()) if (!this.byId.has(id)) this.items.delete(id);
    setText(byId("alerts-count"), wanted.length ? String(wanted.length) : "");
    const empty = byId("alerts-empty");
    empty.hidden = wanted.length > 0;
    const where = this.onlySymbol && this.symbol ? ` for ${this.symbol}` : "";
    setText(empty, `No alerts yet${where}: a breakout shows here the moment it happens.`);
  }

  #item(alert) {
    let item = this.items.get(alert.alert_id);
    if (!item) {
      item = this.#make(alert);
      this.items.set(alert.alert_id, item);
    }
    if (item.dataset.status !== alert.status) {
      setData(item, "status", alert.status);
      setText(item.querySelector(".pill"), alert.status);
    }
    if (this.fresh === alert.alert_id) {
      item.dataset.fresh = item.dataset.fresh === "a" ? "b" : "a";
      this.fresh = null;
    }
    return item;
  }

  #make(alert) {
    const [kind, sign, way] = kindOf(alert);
    const time = make("time");
    time.dateTime = alert.triggered_at;
    const market = this.marketOf(alert.symbol);
    const numbers = alert.direction === 0
      ? `volume over ${format.short(alert.line)}`
      : `${format.roughPrice(alert.price, market)}, avg ${format.roughPrice(alert.line, market)}`;
    const button = make(
      "button", "alert",
      make("i", "sign", sign),
      make("span", "what", make("b", "", alert.symbol), make("span", "", kind)),
      make("span", "pill"),
      make("span", "numbers", numbers),
      time,
    );
    button.type = "button";
    button.addEventListener("click", () => this.chosen(alert.symbol));
    button.title = `Show ${alert.symbol} on the chart`;
    const more = make("a", "evidence-link", "›");
    more.href = `#/alerts/${encodeURIComponent(alert.alert_id)}`;
    more.title = "Evidence and latency";
    more.setAttribute("aria-label", `Evidence of ${kind} ${alert.symbol}`);
    const item = make("li", "", make("h3", "day"), button, more);
    item.dataset.way = way;
    return item;
  }

  /** On its market's clock, with the date where that is not the heading's. */
  #when({ symbol }, at, calendar) {
    const market = this.marketOf(symbol);
    const day = format.day(at, market);
    return `${day === format.day(at, calendar) ? "" : `${day} `}${format.clock(at, market)} ${format.zoneMark(market)}`;
  }
}
