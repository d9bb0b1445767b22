// How the Health view writes numbers. Nothing here touches the page.

import * as format from "./format.js";

export const UNSEEN = "not seen from here";

export const ms = (value) => {
  if (value == null) return "–";
  if (value > 0 && value < 10) return `${value.toFixed(value < 1 ? 2 : 1)} ms`;
  return format.milliseconds(value);
};

export const rate = (value) => (value == null ? "–" : `${value < 100 ? value.toFixed(1) : format.short(value)}/s`);

export const bytes = (value) => (value == null ? "–" : format.bytes(value));

/** A log's size: in bytes, or in records where the bytes are elsewhere. */
export function sizeOf({ bytes: size, records, first, end }) {
  if (size != null) return bytes(size);
  const many = records ?? (end == null ? null : end - (first ?? 0));
  return many == null ? "–" : `${format.short(many)} records`;
}

/** Seconds as an age, in days where they are many. */
export const span = (seconds) => (seconds < 172_800 ? format.age(Math.max(0, seconds)) : `${Math.round(seconds / 86_400)} days`);

const share = (rate) => `${(100 * rate).toFixed(rate && rate < 0.01 ? 3 : 1)} %`;

/** Rows about the table of conditions, and about our minute bars beside the exchange's. */
export function checksOf({ conditions, bars }) {
  const rows = [];
  if (conditions) {
    const unknown = Object.entries(conditions.unknown).map(([code, many]) => `${code} (${many.toLocaleString("en-US")})`);
    rows.push(["Conditions, as of", conditions.date], ["Unknown codes", unknown.join(", ") || "none"]);
  }
  for (const { market, compared, different, rates } of bars ?? []) {
    const fields = Object.entries(rates).filter(([, rate]) => rate).map(([name, rate]) => `${name} ${share(rate)}`);
    const said = compared ? `${share(different / compared)} of ${compared.toLocaleString("en-US")} differ` : "none compared yet";
    rows.push([`Bars, ${market}`, [said, ...fields].join(", ")]);
  }
  return rows;
}
