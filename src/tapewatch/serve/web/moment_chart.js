// A small candle chart around one moment: half an hour before it and after it, with the average and a mark.

import { get } from "./api.js";
import { candleColors, chartLook, palette } from "./chart_look.js";
import { candle, point } from "./chart_points.js";
import { make, setText } from "./dom.js";
import * as format from "./format.js";

const AROUND_MS = 30 * 60_000;
const MINUTE_MS = 60_000;

export class MomentChart {
  constructor() {
    this.plot = make("div", "chart");
    this.words = make("p", "empty over");
    this.root = make("div", "chart-box moment", this.plot, this.words);
    this.asked = 0;
    this.bars = [];
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#repaint());
  }

  /** ``kind`` and ``status`` say how the mark looks; without a kind the minute is only named. */
  async load(symbol, market, atMs, { kind = null, status = null } = {}) {
    const asked = ++this.asked;
    const isOther = !this.shown || this.shown.symbol !== symbol || this.shown.atMs !== atMs;
    this.shown = { symbol, market, atMs, kind, status };
    if (isOther) this.#say("Asking for the candles …");
    const minute = atMs - (atMs % MINUTE_MS);
    const [from, to] = [minute - AROUND_MS, minute + AROUND_MS + MINUTE_MS];
    try {
      const path = `/api/v1/stocks/${encodeURIComponent(symbol)}/history?interval=1m&from=${from}&to=${to}&limit=200`;
      const bars = await get(path);
      if (asked !== this.asked) return;
      this.bars = bars.filter((bar) => bar.close != null);
      this.#show();
    } catch (error) {
      if (asked === this.asked) this.#say(error.message);
    }
  }

  #say(text) {
    this.words.hidden = !text;
    setText(this.words, text ?? "");
  }

  #create() {
    const library = window.LightweightCharts;
    this.chart = library.createChart(this.plot, { autoSize: true, handleScroll: false, handleScale: false, ...chartLook() });
    this.candles = this.chart.addSeries(library.CandlestickSeries, { priceLineVisible: false, lastValueVisible: false });
    this.candles.priceScale().applyOptions({ scaleMargins: { top: 0.14, bottom: 0.12 } });
    this.average = this.chart.addSeries(library.LineSeries, {
      lineWidth: 2, priceLineVisible: false, lastValueVisible: false, crosshairMarkerVisible: false,
    });
    this.markers = library.createSeriesMarkers(this.candles, []);
    this.#paint();
  }

  #paint() {
    const colors = candleColors();
    this.candles.applyOptions(colors.candles);
    this.average.applyOptions({ color: colors.average });
    this.chart.applyOptions({ timeScale: { rightOffset: 1 } });
  }

  #repaint() {
    if (!this.chart) return;
    this.chart.applyOptions(chartLook());
    this.#paint();
    this.#mark();
  }

  #show() {
    if (!this.bars.length) {
      this.#say("There are no candles around this minute.");
      return;
    }
    if (!this.chart) this.#create();
    this.#say(null);
    const timed = this.bars.map((bar) => [this.#time(Date.parse(bar.time)), bar]);
    this.candles.setData(timed.map(([time, bar]) => candle(time, bar)));
    this.average.setData(timed.map(([time, bar]) => point(time, bar.ma_5min)));
    const precision = format.priceDigits(this.bars.at(-1).close, this.shown.market);
    this.candles.applyOptions({ priceFormat: { type: "price", precision, minMove: 10 ** -precision } });
    this.#mark();
    this.chart.timeScale().fitContent();
  }

  #mark() {
    const { atMs, kind, status } = this.shown;
    const color = palette();
    const time = this.#time(atMs - (atMs % MINUTE_MS));
    const has = this.bars.some((bar) => this.#time(Date.parse(bar.time)) === time);
    if (!has) {
      this.markers.setMarkers([]);
      return;
    }
    const ways = { golden_cross: ["belowBar", "arrowUp", "--up-solid"], death_cross: ["aboveBar", "arrowDown", "--down-solid"] };
    const [position, shape, name] = ways[kind] ?? ["aboveBar", kind ? "square" : "arrowDown", "--accent-solid"];
    const shade = status === "retracted" ? "--faint" : name;
    this.markers.setMarkers([{ time, position, shape, color: color(shade), size: 1.4, text: status ?? "" }]);
  }

  #time(ms) {
    return (ms + format.offset(ms, this.shown.market)) / 1000;
  }
}
