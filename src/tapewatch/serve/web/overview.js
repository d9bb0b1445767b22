// The Overview: watchlist, chart and alerts of today beside each other. It takes prices also while another view is
// shown, since all views ask it for symbols; the chart and its questions rest until it is visible.

import { get } from "./api.js";
import { Alerts } from "./alerts.js";
import { Chart } from "./chart.js";
import { batched, byId, segments } from "./dom.js";
import { showQuote } from "./quote.js";
import { TradingDays, sessionName } from "./sessions.js";
import { Watchlist } from "./watchlist.js";

const INTERVALS = [["1m", "1m", "One minute"], ["5m", "5m", "Five minutes"], ["1h", "1h", "One hour"], ["1d", "1d", "One day"]];
const ALERTS = 200;
const TICK_MS = 1_000;
const FRESH_MS = 60_000; // A page so young lacks no more than the candles that `Chart.renew` asks for.
const NO_TRADES = "No trades yet: each symbol appears here with its first trade.";

export class Overview {
  /** ``chosen({symbol | interval})`` is called when a person chooses one. */
  constructor(chosen) {
    Object.assign(this, { symbol: null, interval: "1m", isShown: false, alertsLoaded: false, hello: null, loading: null });
    this.days = new TradingDays();
    this.markets = new Set();
    const choose = (symbol) => chosen({ symbol });
    this.watchlist = new Watchlist(choose, (stock) => this.sessionOf(stock), () => this.hello);
    this.chart = new Chart(this.days);
    this.alerts = new Alerts((symbol) => this.market(symbol), choose, (list) => this.chart.showAlerts(list));
    this.press = segments(byId("intervals"), INTERVALS, (interval) => chosen({ interval }));
    this.draw = batched(() => this.#draw());
    setInterval(() => this.draw(), TICK_MS); // The age of the price goes on.
  }

  stock(symbol) {
    return this.watchlist.stock(symbol);
  }

  get symbols() {
    return [...this.watchlist.rows.keys()].sort();
  }

  market(symbol) {
    return this.stock(symbol)?.market ?? "stocks";
  }

  /** Which session a stock's market is in, by the calendar. */
  sessionOf(stock) {
    if (!stock) return null;
    return this.days.at(this.#now(stock), stock.market);
  }

  /** Unix ms; a recording, and a simulated market, are where their newest trade is. */
  #now(stock) {
    const { origin, delay_ms: delay } = this.hello ?? {};
    return origin === "LIVE" ? Date.now() - (delay ?? 0) : Date.parse(stock.timestamp);
  }

  show({ symbol, interval }) {
    const before = { symbol: this.symbol, interval: this.interval, isShown: this.isShown };
    Object.assign(this, { symbol, interval, isShown: true });
    this.press(interval);
    if (symbol !== before.symbol) {
      this.watchlist.select(symbol);
      this.alerts.show(symbol);
      this.draw();
    }
    const isOther = symbol !== before.symbol || interval !== before.interval || !before.isShown;
    if (isOther && this.stock(symbol)) this.#load();
  }

  hide() {
    this.isShown = false;
  }

  greet(hello) {
    const isFresh = this.hello === null && this.watchlist.rows.size > 0 && performance.now() < FRESH_MS;
    this.hello = hello;
    this.chart.slideMs = hello.slide_ms;
    if (isFresh) this.#catchUp();
    else this.refetch();
  }

  price(stocks) {
    this.watchlist.update(stocks);
    for (const { market } of stocks) this.markets.add(market);
    if (!this.watchlist.rows.size) {
      this.watchlist.explain(NO_TRADES);
      this.chart.explain("No trades yet: candles appear with the first trade.");
    }
    const own = stocks.find(({ symbol }) => symbol === this.symbol);
    if (!own || !this.isShown) return;
    if (this.chart.symbol !== own.symbol) this.#load();
    this.chart.price(own);
    this.draw();
  }

  bar(bars) {
    if (this.isShown) this.chart.update(bars);
  }

  alert(alert) {
    this.alerts.update(alert);
  }

  /** Fetch again what is shown, so that nothing is missing of the time without a connection. */
  refetch() {
    this.days.forget();
    if (this.isShown && this.stock(this.symbol)) this.#load();
    this.watchlist.glance();
    this.#askAlerts();
  }

  /** What was asked for before the stream began may lack what happened until then: that much of it again. */
  async #catchUp() {
    this.#askAlerts();
    await this.loading;
    if (this.loading) this.chart.renew();
  }

  async #askAlerts() {
    try {
      this.alerts.replace(await get(`/api/v1/alerts?limit=${ALERTS}`));
      this.alertsLoaded = true;
    } catch {
      // The database is away: the status says so, and the next hello or resync asks again.
    }
  }

  #load() {
    this.watchlist.select(this.symbol);
    this.alerts.show(this.symbol);
    this.loading = this.chart.load(this.symbol, this.market(this.symbol), this.interval);
  }

  #draw() {
    const stock = this.stock(this.symbol);
    if (!stock || !this.isShown || !this.hello) return; // No price without its origin.
    const at = this.#now(stock);
    if (at) for (const market of this.markets) this.days.cover(at, at, market);
    const session = this.sessionOf(stock);
    showQuote(stock, this.hello, session, sessionName(session));
  }
}
