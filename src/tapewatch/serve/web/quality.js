// The grade of each minute of one symbol: for the ribbon under the candles. Only what can be seen is asked for.

import { get } from "./api.js";

const SPAN_MS = 7 * 86_400_000; // what one answer holds
const SPANS_MAX = 5;
const MINUTE_MS = 60_000;
const AGAIN_MS = 10 * MINUTE_MS; // newest minutes change until they are over
const GAPS = 1_000;
const MOSTLY = 0.9; // Odd lots are excluded, and are half of a usual minute of stocks: that is no flaw.
const COUNTS = ["trades", "excluded", "late", "future", "gap_ms"];

export class Quality {
  constructor() {
    this.clear(null);
  }

  clear(symbol) {
    this.symbol = symbol;
    this.minutes = new Map(); // Unix ms -> row of /quality
    this.backfilled = []; // [from, to] in Unix ms
    this.known = null; // [from, to] in Unix ms
  }

  /** Know the minutes of [from, to) (Unix ms). True if something was learned; false too if nobody answered. */
  async cover(from, to) {
    if (!this.known) return this.#learn([from, to], from, to);
    const [first, last] = this.known;
    let learned = false;
    if (from < first) learned = await this.#learn([from, last], from, first);
    if (to > last) learned = (await this.#learn([this.known?.[0] ?? from, to], last - AGAIN_MS, to)) || learned;
    return learned;
  }

  /** The newest minutes again. */
  renew(now) {
    const from = now - AGAIN_MS;
    return this.#learn([this.known?.[0] ?? from, Math.max(now, this.known?.[1] ?? now)], from, now + MINUTE_MS);
  }

  async #learn(known, from, to) {
    const { symbol } = this;
    const path = `/api/v1/stocks/${encodeURIComponent(symbol)}/quality`;
    try {
      for (let end = to, i = 0; end > from && i < SPANS_MAX; end -= SPAN_MS, i += 1) {
        const rows = await get(`${path}?from=${Math.max(from, end - SPAN_MS)}&to=${end}`);
        if (symbol !== this.symbol) return false;
        for (const row of rows) this.minutes.set(Date.parse(row.minute), row);
      }
      const gaps = await get(`/api/v1/gaps?limit=${GAPS}`);
      if (symbol !== this.symbol) return false;
      const mine = gaps.filter((gap) => gap.backfilled && (!gap.symbols.length || gap.symbols.includes(symbol)));
      this.backfilled = mine.map((gap) => [Date.parse(gap.gap_from), Date.parse(gap.gap_to)]);
      this.known = known;
      return true;
    } catch {
      return false;
    }
  }

  /** What is to be said of [from, from + length): its worst grade, sums, and whether a gap in it was filled afterwards. */
  of(from, length) {
    const sum = { grade: null, trades: 0, excluded: 0, late: 0, future: 0, gap_ms: 0 };
    for (let at = from - (from % MINUTE_MS); at < from + length; at += MINUTE_MS) {
      const row = this.minutes.get(at);
      if (!row) continue;
      if (sum.grade === null || row.grade > sum.grade) sum.grade = row.grade;
      for (const name of COUNTS) sum[name] += row[name];
    }
    sum.backfilled = this.backfilled.some(([start, end]) => start < from + length && end > from);
    return sum;
  }
}

/** What the ribbon shows: a gap tells more than late trades, those more than a filled gap, that more than exclusions. */
export function ribbonKind({ grade, trades, excluded, backfilled }) {
  if (grade === null) return "none";
  if (grade === "C" || grade === "D") return "gap";
  if (grade === "B") return "late";
  if (backfilled) return "backfilled";
  return excluded > MOSTLY * trades ? "excluded" : "good";
}

export function qualityWords({ grade, trades, excluded, late, future, gap_ms: gap, backfilled }) {
  if (grade === null) return "–";
  const more = [[excluded, "excluded"], [late, "late"], [future, "from the future"]];
  const words = more.filter(([count]) => count).map(([count, name]) => `${count.toLocaleString("en-US")} ${name}`);
  if (gap) words.push(`gap ${(gap / 1000).toFixed(gap < 10_000 ? 1 : 0)} s`);
  if (backfilled) words.push("gap filled afterwards");
  return `${grade} · ${trades.toLocaleString("en-US")} trades${words.length ? `, ${words.join(", ")}` : ""}`;
}
