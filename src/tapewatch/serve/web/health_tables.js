// The Health view's tables. Only cells whose text has changed are touched.

import { make, setData, setText } from "./dom.js";
import * as format from "./format.js";
import { span } from "./health_words.js";

/** A panel with a table of these columns; fill it with `fillRows`. */
export function table(title, columns, className) {
  const body = make("tbody");
  const head = make("tr", "", ...columns.map((name, i) => make("th", i ? "num" : "text", name || make("span", "unseen", "Value"))));
  const empty = make("p", "empty");
  const element = make("table", "", make("caption", "unseen", title), make("thead", "", head), body);
  if (columns.every((name) => !name)) element.tHead.classList.add("unseen");
  const scroll = make("div", "scroll", element, empty);
  const box = make("section", `panel plain ${className}`, make("div", "panel-head", make("h2", "", title)), scroll);
  box.setAttribute("aria-label", title);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", title);
  return { box, body, element, empty };
}

export function fillRows({ body, element, empty }, rows, whenNone = "") {
  element.hidden = !rows.length;
  empty.hidden = rows.length > 0;
  setText(empty, whenNone);
  while (body.childElementCount > rows.length) body.lastChild.remove();
  rows.forEach((cells, i) => {
    let row = body.children[i];
    if (!row) {
      row = make("tr", "", ...cells.map((_, place) => {
        const cell = make(place ? "td" : "th", place ? "num" : "text");
        if (!place) cell.scope = "row";
        return cell;
      }));
      body.append(row);
    }
    cells.forEach((text, place) => setText(row.children[place], text));
  });
}

const COLUMNS = [
  ["symbol", "Symbol", "Symbol"],
  ["watermark", "Watermark", "Event time up to which all is computed"],
  ["last", "Last trade", "Event time of the newest trade that set the price"],
  ["trades", "Trades", "Trades that count"],
  ["late", "Late", "Came after their window was final: not counted"],
  ["future", "Future", "Stamped from the future: not counted"],
  ["ineligible", "Ineligible", "May not set a price, by their conditions"],
  ["unknown_conditions", "Unknown", "Trades with a condition that no table knows"],
];
const TIMES = new Set(["watermark", "last"]);
const ROW_PX = 32;
const AROUND = 6;

export class SymbolTable {
  constructor() {
    this.rows = new Map();
    this.order = [];
    this.column = "symbol";
    this.isDown = false;
    this.now = null;
    this.heads = new Map();
    const head = make("tr");
    for (const [name, label, title] of COLUMNS) {
      const button = make("button", "", label);
      button.type = "button";
      button.title = title;
      button.addEventListener("click", () => this.#sortBy(name));
      const cell = make("th", name === "symbol" ? "text" : "num", button);
      cell.scope = "col";
      this.heads.set(name, cell);
      head.append(cell);
    }
    this.count = make("span", "count");
    this.body = make("tbody");
    this.empty = make("p", "empty");
    this.table = make("table", "", make("caption", "unseen", "Symbols: how far each is, and its counters"), make("thead", "", head), this.body);
    this.scroll = make("div", "scroll", this.table, this.empty);
    this.scroll.tabIndex = 0;
    this.scroll.setAttribute("role", "region");
    this.scroll.setAttribute("aria-label", "Symbols");
    this.scroll.addEventListener("scroll", () => this.tick(this.now), { passive: true });
    this.box = make("section", "panel plain by-symbol", make("div", "panel-head", make("h2", "", "Symbols"), this.count), this.scroll);
    this.box.setAttribute("aria-label", "Symbols");
    this.#mark();
  }

  /** ``symbols`` of the API, null while they cannot be asked for: then the last known stay. */
  show(symbols, now) {
    setText(this.empty, symbols ? "No trades yet: each symbol appears here with its first trade." : "The database does not answer.");
    if (symbols) {
      for (const symbol of symbols) this.#update(symbol);
      const known = new Set(symbols.map(({ symbol }) => symbol));
      for (const [name, { element }] of this.rows) {
        if (known.has(name)) continue;
        element.remove();
        this.rows.delete(name);
      }
    }
    this.table.hidden = !this.rows.size;
    this.empty.hidden = this.rows.size > 0;
    setData(this.box, "age", symbols ? "new" : "old");
    const many = `${this.rows.size} ${this.rows.size === 1 ? "symbol" : "symbols"}`;
    setText(this.count, symbols ? many : this.rows.size ? `${many}, as last known: the database does not answer` : "");
    this.#sort();
    this.tick(now);
  }

  /** Ages of the rows that can be seen; ``now`` is null where times have no age. */
  tick(now) {
    this.now = now;
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW_PX) - AROUND);
    const last = first + Math.ceil(this.scroll.clientHeight / ROW_PX) + 2 * AROUND;
    for (const name of this.order.slice(first, last)) {
      const { data, cells } = this.rows.get(name);
      setText(cells[1], when(data.watermark, data.market, now));
      setText(cells[2], when(data.last, data.market, now));
    }
  }

  #update(symbol) {
    const data = { ...symbol, last: symbol.last_trade ?? symbol.timestamp ?? null };
    let row = this.rows.get(symbol.symbol);
    if (!row) {
      const cells = COLUMNS.map(([name]) => make(name === "symbol" ? "th" : "td", name === "symbol" ? "text" : "num"));
      cells[0].scope = "row";
      row = { element: make("tr", "", ...cells), cells };
      this.rows.set(symbol.symbol, row);
    }
    row.data = data;
    COLUMNS.forEach(([name], i) => {
      if (name === "symbol") setText(row.cells[i], data.symbol);
      else if (!TIMES.has(name)) setText(row.cells[i], data[name] == null ? "–" : data[name].toLocaleString("en-US"));
    });
    setData(row.cells[4], "mood", data.late ? "warn" : "");
    setData(row.cells[5], "mood", data.future ? "warn" : "");
    setData(row.cells[7], "mood", data.unknown_conditions ? "warn" : "");
    for (const i of [1, 2]) {
      const at = Date.parse(i === 1 ? data.watermark : data.last);
      const title = Number.isNaN(at) ? "" : `${format.day(at, data.market)} ${format.clock(at, data.market)} ${format.zoneMark(data.market)}`;
      if (row.cells[i].title !== title) row.cells[i].title = title;
    }
  }

  #sortBy(name) {
    this.isDown = name === this.column ? !this.isDown : !TIMES.has(name) && name !== "symbol";
    this.column = name;
    this.#mark();
    this.#sort();
    this.tick(this.now);
  }

  #mark() {
    for (const [name, cell] of this.heads) {
      cell.setAttribute("aria-sort", name !== this.column ? "none" : this.isDown ? "descending" : "ascending");
    }
  }

  #sort() {
    const way = this.isDown ? -1 : 1;
    const value = (name) => this.rows.get(name).data[this.column];
    const order = [...this.rows.keys()].sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      if (left === right || (left == null && right == null)) return a < b ? -1 : 1;
      if (left == null || right == null) return left == null ? 1 : -1;
      return left < right ? -way : way;
    });
    if (order.length === this.order.length && order.every((name, i) => name === this.order[i])) return;
    this.order = order;
    this.body.append(...order.map((name) => this.rows.get(name).element));
  }
}

/** An age, or the time itself where ages say nothing. */
function when(text, market, now) {
  const at = Date.parse(text);
  if (Number.isNaN(at)) return "–";
  if (now === null) return `${format.clock(at, market)} ${format.zoneMark(market)}`;
  return span((now - at) / 1000);
}
