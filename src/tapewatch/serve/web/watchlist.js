// The table of symbols. Rows that cannot be seen are not touched until they can. Since the style sheet makes boxes of its
// rows and cells, what they are in a table is said by their roles.

import { batched, byId, make, setData, setText } from "./dom.js";
import { get } from "./api.js";
import * as format from "./format.js";
import { ageOf, isOld } from "./quote.js";
import { qualityWords } from "./quality.js";
import { sessionName } from "./sessions.js";
import { Sparkline } from "./sparkline.js";

const COLUMNS = [
  ["symbol", "Symbol", "text"],
  ["price", "Last", "num"],
  ["change_percent", "Chg %", "num"],
  ["ma_5min", "Average", "num"],
  ["trend", "", "trend", "Trend"],
  ["spark", "1 h", "spark", "Last hour"],
  ["day_volume", "Volume", "num"],
  ["grade", "Data", "grade", "Data quality"],
  ["session", "Session", "session"],
];
const SESSION_WORDS = { pre: "pre", regular: "open", post: "post", closed: "closed", open: "24 h" };
const OVERVIEW_MS = 15_000;
const RESORT_MS = 1_000;
const FLASH_MS = 400; // A colour that fades is painted in every frame: with many symbols that is all the time.
const UPWARDS = ["symbol", "session"]; // The others are first sorted downwards: the largest, or the worst, on top.
const TRENDS = { BULLISH: ["▲", "up", "above its average"], BEARISH: ["▼", "down", "below its average"] };

export class Watchlist {
  /** ``chosen(symbol)`` is called when one is; ``sessionOf(stock)`` says which session its market is in. */
  constructor(chosen, sessionOf, hello) {
    Object.assign(this, { chosen, sessionOf, hello });
    this.rows = new Map();
    this.selected = null;
    this.sort = { column: "symbol", down: false };
    this.body = byId("watch");
    this.draw = batched(() => this.#draw());
    this.dirty = new Set();
    this.flashing = new Map(); // cell -> when its colour ends
    this.observer = new IntersectionObserver((seen) => this.#seen(seen), { root: byId("watch-scroll") });
    this.#head();
    this.#keys();
    byId("filter").addEventListener("input", () => this.#order(true));
    setInterval(() => {
      this.#order(false);
      for (const row of this.rows.values()) if (row.visible) this.dirty.add(row); // Ages and sessions go on.
      this.draw();
    }, RESORT_MS);
    setInterval(() => document.hidden || this.glance(), OVERVIEW_MS);
    setInterval(() => this.#fade(), FLASH_MS / 4);
  }

  #fade() {
    const now = performance.now();
    for (const [cell, end] of this.flashing) {
      if (end > now) continue;
      this.flashing.delete(cell);
      delete cell.dataset.flash;
    }
  }

  /** Fetch the last hour's closes and the grades. Prices go on by the stream. */
  async glance() {
    let overview;
    try {
      overview = await get("/api/v1/overview");
    } catch {
      return; // Asked again soon.
    }
    for (const seen of overview) {
      const row = this.rows.get(seen.symbol);
      if (!row) continue;
      row.quality = seen;
      row.spark.take(seen);
      this.dirty.add(row);
    }
    this.draw();
  }

  /** Take changed rows of ``/api/v1/stocks``. */
  update(stocks) {
    let added = false;
    for (const stock of stocks) {
      let row = this.rows.get(stock.symbol);
      if (!row) {
        row = this.#row(stock.symbol);
        this.rows.set(stock.symbol, row);
        added = true;
      }
      row.before = row.stock?.price ?? null;
      row.stock = stock;
      row.spark.go(stock.price, Date.parse(stock.timestamp));
      this.dirty.add(row);
    }
    if (added) {
      this.glance();
      this.#order(true);
    }
    this.draw();
  }

  stock(symbol) {
    return this.rows.get(symbol)?.stock ?? null;
  }

  select(symbol) {
    if (symbol === this.selected && this.rows.get(symbol)?.element.hasAttribute("aria-current")) return;
    this.rows.get(this.selected)?.element.removeAttribute("aria-current");
    this.selected = symbol;
    this.rows.get(symbol)?.element.setAttribute("aria-current", "true");
    this.#reveal(symbol);
    this.#focusable();
  }

  /** The symbols in the order of the table, without those filtered out. */
  get shown() {
    return [...this.body.children].filter((row) => !row.hidden).map(({ row }) => row.symbol);
  }

  /** For tests: what is drawn of a symbol. */
  probe(symbol) {
    const row = this.rows.get(symbol);
    if (!row) return null;
    const words = (name) => row.cells[name].textContent;
    return { closes: row.spark.closes && [...row.spark.closes], grade: words("grade"), session: words("session"), price: words("price") };
  }

  /** Say why there is nothing, or nothing more. */
  explain(text) {
    byId("watch-empty").hidden = !text;
    setText(byId("watch-empty"), text ?? "");
  }

  #head() {
    for (const [name, label, kind, title] of COLUMNS) {
      const cell = make("th", kind);
      cell.role = "columnheader";
      cell.dataset.column = name;
      const button = make("button", "", label || make("span", "unseen", title));
      button.type = "button";
      if (title) button.title = title;
      button.addEventListener("click", () => this.#sortBy(name));
      cell.append(button);
      byId("watch-head").append(cell);
    }
    this.#mark();
  }

  #sortBy(name) {
    const again = this.sort.column === name;
    this.sort = { column: name, down: again ? !this.sort.down : !UPWARDS.includes(name) };
    this.#mark();
    this.#order(true);
  }

  #mark() {
    for (const cell of byId("watch-head").children) {
      const sorted = cell.dataset.column === this.sort.column;
      cell.setAttribute("aria-sort", sorted ? (this.sort.down ? "descending" : "ascending") : "none");
    }
  }

  #row(symbol) {
    const element = make("tr");
    element.role = "row";
    const cells = {};
    for (const [name, , kind] of COLUMNS) {
      cells[name] = make("td", kind);
      cells[name].role = "cell";
      element.append(cells[name]);
    }
    const button = make("button", "pick", symbol);
    button.type = "button";
    cells.symbol.append(button);
    button.tabIndex = -1;
    const spark = new Sparkline();
    cells.spark.append(spark.svg);
    element.addEventListener("click", () => this.chosen(symbol));
    const row = { symbol, element, cells, spark, button, visible: false, stock: null, before: null, quality: null };
    element.row = row;
    this.observer.observe(element);
    return row;
  }

  #keys() {
    this.body.addEventListener("keydown", (event) => {
      const rows = [...this.body.children].filter((row) => !row.hidden);
      const place = rows.indexOf(event.target.closest("tr"));
      const steps = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: rows.length - 1 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const next = rows[steps[event.key]];
      if (!next) return;
      next.row.button.focus();
      this.chosen(next.row.symbol);
    });
  }

  /** One row can be reached with Tab; the arrows move from there. */
  #focusable() {
    const shown = [...this.body.children].filter((row) => !row.hidden);
    const wanted = shown.find(({ row }) => row.symbol === this.selected) ?? shown[0];
    if (this.reachable) this.reachable.button.tabIndex = -1;
    this.reachable = wanted?.row;
    if (this.reachable) this.reachable.button.tabIndex = 0;
  }

  /** Scroll the table, and never the page, so that the row can be seen. */
  #reveal(symbol) {
    const row = this.rows.get(symbol)?.element;
    const box = byId("watch-scroll");
    if (!row || !box.clientHeight) return;
    const head = byId("watch-head").offsetHeight;
    if (row.offsetTop < box.scrollTop + head) box.scrollTop = row.offsetTop - head;
    else if (row.offsetTop + row.offsetHeight > box.scrollTop + box.clientHeight) {
      box.scrollTop = row.offsetTop + row.offsetHeight - box.clientHeight;
    }
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      target.row.visible = isIntersecting;
      if (!isIntersecting) continue;
      this.dirty.add(target.row);
    }
    this.draw();
  }

  #draw() {
    for (const row of this.dirty) {
      if (!row.visible || !row.stock) continue;
      this.dirty.delete(row);
      this.#drawRow(row);
    }
  }

  #drawRow({ cells, stock, before, element }) {
    const text = format.price(stock.price, stock.market);
    if (before !== null && cells.price.textContent !== text && cells.price.textContent) {
      setData(cells.price, "flash", stock.price >= before ? "up" : "down");
      this.flashing.set(cells.price, performance.now() + FLASH_MS);
    }
    setText(cells.price, text);
    setText(cells.change_percent, format.signed(stock.change_percent));
    setText(cells.ma_5min, format.price(stock.ma_5min, stock.market));
    setText(cells.day_volume, format.short(stock.day_volume));
    setData(element, "way", stock.change > 0 ? "up" : stock.change < 0 ? "down" : "flat");
    const [mark, way, words] = TRENDS[stock.trend] ?? ["–", "flat", "no average yet"];
    setText(cells.trend, mark);
    setData(cells.trend, "way", way);
    if (cells.trend.title !== words) cells.trend.title = words;
    setData(cells.price, "age", isOld(ageOf(stock, this.hello()), this.sessionOf(stock)) ? "old" : "new");
    this.#drawGrade(element.row);
    element.row.spark.draw();
  }

  #drawGrade({ cells, quality, stock }) {
    const grade = quality?.grade ?? null;
    setText(cells.grade, grade ?? "–");
    setData(cells.grade, "grade", grade ?? "none");
    const words = grade ? `Last minutes: ${qualityWords(quality)}` : "No minute yet";
    if (cells.grade.title !== words) cells.grade.title = words;
    const session = this.sessionOf(stock);
    setText(cells.session, SESSION_WORDS[session] ?? "–");
    setData(cells.session, "session", session ?? "none");
    if (cells.session.title !== sessionName(session)) cells.session.title = sessionName(session);
  }

  #order(changed) {
    const { column, down } = this.sort;
    const wanted = byId("filter").value.trim().toUpperCase();
    if (!changed && column === "symbol") return;
    const others = {
      symbol: (row) => row.symbol, grade: (row) => row.quality?.grade, session: (row) => this.sessionOf(row.stock),
      spark: (row) => row.spark.change,
    };
    const value = others[column] ?? (({ stock }) => stock?.[column]);
    const sorted = [...this.rows.values()].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x == null || y == null) return (x == null) - (y == null);
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1) || (a.symbol < b.symbol ? -1 : 1);
    });
    let place = this.body.firstElementChild;
    let found = 0;
    for (const row of sorted) {
      row.element.hidden = Boolean(wanted) && !row.symbol.includes(wanted);
      found += row.element.hidden ? 0 : 1;
      if (row.element === place) place = place.nextElementSibling;
      else this.body.insertBefore(row.element, place);
    }
    if (!changed) return;
    const all = this.rows.size;
    setText(byId("watch-count"), !all ? "" : found === all ? String(all) : `${found} of ${all}`);
    if (all) this.explain(found ? null : `No symbol has “${wanted}” in its name.`);
    this.#focusable();
  }
}
