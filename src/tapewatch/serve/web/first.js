// What the first chart shows is asked for before the rest of the page has come: all symbols, and the candles of one.

import { foresee, get } from "./api.js";
import { firstPath, isInterval } from "./candles.js";
import { readAddress } from "./views.js";

/** Rows of ``/api/v1/stocks``, or null if there was no answer: the stream tries again, and the banner says so. */
export const firstStocks = get("/api/v1/stocks").catch(() => null);

firstStocks.then((stocks) => {
  const { view, parts: [symbol, interval] } = readAddress(location.hash);
  if (!stocks?.length || view !== "overview") return;
  const symbols = stocks.map((stock) => stock.symbol).sort();
  const chosen = symbols.includes(symbol) ? symbol : symbols[0];
  foresee(firstPath(chosen, isInterval(interval) ? interval : "1m"));
});
