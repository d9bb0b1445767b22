// The lengths a candle can have, and how the server is asked for candles.

export const LENGTHS_MS = { "1m": 60_000, "5m": 300_000, "1h": 3_600_000, "1d": 86_400_000 };
/** What a chart asks for at once: more than a day of minutes, so that the day's VWAP is known. */
export const BARS = 1_500;

export const isInterval = (interval) => interval in LENGTHS_MS;

export const historyPath = (symbol, interval, query) =>
  `/api/v1/stocks/${encodeURIComponent(symbol)}/history?interval=${interval}&${query}`;

/** What a chart asks first of a symbol. */
export const firstPath = (symbol, interval) => historyPath(symbol, interval, `limit=${BARS}`);
