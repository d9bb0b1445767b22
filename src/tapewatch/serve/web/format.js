// Numbers and times as people read them. Nothing here touches the page.

const decimals = new Map();

function fixed(digits) {
  if (!decimals.has(digits)) {
    const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    decimals.set(digits, new Intl.NumberFormat("en-US", options));
  }
  return decimals.get(digits);
}

/** Decimal places that suit a price of this size: a currency moves by the fifth of them, a yen or a forint by the third. */
export function priceDigits(price, market) {
  const size = Math.abs(price);
  if (market === "forex") return size >= 20 ? 3 : 5;
  if (market === "futures" && size < 20) return 5;
  return size >= 1 ? 2 : size >= 0.01 ? 4 : 8;
}

export const price = (value, market) => (value == null ? "–" : fixed(priceDigits(value, market)).format(value));

/** The same without cents where they say nothing: 91,480. */
export const roughPrice = (value, market) => (value == null ? "–" : value >= 10_000 ? fixed(0).format(value) : price(value, market));

export function signed(value, digits = 2, unit = "") {
  if (value == null) return "–";
  const sign = value > 0 ? "+" : value < 0 ? "−" : "";
  return sign + fixed(digits).format(Math.abs(value)) + unit;
}

/** 12,345,678 as "12.3M". */
export function short(value) {
  if (value == null) return "–";
  const steps = [[1e9, "B"], [1e6, "M"], [1e3, "K"]];
  for (const [size, unit] of steps) {
    if (value >= size) return fixed(value / size >= 100 ? 0 : value / size >= 10 ? 1 : 2).format(value / size) + unit;
  }
  return fixed(value >= 100 || value % 1 === 0 ? 0 : value >= 1 ? 2 : 4).format(value);
}

export function bytes(value) {
  if (value == null) return "";
  const steps = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]];
  for (const [size, unit] of steps) if (value >= size) return `${fixed(1).format(value / size)} ${unit}`;
  return `${value} B`;
}

/** Seconds as "0.4 s", "12 s", "3 min", "2 h", "6 days". */
export function age(seconds) {
  if (seconds == null) return "";
  if (seconds < 9.95) return `${fixed(1).format(seconds)} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

export const milliseconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : age(ms / 1000));

// --- markets ----------------------------------------------------------------------------------------------------

const MARKETS = {
  stocks: ["Stock", "Stocks"], crypto: ["Crypto", "Crypto"], options: ["Option", "Options"],
  futures: ["Future", "Futures"], forex: ["Currencies", "Forex"], indices: ["Index", "Indices"],
};

/** What one of a market's symbols is: "Stock". */
export const kindName = (market) => MARKETS[market]?.[0] ?? market;
/** "Stocks". */
export const marketName = (market) => MARKETS[market]?.[1] ?? market;
/** Whether anything is traded there: currencies and indices have prices only. */
export const hasVolume = (market) => market !== "forex" && market !== "indices";
/** Whether a market closes at all; one that does has trading days. */
export const closes = (market) => market !== "crypto";

// --- times: UTC for crypto, New York for all others -------------------------------------------------------------

/** Each is made when it is first asked for: making one takes milliseconds, and a first page needs few. */
function clocksOf(timeZone) {
  const time = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  const made = {};
  const clock = (name, locale, wanted) => (made[name] ??= new Intl.DateTimeFormat(locale, { timeZone, ...wanted }));
  return {
    get time() { return clock("time", "en-GB", time); },
    get day() { return clock("day", "en-GB", { day: "numeric", month: "short" }); },
    get date() { return clock("date", "en-GB", { day: "numeric", month: "short", year: "numeric" }); },
    get parts() { return clock("parts", "en-CA", { year: "numeric", month: "2-digit", day: "2-digit", ...time }); },
  };
}

const clocks = { utc: clocksOf("UTC"), newYork: clocksOf("America/New_York") };
const clocksFor = (market) => (closes(market) ? clocks.newYork : clocks.utc);

export const zoneName = (market) => (closes(market) ? "New York" : "UTC");
export const zoneMark = (market) => (closes(market) ? "ET" : "UTC");
export const clock = (ms, market) => clocksFor(market).time.format(ms);

/** "7 Oct", with its year when that is not this year. */
export function day(ms, market) {
  const { day: short, date } = clocksFor(market);
  const year = (at) => date.format(at).slice(-4);
  return year(ms) === year(Date.now()) ? short.format(ms) : date.format(ms);
}

/** The date and a separator when ``ms`` is not of today: in a replay, or before the market opens. */
export function otherDay(ms, market) {
  const { date } = clocksFor(market);
  return Number.isNaN(ms) || date.format(ms) === date.format(Date.now()) ? "" : `${date.format(ms)} · `;
}

const offsets = new Map();

/** The market's zone less UTC at that moment, in ms; zones change on whole quarters of an hour. */
export function offset(ms, market) {
  if (!closes(market)) return 0;
  const quarter = Math.floor(ms / 900_000);
  if (!offsets.has(quarter)) {
    const parts = {};
    for (const { type, value } of clocksFor(market).parts.formatToParts(quarter * 900_000)) parts[type] = Number(value);
    const local = Date.UTC(parts.year, parts.month - 1, parts.day, parts.hour, parts.minute, parts.second);
    offsets.set(quarter, local - quarter * 900_000);
  }
  return offsets.get(quarter);
}
