// What the Alerts view's parts share: names, times to the millisecond, and small tables.

import { make } from "./dom.js";
import * as format from "./format.js";

export const KINDS = {
  golden_cross: ["Golden cross", "↗", "up"],
  death_cross: ["Death cross", "↘", "down"],
  high_volume: ["High volume", "▮", "accent"],
  cross: ["Cross", "✕", "accent"],
  volume: ["Volume", "▮", "accent"],
  level: ["Level", "―", "accent"],
  move: ["Move", "⇕", "accent"],
  extreme: ["High or low", "⤒", "accent"],
  threshold: ["Threshold", "≷", "accent"],
};
const WAYS = { 1: ["↗", "up"], "-1": ["↘", "down"] };

/** Name, sign and way of an alert, or of a kind: a rule of a person's own is called as its rule is. */
export function kindOf(alert) {
  const kind = alert.kind ?? alert;
  const [name, sign, way] = KINDS[kind] ?? [kind, "•", "accent"];
  if (alert.kind === undefined || alert.rule === undefined || ["golden_cross", "death_cross", "high_volume"].includes(kind)) return [name, sign, way];
  return [alert.rule.replaceAll("_", " "), ...(WAYS[alert.direction] ?? [sign, way])];
}

/** The two lines that were compared, in words: ["price", "average"]. */
export function linesOf(alert) {
  const found = alert.evidence ?? {};
  return (found.confirmed ?? found.retracted ?? found.provisional)?.lines ?? ["price", "average"];
}

/** "15:42:07.123 ET". */
export function exact(ms, market) {
  if (ms == null || Number.isNaN(ms)) return "–";
  const fraction = ms % 1000 ? `.${String(Math.floor(ms % 1000)).padStart(3, "0")}` : "";
  return `${format.clock(ms, market)}${fraction} ${format.zoneMark(market)}`;
}

/** "15:42". */
export const minuteClock = (ms, market) => format.clock(ms, market).slice(0, 5);

/** "2026-11-20T15:42" in the market's zone, as an input of a minute has it. */
export const minuteText = (ms, market) => new Date(ms + format.offset(ms, market)).toISOString().slice(0, 16);

/** The other way round: Unix ms of a minute written in the market's zone; NaN if it is none. */
export function moment(text, market) {
  const local = Date.parse(`${text}Z`);
  if (Number.isNaN(local)) return local;
  const guess = local - format.offset(local, market);
  return local - format.offset(guess, market);
}

/** Distance of a price from a line: "+12.3 bps". */
export const bps = (price, line) => (price == null || !line ? "–" : `${format.signed((price / line - 1) * 1e4, 1)} bps`);

/** A table with a heading row; cells are texts or elements. */
export function table(names, rows, className = "sheet") {
  const heading = (name) => (name ? Object.assign(make("th", "", name), { scope: "col" }) : make("td"));
  const head = make("tr", "", ...names.map(heading));
  const body = rows.map((cells) => {
    const [first, ...rest] = cells;
    const name = Object.assign(make("th", "", first), { scope: "row" });
    return make("tr", "", name, ...rest.map((cell) => make("td", "", cell)));
  });
  return make("table", className, make("thead", "", head), make("tbody", "", ...body));
}

/** Name and value pairs. */
export const pairs = (entries, className = "pairs") =>
  make("dl", className, ...entries.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", value))));

export const section = (title, ...children) => make("section", "block", make("h3", "", title), ...children);
