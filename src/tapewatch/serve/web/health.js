// How the rooms are: the header's lamps, the strip at the foot, and the one sentence when something is wrong.

import { byId, make, setData, setText } from "./dom.js";
import * as format from "./format.js";

const FEED_LAMPS = { live: "good", lagging: "bad", closed: "idle", connecting: "wait", reconnecting: "bad", stale: "bad", stopped: "bad" };
/** The source that is not named on the badge. */
const USUAL = "Massive";

/** How late the data is by the plan: of the market that is latest. */
export function delayOf(status) {
  return Math.max(0, ...status.feeds.map((feed) => feed.delay_ms ?? 0));
}

export class Health {
  constructor() {
    this.status = null;
    this.lostAt = null;
    this.feeds = new Map();
    this.cells = new Map();
  }

  /** Who made these numbers; the badge cannot be overlooked. */
  hello({ origin, delay_ms: delay, version, window_ms: window }) {
    this.origin = origin;
    this.#badge(delay);
    setText(byId("version"), `Tapewatch ${version}`);
    setText(byId("ma-name"), `Average of ${Math.round(window / 60_000)} min`);
  }

  #badge(delay, source) {
    const { origin } = this;
    const minutes = Math.round(delay / 60_000);
    const delayed = origin === "LIVE" && minutes > 0;
    const badge = byId("origin");
    badge.hidden = false;
    setData(badge, "origin", delayed ? "DELAYED" : origin);
    const word = delayed ? `DELAYED ${minutes} min` : origin;
    setText(badge, source && source !== USUAL ? `${word} · ${source}` : word);
    badge.title = {
      SIMULATED: "Made up by the built-in simulator: no real prices",
      REPLAYED: "Real trades of another day, played again",
      LIVE: delayed ? "Real trades, told late by the plan" : "Real trades, as they happen",
    }[origin] + (source ? `, from ${source}` : "");
  }

  update(status) {
    this.status = status;
    for (const feed of status.feeds) this.#feed(feed);
    if (this.origin) this.#badge(delayOf(status), status.source);
    this.#strip(status);
    this.#sayWhatIsWrong();
  }

  lost(since) {
    this.lostAt = since;
    this.#server("bad", "lost");
    this.#sayWhatIsWrong();
  }

  found() {
    this.lostAt = null;
    this.#server("good", "live");
    this.#sayWhatIsWrong();
  }

  #server(state, word) {
    setData(byId("server"), "state", state);
    setText(byId("server").querySelector(".word"), word);
    setData(document.documentElement, "server", word);
  }

  #feed(feed) {
    let item = this.feeds.get(feed.market);
    if (!item) {
      const name = make("span", "name", format.marketName(feed.market));
      item = make("li", "chip", make("i", "lamp"), name, make("span", "word"), make("span", "age"));
      this.feeds.set(feed.market, item);
      byId("feeds").append(item);
    }
    setData(item, "state", FEED_LAMPS[feed.state] ?? "wait");
    setText(item.querySelector(".word"), feed.state);
    setText(item.querySelector(".age"), feed.state === "closed" ? "" : format.age(feed.age_s));
    item.title = feed.detail ?? (feed.age_s == null ? "No trade yet" : `Last trade ${format.age(feed.age_s)} ago`);
  }

  #strip(status) {
    const rate = status.trades_per_second;
    this.#cell("Trades", rate == null ? "–" : `${rate < 100 ? rate.toFixed(1) : format.short(rate)}/s`);
    this.#cell("Lag", status.lag_ms == null ? "–" : format.milliseconds(status.lag_ms));
    this.#cell("Gaps", status.gaps == null ? "–" : String(status.gaps), status.gaps ? "warn" : "");
    this.#room("Log", status.log, status.log.bytes == null ? "" : format.bytes(status.log.bytes));
    this.#room("Database", status.store, "");
  }

  #room(name, room, more) {
    this.#cell(name, more && room.state === "ok" ? `ok, ${more}` : room.state, room.state === "ok" ? "good" : "bad");
  }

  #cell(name, text, mood = "") {
    let cell = this.cells.get(name);
    if (!cell) {
      cell = make("dd");
      this.cells.set(name, cell);
      byId("strip").append(make("div", "", make("dt", "", name), cell));
    }
    setText(cell, text);
    setData(cell, "mood", mood);
  }

  #sayWhatIsWrong() {
    const banner = byId("banner");
    const text = this.#trouble();
    banner.hidden = !text;
    setText(banner, text);
  }

  #trouble() {
    if (this.lostAt !== null) {
      const at = new Date(this.lostAt).toLocaleTimeString("en-GB");
      return `The server has not answered since ${at}: the numbers below are old. Trying again …`;
    }
    if (!this.status) return "";
    const { store, log, engine, feeds } = this.status;
    if (log.state !== "ok") return log.detail ?? `The log is ${log.state}: trades may be missing.`;
    if (store.state !== "ok") return store.detail ?? `The database is ${store.state}: the log keeps what comes.`;
    if (engine && engine.state !== "ok") return engine.detail ?? `The engine is ${engine.state}: the log keeps what comes.`;
    const bad = feeds.find((feed) => FEED_LAMPS[feed.state] === "bad");
    if (!bad) return "";
    const detail = bad.detail ?? `the last trade came ${format.age(bad.age_s) || "a while"} ago`;
    return `The ${bad.market} feed is ${bad.state}: ${detail}.`.replace(/\.\.$/, ".");
  }
}
