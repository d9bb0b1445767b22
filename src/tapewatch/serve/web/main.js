// The page, wired together: one stream, four views, and an address that says what is shown.

import { forgetForeseen, get } from "./api.js";
import { isInterval } from "./candles.js";
import { byId, make } from "./dom.js";
import { firstStocks } from "./first.js";
import { Health, delayOf } from "./health.js";
import { listenToKeys } from "./keys.js";
import { Overview } from "./overview.js";
import { SILENCE_MS, Stream } from "./stream.js";
import { VIEWS, Views, readAddress, writeAddress } from "./views.js";

const LATENCIES_MAX = 2_000;

const selected = { view: "overview", symbol: null, interval: "1m", parts: [] };
const latencies = [];
const links = new Map();
let events = 0;
let hasBegun = false;

const header = new Health();
const overview = new Overview((wanted) => show(wanted));
const views = new Views({
  go,
  choose: (symbol) => show({ symbol }),
  symbols: () => overview.symbols,
  marketOf: (symbol) => overview.market(symbol),
  hello: () => overview.hello ?? {},
});

const stream = new Stream({
  found: () => header.found(),
  lost: (since) => header.lost(since),
  failed: () => ask("/api/v1/status"),
  status(status) {
    header.update(status);
    if (overview.hello) overview.hello.delay_ms = delayOf(status);
    views.tell("status", status);
  },
  hello(hello) {
    header.hello(hello);
    overview.greet(hello);
    views.tell("refetch");
  },
  resync() {
    overview.refetch();
    views.tell("refetch");
  },
  alert(alert) {
    overview.alert(alert);
    views.tell("alert", alert);
  },
  bar(bars) {
    overview.bar(bars);
    views.tell("bar", bars);
  },
  price: takePrices,
});

start();

async function start() {
  byId("watch-empty").hidden = true;
  for (const [view, name] of VIEWS) {
    const link = make("a", "", name);
    links.set(view, link);
    byId("views").append(link);
  }
  listenToKeys({ views: VIEWS.map(([, name]) => name), go: (place) => go(addressOf(VIEWS[place][0])) });
  follow();
  addEventListener("hashchange", follow);
  const stocks = await firstStocks;
  if (stocks) takePrices(stocks); // The chart takes the candles that were foreseen, before the stream is there.
  forgetForeseen();
  hasBegun = true;
  stream.open(selected.symbol);
}

/** A stream cannot say that it was refused for want of a token, a question can: it asks the person. */
async function ask(path) {
  try {
    return await get(path);
  } catch {
    return null; // No answer at all: the stream tries again, and the banner says so.
  }
}

/** Go to an address: go("#/alerts/ID"). */
function go(address) {
  location.hash = address;
}

/** Show what the address says. */
function follow() {
  const { view, parts } = readAddress(location.hash);
  if (view === "alerts" || view === "health") {
    show({ view, parts });
    return;
  }
  const [symbol, interval] = parts;
  show({ view, parts: [], symbol: symbol || selected.symbol, interval: isInterval(interval) ? interval : selected.interval });
}

function show(wanted) {
  const before = { ...selected };
  Object.assign(selected, wanted);
  const { view, symbol, interval, parts } = selected;
  history.replaceState(null, "", view === "alerts" ? writeAddress(view, ...parts) : addressOf(view));
  for (const [name, link] of links) {
    link.href = addressOf(name);
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  views.show(view, { symbol, interval, parts });
  if (view === "overview") overview.show({ symbol, interval });
  else overview.hide();
  if (symbol && symbol !== before.symbol && hasBegun) stream.open(symbol); // Bars come for one symbol.
}

/** ``#/overview/AAPL/5m``: what is shown, so that it can be kept and sent to others. */
function addressOf(view) {
  const { symbol, interval } = selected;
  if (view === "overview") return symbol ? writeAddress(view, symbol, interval) : writeAddress(view);
  return view === "technical" && symbol ? writeAddress(view, symbol) : writeAddress(view);
}

function takePrices(stocks) {
  events += 1;
  overview.price(stocks);
  if (stocks.length && (!selected.symbol || !overview.stock(selected.symbol))) show({ symbol: overview.symbols[0] });
  views.tell("price", stocks);
  const newest = Math.max(0, ...stocks.map(({ received_at: at }) => Date.parse(at) || 0));
  if (newest) latencies.push(Date.now() - newest);
  if (latencies.length > LATENCIES_MAX) latencies.splice(0, LATENCIES_MAX / 2);
}

/** For tests and measurements; reads only. */
window.tapewatch = Object.freeze({
  silenceMs: SILENCE_MS,
  get connected() { return stream.connected; },
  get view() { return selected.view; },
  get selected() { return { view: selected.view, symbol: selected.symbol, interval: selected.interval }; },
  get symbols() { return [...overview.watchlist.rows.keys()]; },
  get order() { return overview.watchlist.shown; },
  get bars() { return overview.chart.times.length; },
  get marks() { return overview.chart.marks; },
  get chart() { return overview.chart.probe; },
  get alertsLoaded() { return overview.alertsLoaded; },
  get alerts() { return overview.alerts.list.map((alert) => ({ ...alert })); },
  get priceEvents() { return events; },
  get latencies() { return [...latencies]; },
  get technical() { return views.probe("technical"); },
  get alertsView() { return views.probe("alerts"); },
  stock: (symbol) => ({ ...overview.stock(symbol) }),
  pan: (bars) => overview.chart.pan(bars),
  glance: (symbol) => overview.watchlist.probe(symbol),
  probe: (name) => (name === "overview" ? overview.chart.probe : views.probe(name)),
});
