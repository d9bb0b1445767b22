// The candle chart: history when a symbol is chosen, older history when it is panned to, live bars after that.
//
// The chart library knows only UTC, so times are moved by the market's offset before it sees them: days then begin
// where the market's days begin: in UTC for crypto, in New York for all others.

import { get } from "./api.js";
import { BARS, LENGTHS_MS, historyPath } from "./candles.js";
import { Bands, Marks, marksOf } from "./chart_layers.js";
import { showLegend } from "./chart_legend.js";
import { candleColors, chartLook, makeCandleChart } from "./chart_look.js";
import { candle, placeOf, point } from "./chart_points.js";
import { DayVwap } from "./day_vwap.js";
import { batched, byId, setText } from "./dom.js";
import * as format from "./format.js";
import { Quality, ribbonKind } from "./quality.js";

const BARS_MAX = 20_000; // of one answer
const ALERTS = 1_000;
const NEAR_THE_START = 30;
const NEWEST = 3;
const REFRESH_MS = 2_000;
const QUALITY_MS = 10_000;
const SETTLED_MS = 150;

export class Chart {
  constructor(days) {
    this.days = days;
    this.symbol = null;
    this.market = "stocks";
    this.interval = "1m";
    this.slideMs = 60_000;
    this.bars = new Map(); // chart time (s) -> bar
    this.times = [];
    this.alerts = [];
    this.olderAlerts = new Map();
    this.marks = 0;
    this.asked = 0;
    this.live = new Map(); // bars that came since the last question for history
    this.refreshedAt = 0;
    this.hovered = null;
    this.isAtStart = false;
    this.paging = null;
    this.dayVwap = new DayVwap();
    this.quality = new Quality();
    this.#create();
    this.drawLegend = batched(() => this.#drawLegend());
    this.drawMarks = batched(() => this.#drawMarks());
    this.drawBands = batched(() => this.#drawBands());
    setInterval(() => this.#renewQuality(), QUALITY_MS);
    this.settled = 0;
  }

  /** Show another symbol or interval, or the same afresh. */
  async load(symbol, market, interval) {
    const other = symbol !== this.symbol || interval !== this.interval;
    Object.assign(this, { symbol, market, interval });
    const asked = ++this.asked;
    this.live = new Map();
    if (other) this.#clear();
    this.quality.known = null; // What is shown of it stays until it was asked for again.
    const limit = Math.min(BARS_MAX, Math.max(BARS, this.times.length));
    let bars;
    try {
      bars = await get(this.#path(`limit=${limit}`));
    } catch (error) {
      if (asked === this.asked && this.times.length === 0) this.explain(error.message);
      return;
    }
    if (asked !== this.asked) return; // Another was chosen meanwhile.
    const live = this.live;
    this.isAtStart ||= bars.length < limit;
    // Of more than one answer holds the oldest pages stay as they are.
    const older = bars.length ? this.times.map((time) => this.bars.get(time)).filter((bar) => bar.time < bars[0].time) : [];
    this.#show([...older, ...bars], other);
    for (const bar of live.values()) this.#putIfNewer(bar); // The stream was faster than the answer.
    if (bars.length) this.#olderMarks(bars[0].time, asked);
    this.#seen();
  }

  /** Changed bars of the stream; one of another symbol is not ours. */
  update(bars) {
    for (const bar of bars) {
      if (bar.symbol !== this.symbol) continue;
      if (LENGTHS_MS[this.interval] === this.slideMs) {
        this.live.set(bar.time, bar);
        this.#put(bar);
      } else {
        this.renew();
      }
    }
  }

  /**
   * The newest price moves the last candle at once, on intervals longer than the stream's bars; those bars bring it
   * themselves. A price of a candle that is not there yet makes it be asked for, and moves no other.
   */
  price(stock) {
    const last = this.bars.get(this.times.at(-1));
    if (stock.symbol !== this.symbol || !last || stock.price == null) return;
    if (LENGTHS_MS[this.interval] === this.slideMs || Date.parse(stock.timestamp) < Date.parse(last.time)) return;
    if (this.#isPast(stock.timestamp)) {
      this.renew();
      return;
    }
    const { price } = stock;
    if (last.close === price) return;
    this.#put({ ...last, close: price, high: Math.max(last.high, price), low: Math.min(last.low, price) });
  }

  showAlerts(alerts) {
    this.alerts = alerts;
    this.drawMarks();
  }

  explain(text) {
    byId("chart-empty").hidden = !text;
    setText(byId("chart-empty"), text ?? "");
  }

  /** For tests: what the layers were told, and what is in sight. */
  get probe() {
    const range = this.chart.timeScale().getVisibleRange();
    const bars = this.times.map((time) => this.bars.get(time));
    return {
      symbol: this.symbol, interval: this.interval, isAtStart: this.isAtStart,
      ribbon: bars.map((bar, i) => [bar.time, this.ribbon.kinds[i] ?? "none"]),
      sessions: bars.map((bar, i) => [bar.time, this.shading.kinds[i] ?? null]),
      marks: this.layer.marks.map(({ status, way, id, index }) => ({ id, status, way, time: bars[index].time })),
      newest: bars.length ? { ...bars.at(-1) } : null,
      vwap: this.times.map((_, i) => this.#vwapAt(i)),
      places: this.chart.timeScale().getVisibleLogicalRange(),
      seen: range && [this.bars.get(range.from)?.time ?? null, this.bars.get(range.to)?.time ?? null],
      legend: byId("legend").textContent,
    };
  }

  /** For tests: pan by that many bars, as a drag does. */
  pan(bars) {
    const scale = this.chart.timeScale();
    scale.scrollToPosition(scale.scrollPosition() + bars, false);
  }

  #path(query) {
    return historyPath(this.symbol, this.interval, query);
  }

  #create() {
    Object.assign(this, makeCandleChart(byId("chart")));
    this.shading = new Bands({ isRibbon: false });
    this.ribbon = new Bands({ isRibbon: true });
    this.layer = new Marks();
    for (const layer of [this.shading, this.ribbon, this.layer]) this.candles.attachPrimitive(layer);
    this.#paint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#repaint());
    this.chart.subscribeCrosshairMove(({ time }) => {
      this.hovered = time ?? null;
      this.drawLegend();
    });
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (range && range.from < NEAR_THE_START && this.times.length) this.#older();
      this.#seen();
    });
  }

  #paint() {
    this.colors = candleColors();
    this.candles.applyOptions(this.colors.candles);
    this.average.applyOptions({ color: this.colors.average });
    this.vwap.applyOptions({ color: this.colors.vwap });
  }

  #repaint() {
    this.chart.applyOptions(chartLook());
    this.#paint();
    this.#show([...this.bars.values()], false);
  }

  #clear() {
    this.bars.clear();
    this.times = [];
    this.olderAlerts.clear();
    this.isAtStart = false;
    if (this.quality.symbol !== this.symbol) this.quality.clear(this.symbol);
    for (const series of [this.candles, this.average, this.vwap, this.volume]) series.setData([]);
    this.drawMarks();
    this.drawBands();
    this.drawLegend();
  }

  #show(bars, fit) {
    this.bars = new Map(bars.filter((bar) => bar.close != null).map((bar) => [this.#time(bar.time), bar]));
    this.times = [...this.bars.keys()].sort((a, b) => a - b);
    const all = this.times.map((time) => [time, this.bars.get(time)]);
    this.candles.setData(all.map(([time, bar]) => candle(time, bar)));
    this.volume.setData(all.map(([time, bar]) => this.#column(time, bar)));
    this.average.setData(all.map(([time, bar]) => point(time, bar.ma_5min)));
    this.#sumUp(0);
    const newest = all.at(-1)?.[1];
    if (newest) {
      const precision = format.priceDigits(newest.close, this.market);
      this.candles.applyOptions({ priceFormat: { type: "price", precision, minMove: 10 ** -precision } });
    }
    this.chart.applyOptions({ timeScale: { timeVisible: this.interval !== "1d" } });
    if (fit) this.#fit();
    this.explain(newest ? null : "No trades yet: the first candle appears with the first trade.");
    this.drawMarks();
    this.drawBands();
    this.drawLegend();
  }

  /** Show the newest bars, as many as suit the width. A chart without a width yet is asked again in the next frame. */
  #fit(frames = 20) {
    const scale = this.chart.timeScale();
    if (!scale.width() && frames) requestAnimationFrame(() => this.#fit(frames - 1));
    const shown = Math.max(40, Math.min(140, Math.floor(scale.width() / 7), this.times.length + 1));
    scale.setVisibleLogicalRange({ from: this.times.length - shown, to: this.times.length + 5 });
    this.candles.priceScale().setAutoScale(true);
  }

  /** The page before the oldest bar shown. The chart keeps its place, which it counts from the newest bar. */
  async #older() {
    if (this.isAtStart || this.paging === this.asked) return;
    const asked = (this.paging = this.asked);
    const oldest = this.bars.get(this.times[0]);
    try {
      const bars = await get(this.#path(`limit=${BARS}&to=${Date.parse(oldest.time)}`));
      if (asked !== this.asked) return;
      this.isAtStart = bars.length < BARS;
      if (bars.length) {
        this.#show([...bars, ...this.times.map((time) => this.bars.get(time))], false);
        await this.#olderMarks(bars[0].time, asked);
      }
      this.drawLegend();
    } catch {
      // Asked again with the next movement.
    } finally {
      if (this.paging === asked) this.paging = null;
    }
  }

  async #olderMarks(from, asked) {
    const symbol = encodeURIComponent(this.symbol);
    let alerts;
    try {
      alerts = await get(`/api/v1/alerts?symbol=${symbol}&from=${from}&limit=${ALERTS}`);
    } catch {
      return; // The database is away; asked again with the next hello or page.
    }
    if (asked !== this.asked) return;
    for (const alert of alerts) this.olderAlerts.set(alert.alert_id, alert);
    this.drawMarks();
  }

  /** When the movement has settled, ask for the quality and the sessions of what is in sight. */
  #seen() {
    clearTimeout(this.settled);
    this.settled = setTimeout(async () => {
      const span = this.#span();
      if (!span) return;
      const learned = [this.quality.cover(...span)];
      learned.push(this.days.cover(...span, this.market));
      if ((await Promise.all(learned)).some(Boolean)) this.drawBands();
    }, SETTLED_MS);
  }

  /** [from, to) of the bars in sight, in Unix ms; null where no minute is told from another. */
  #span() {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    if (!range || this.interval === "1d") return null;
    const at = (place) => this.bars.get(this.times[Math.min(this.times.length - 1, Math.max(0, place))]);
    const [first, last] = [at(Math.floor(range.from)), at(Math.ceil(range.to))];
    if (!first || !last) return null;
    return [Date.parse(first.time), Date.parse(last.time) + LENGTHS_MS[this.interval]];
  }

  async #renewQuality() {
    const newest = this.bars.get(this.times.at(-1));
    if (!newest || this.interval === "1d" || document.hidden || !byId("chart").clientWidth) return;
    if (await this.quality.renew(Date.parse(newest.time) + LENGTHS_MS[this.interval])) this.drawBands();
  }

  /** Whether that moment lies after the last candle. */
  #isPast(iso) {
    const [moment, last] = [this.#time(iso), this.times.at(-1)];
    if (this.interval === "1d") return Math.floor(moment / 86_400) > Math.floor(last / 86_400);
    return moment >= last + LENGTHS_MS[this.interval] / 1000;
  }

  /** The newest candles again, at most once in two seconds: intervals longer than the stream's bars need it. */
  renew() {
    this.renewing ??= setTimeout(async () => {
      this.renewedAt = Date.now();
      const { asked } = this;
      try {
        const bars = await get(this.#path(`limit=${NEWEST}`));
        if (asked === this.asked) for (const bar of bars) this.#put(bar);
      } catch {
        // The database is away: the banner says so.
      }
      this.renewing = null;
    }, Math.max(0, (this.renewedAt ?? 0) + REFRESH_MS - Date.now()));
  }

  #putIfNewer(bar) {
    const shown = this.bars.get(this.#time(bar.time));
    if (!shown || bar.trade_count >= shown.trade_count) this.#put(bar);
  }

  #put(bar) {
    if (bar.close == null) return;
    const time = this.#time(bar.time);
    const last = this.times.at(-1) ?? 0;
    const known = this.bars.has(time);
    if (time < last && !known) {
      this.#refresh(); // A minute that had no bar has one now: rare, so everything is fetched again.
      return;
    }
    this.bars.set(time, bar);
    if (!known) this.times.push(time);
    const past = time < last;
    this.candles.update(candle(time, bar), past);
    this.volume.update(this.#column(time, bar), past);
    this.average.update(point(time, bar.ma_5min), past);
    this.#sumUp(past ? placeOf(this.times, time) : this.times.length - 1);
    if (this.times.length === 1) this.explain(null);
    if (!known) {
      this.drawMarks();
      this.drawBands();
    }
    this.drawLegend();
  }

  #refresh() {
    if (this.refreshing) return;
    const wait = Math.max(0, this.refreshedAt + REFRESH_MS - Date.now());
    this.refreshing = setTimeout(() => {
      this.refreshing = null;
      this.refreshedAt = Date.now();
      this.load(this.symbol, this.market, this.interval);
    }, wait);
  }

  #time(iso) {
    const ms = Date.parse(iso);
    return (ms + format.offset(ms, this.market)) / 1000;
  }

  #column(time, bar) {
    const color = bar.close >= bar.open ? this.colors.upVolume : this.colors.downVolume;
    return { time, value: bar.volume ?? 0, color };
  }

  #qualityAt(time) {
    return this.quality.of(Date.parse(this.bars.get(time).time), LENGTHS_MS[this.interval]);
  }

  #sumUp(start) {
    this.dayVwap.sumUp(this.times, this.bars, start, this.isAtStart);
    if (start > 0 && start === this.times.length - 1) this.vwap.update(point(this.times[start], this.#vwapAt(start)));
    else this.vwap.setData(this.times.map((time, i) => point(time, this.#vwapAt(i))));
  }

  #vwapAt(i) {
    return this.interval === "1d" ? null : this.dayVwap.at(i);
  }

  #drawBands() {
    const isDay = this.interval === "1d";
    const starts = this.times.map((time) => Date.parse(this.bars.get(time).time));
    this.shading.show(isDay ? [] : starts.map((ms) => this.days.at(ms, this.market)), this.colors.sessions);
    this.ribbon.show(isDay ? [] : this.times.map((time) => ribbonKind(this.#qualityAt(time))), this.colors.ribbon);
    this.drawLegend();
  }

  #drawMarks() {
    const all = new Map([...this.olderAlerts, ...this.alerts.map((alert) => [alert.alert_id, alert])]);
    const own = [...all.values()].filter(({ symbol }) => symbol === this.symbol);
    const length = this.interval === "1m" ? 1 : LENGTHS_MS[this.interval] / 1000;
    const marks = marksOf(own, this.times, this.bars, (alert) => {
      const time = this.#time(alert.pane_start);
      return time - (time % length);
    });
    this.marks = marks.length;
    this.layer.show(marks, this.colors);
  }

  #drawLegend() {
    const time = this.hovered ?? this.times.at(-1);
    const bar = this.bars.get(time);
    setText(byId("history-start"), this.isAtStart && bar ? `The record begins here: ${this.#startWords()}` : "");
    showLegend(bar, bar && this.#vwapAt(placeOf(this.times, time)), bar && this.#qualityAt(time), this.market);
  }

  #startWords() {
    const ms = Date.parse(this.bars.get(this.times[0]).time);
    return `${format.day(ms, this.market)} ${format.clock(ms, this.market).slice(0, 5)}`;
  }
}
