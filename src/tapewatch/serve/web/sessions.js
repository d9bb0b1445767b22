// The days of each market that closes, asked for once and kept: which session a moment lies in.

import { get } from "./api.js";
import { closes } from "./format.js";

const NAMES = { pre: "Pre-market", regular: "Regular session", post: "After hours", closed: "Closed", open: "Open day and night" };
const BACK_MS = 45 * 86_400_000;
const AHEAD_MS = 8 * 86_400_000;

export const sessionName = (session) => NAMES[session] ?? "Not known";

export class TradingDays {
  constructor() {
    this.forget();
  }

  forget() {
    this.markets = new Map();
  }

  #of(market) {
    if (!this.markets.has(market)) this.markets.set(market, { days: [], known: null, asking: false }); // known: [from, to] in Unix ms
    return this.markets.get(market);
  }

  /** Know a market's days of [from, to] (Unix ms). True if some were learned. Without an answer they stay unknown. */
  async cover(from, to, market) {
    if (!closes(market)) return false;
    const own = this.#of(market);
    const isKnown = own.known && own.known[0] <= from && to <= own.known[1];
    if (isKnown || own.asking) return false;
    const wanted = [Math.min(from - BACK_MS, own.known?.[0] ?? from), Math.max(to + AHEAD_MS, own.known?.[1] ?? to)];
    own.asking = true;
    try {
      const days = await get(`/api/v1/sessions?market=${market}&from=${Math.round(wanted[0])}&to=${Math.round(wanted[1])}`);
      own.days = days.map((day) => ({
        open: Date.parse(day.day_open), regular: Date.parse(day.regular_open),
        post: Date.parse(day.regular_close), close: Date.parse(day.day_close),
      }));
      own.known = wanted;
      return true;
    } catch {
      return false; // The server is away; asked again with the next hello.
    } finally {
      own.asking = false;
    }
  }

  /** pre, regular, post or closed, or null where it is not known; open for a market that never closes. */
  at(ms, market) {
    if (!closes(market)) return "open";
    const { days, known } = this.#of(market);
    if (!known || ms < known[0] || ms > known[1]) return null;
    const day = dayBefore(days, ms);
    if (!day || ms >= day.close) return "closed";
    return ms < day.regular ? "pre" : ms < day.post ? "regular" : "post";
  }
}

/** The last day that opened until then. */
function dayBefore(days, ms) {
  let [low, high] = [0, days.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (days[middle].open <= ms) low = middle + 1;
    else high = middle;
  }
  return days[low - 1];
}
