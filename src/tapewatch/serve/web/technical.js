// The Technical view: one symbol's price against its averages, and below it what they measure. All numbers are the
// server's: bars and indicators are fetched, and fetched again when a bar changes.

import { get } from "./api.js";
import { candleColors, chartLook, palette } from "./chart_look.js";
import { candle, point } from "./chart_points.js";
import { batched, make, setData, setText } from "./dom.js";
import * as format from "./format.js";

const ROWS = 1_000;
const NEWEST = 3;
const NEAR_THE_START = 30;
const RENEW_MS = 1_000;
const NEEDS = { rsi_14: 15, macd: 26, macd_signal: 34, bollinger_middle: 20, atr_14: 15, relative_volume: 6 };

/** Each pane: its name, how tall, and its series as [column, kind, colour, name]. */
const PANES = [
  ["Price", 5, [
    ["candles", "Candlestick", null, ""],
    ["bollinger_upper", "Line", "--faint", "Upper"], ["bollinger_middle", "Line", "--accent-solid", "Mean of 20"],
    ["bollinger_lower", "Line", "--faint", "Lower"], ["ma_5min", "Line", "--average", "Average"],
  ]],
  ["RSI 14", 2, [["rsi_14", "Line", "--violet", "RSI"]]],
  ["MACD 12 26 9", 2, [
    ["macd_histogram", "Histogram", "--accent-pale", "Histogram"], ["macd", "Line", "--accent-solid", "MACD"],
    ["macd_signal", "Line", "--average", "Signal"],
  ]],
  ["ATR 14", 1.4, [["atr_14", "Line", "--up-solid", "ATR"]]],
  ["Relative volume", 1.4, [["relative_volume", "Histogram", "--accent-pale", "times usual"]]],
];
const LEVELS = { rsi_14: [70, 30], relative_volume: [1] };

export class TechnicalView {
  /** ``context``: marketOf(symbol), choose(symbol), symbols(). */
  constructor(box, context) {
    Object.assign(this, { box, context, symbol: null, isShown: false, isRevised: false, asked: 0, rows: new Map(), times: [] });
    this.draw = batched(() => this.#drawWords());
    this.#build();
  }

  show({ symbol }) {
    const wasAway = !this.isShown; // Bars that came meanwhile were not heard.
    this.isShown = true;
    if (symbol && (wasAway || symbol !== this.symbol || !this.times.length)) this.#load(symbol);
  }

  hide() {
    this.isShown = false;
  }

  refetch() {
    if (this.symbol) this.#load(this.symbol);
  }

  bar(bars) {
    const own = bars.filter(({ symbol }) => symbol === this.symbol);
    const oldest = this.times.at(-NEWEST) ?? 0;
    this.isRevised ||= own.some(({ time }) => this.#time(time) < oldest); // It changes every value after it.
    if (own.length) this.#renewSoon();
  }

  price() {
    const options = this.context.symbols();
    if (options.length !== this.choice.options.length) this.#offer(options);
    if (!this.symbol && options.length) this.show({ symbol: this.choice.value });
  }

  /** For tests: the newest row, and how many there are. */
  get probe() {
    return { symbol: this.symbol, rows: this.times.length, newest: this.rows.get(this.times.at(-1)) ?? null, isAtStart: this.isAtStart };
  }

  // --- building -----------------------------------------------------------------------------------------------

  #build() {
    this.choice = make("select", "filter");
    this.choice.setAttribute("aria-label", "Symbol");
    this.choice.addEventListener("change", () => this.context.choose(this.choice.value));
    this.tiles = make("dl", "tiles");
    this.plot = make("div", "chart");
    this.empty = make("p", "empty over");
    this.legends = PANES.map(() => make("p", "pane-legend"));
    const head = make("div", "stage-head", make("h2", "symbol", "Technical"), this.choice, this.tiles);
    const area = make("div", "chart-box", this.plot, ...this.legends, this.empty);
    const stage = make("section", "panel stage", head, area);
    stage.setAttribute("aria-label", "Technical analysis");
    this.box.append(stage);
    this.#offer(this.context.symbols());
    this.#chart();
  }

  #offer(symbols) {
    this.choice.replaceChildren(...symbols.map((symbol) => make("option", "", symbol)));
    if (this.symbol) this.choice.value = this.symbol;
  }

  #chart() {
    const library = window.LightweightCharts;
    this.chart = library.createChart(this.plot, { autoSize: true, ...chartLook() });
    this.series = new Map();
    PANES.forEach(([, , wanted], pane) => {
      for (const [column, kind] of wanted) {
        const options = { priceLineVisible: false, lastValueVisible: kind !== "Candlestick", crosshairMarkerRadius: 3 };
        if (kind === "Line") options.lineWidth = column.startsWith("bollinger") ? 1 : 2;
        if (column === "rsi_14") options.autoscaleInfoProvider = () => ({ priceRange: { minValue: 0, maxValue: 100 } });
        const series = this.chart.addSeries(library[`${kind}Series`], options, pane);
        const top = column === "rsi_14" ? 0.08 : pane ? 0.24 : 0.12; // Legends need room; an RSI near 100 is rare.
        series.priceScale().applyOptions({ scaleMargins: { top, bottom: kind === "Histogram" ? 0 : 0.08 } });
        this.series.set(column, series);
      }
    });
    this.chart.panes().forEach((pane, i) => pane.setStretchFactor(PANES[i][1]));
    this.#paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.chart.applyOptions(chartLook());
      this.#paint();
    });
    this.chart.subscribeCrosshairMove(({ time }) => {
      this.hovered = time ?? null;
      this.draw();
    });
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range && range.from < NEAR_THE_START && this.times.length) this.#older();
    });
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  #paint() {
    const color = palette();
    const { candles } = candleColors();
    for (const [, , wanted] of PANES) {
      for (const [column, , name] of wanted) {
        const series = this.series.get(column);
        if (name) series.applyOptions({ color: color(name) });
        else series.applyOptions(candles);
        for (const line of series.priceLines()) series.removePriceLine(line);
        for (const price of LEVELS[column] ?? []) {
          series.createPriceLine({ price, color: color("--muted"), lineWidth: 1, lineStyle: 2, axisLabelVisible: false });
        }
      }
    }
  }

  // --- data ---------------------------------------------------------------------------------------------------

  /** Bars and their indicators as one row for each bar, oldest first. */
  async #ask(query) {
    const path = `/api/v1/stocks/${encodeURIComponent(this.symbol)}`;
    const [bars, indicators] = await Promise.all([get(`${path}/history?${query}`), get(`${path}/indicators?${query}`)]);
    const known = new Map(indicators.map((row) => [row.time, row]));
    return bars.filter((bar) => bar.close != null).map((bar) => ({ ...known.get(bar.time), ...bar }));
  }

  async #load(symbol) {
    const asked = ++this.asked;
    this.isRevised = false;
    const other = symbol !== this.symbol;
    this.symbol = symbol;
    this.market = this.context.marketOf(symbol);
    this.choice.value = symbol;
    if (other) this.#take([], true);
    let rows;
    try {
      rows = await this.#ask(`limit=${Math.max(ROWS, this.times.length)}`);
    } catch (error) {
      if (asked === this.asked && !this.times.length) this.#explain(error.message);
      return;
    }
    if (asked !== this.asked) return;
    this.isAtStart = rows.length < ROWS;
    this.#take(rows, other);
    this.#explain(rows.length ? null : `${symbol} has no bar yet: the first appears with its first trade.`);
  }

  async #older() {
    if (this.isAtStart || this.paging === this.asked) return;
    const asked = (this.paging = this.asked);
    try {
      const rows = await this.#ask(`limit=${ROWS}&to=${Date.parse(this.rows.get(this.times[0]).time)}`);
      if (asked !== this.asked) return;
      this.isAtStart = rows.length < ROWS;
      if (rows.length) this.#take([...rows, ...this.times.map((time) => this.rows.get(time))], false);
    } catch {
      // Asked again with the next movement.
    } finally {
      if (this.paging === asked) this.paging = null;
    }
  }

  /** The newest rows again, at most once a second, so that the screen shows what the database has. */
  #renewSoon() {
    if (this.renewing || !this.isShown) return;
    this.renewing = setTimeout(async () => {
      const asked = this.asked;
      try {
        if (this.isRevised) this.refetch();
        else {
          const rows = await this.#ask(`limit=${NEWEST}`);
          if (asked === this.asked) this.#put(rows);
        }
      } catch {
        // The database is away: the banner says so.
      }
      this.renewing = null;
    }, RENEW_MS);
  }

  #take(rows, fit) {
    this.rows = new Map(rows.map((row) => [this.#time(row.time), row]));
    this.times = [...this.rows.keys()];
    for (const [column, series] of this.series) {
      series.setData(this.times.map((time) => this.#point(column, time, this.rows.get(time))));
    }
    const newest = rows.at(-1);
    if (newest) {
      const precision = format.priceDigits(newest.close, this.market);
      for (const column of ["candles", "ma_5min", "bollinger_upper", "bollinger_middle", "bollinger_lower", "macd", "macd_signal", "macd_histogram", "atr_14"]) {
        const digits = /macd|atr/.test(column) ? precision + 2 : precision;
        this.series.get(column).applyOptions({ priceFormat: { type: "price", precision: digits, minMove: 10 ** -digits } });
      }
    }
    if (fit && this.times.length) {
      const shown = Math.max(40, Math.min(160, Math.floor(this.plot.clientWidth / 7)));
      this.chart.timeScale().setVisibleLogicalRange({ from: this.times.length - shown, to: this.times.length + 5 });
    }
    this.draw();
  }

  #put(rows) {
    const newest = this.times.at(-1) ?? 0;
    if (rows.length === NEWEST && this.#time(rows[0].time) > newest) return this.refetch(); // Some came in between.
    for (const row of rows) {
      const time = this.#time(row.time);
      const last = this.times.at(-1) ?? 0;
      if (time < last && !this.rows.has(time)) return this.refetch();
      if (time > last) this.times.push(time);
      this.rows.set(time, row);
      for (const [column, series] of this.series) series.update(this.#point(column, time, row), time < last);
    }
    if (rows.length) this.#explain(null);
    this.draw();
    return undefined;
  }

  #time(iso) {
    const ms = Date.parse(iso);
    return (ms + format.offset(ms, this.market)) / 1000;
  }

  #point(column, time, row) {
    return column === "candles" ? candle(time, row) : point(time, row[column]);
  }

  // --- words --------------------------------------------------------------------------------------------------

  #explain(text) {
    this.empty.hidden = !text;
    setText(this.empty, text ?? "");
  }

  #drawWords() {
    const row = this.rows.get(this.hovered ?? this.times.at(-1));
    const newest = this.rows.get(this.times.at(-1));
    this.#drawTiles(newest);
    let top = 0;
    this.chart.panes().forEach((pane, i) => {
      const words = PANES[i][2].filter(([, , , name]) => name).map(([column, , , name]) => `${name} ${this.#value(column, row)}`);
      setText(this.legends[i], `${PANES[i][0]}   ${words.join("   ")}`);
      this.legends[i].style.top = `${top + 6}px`;
      top += pane.getHeight() + 1;
    });
  }

  #value(column, row) {
    const value = row?.[column];
    if (value == null) return column in NEEDS && this.times.length < NEEDS[column] ? `needs ${NEEDS[column]} bars, has ${this.times.length}` : "–";
    if (column === "rsi_14") return value.toFixed(1);
    if (column === "relative_volume") return `${value.toFixed(2)}×`;
    if (/macd|atr/.test(column)) return format.signed(value, format.priceDigits(row.close, this.market) + 2).replace("+", column === "atr_14" ? "" : "+");
    return format.price(value, this.market);
  }

  #drawTiles(row) {
    const tiles = row ? readings(row) : [];
    while (this.tiles.childElementCount < tiles.length) this.tiles.append(make("div", "", make("dt"), make("dd")));
    tiles.forEach(([name, column, words, way], i) => {
      const [term, value] = this.tiles.children[i].children;
      setText(term, name);
      setText(value, row[column] == null ? this.#value(column, row) : `${this.#value(column, row)} ${words}`);
      setData(value, "way", way);
    });
    this.tiles.hidden = !row;
  }
}

/** What the newest values say, in a word: [name, column, word, way]. */
function readings(row) {
  const rsi = row.rsi_14;
  const [rsiWord, rsiWay] = rsi >= 70 ? ["overbought", "down"] : rsi <= 30 ? ["oversold", "up"] : ["neutral", "flat"];
  const rises = row.macd > row.macd_signal;
  const [band, bandWay] = row.close > row.bollinger_upper ? ["above the bands", "up"]
    : row.close < row.bollinger_lower ? ["below the bands", "down"] : ["within the bands", "flat"];
  const busy = row.relative_volume >= 3;
  return [
    ["RSI", "rsi_14", rsiWord, rsiWay],
    ["MACD", "macd", row.macd_signal == null ? "" : rises ? "above its signal" : "below its signal", row.macd_signal == null ? "flat" : rises ? "up" : "down"],
    ["Bollinger mean", "bollinger_middle", row.bollinger_middle == null ? "" : `price ${band}`, bandWay],
    ["ATR", "atr_14", row.atr_14 == null ? "" : `(${((100 * row.atr_14) / row.close).toFixed(2)} % of the price)`, "flat"],
    ["Volume", "relative_volume", busy ? "of the usual: a surge" : "of the usual", busy ? "accent" : "flat"],
  ];
}
