// The Alerts view: a live table with filters, one alert in full beside it, and the answer to "why did nothing fire?".
//
// The address says what is open: #/alerts, #/alerts/ALERT_ID, #/explain/AAPL/2026-11-20T15:42.

import { AlertDetail } from "./alert_detail.js";
import { LifeStrip } from "./alert_life.js";
import { KINDS, kindOf, moment } from "./alert_words.js";
import { get } from "./api.js";
import { batched, make, setData, setText } from "./dom.js";
import { ExplainPanel } from "./explain_panel.js";
import * as format from "./format.js";
import { readAddress } from "./views.js";

const PAGE = 100;
const STATUSES = ["provisional", "confirmed", "retracted"];
const COLUMNS = ["Time", "Symbol", "Alert", "Status", "Price", "Against", "By"];

const isLater = (a, b) => Date.parse(a.decided_at) > Date.parse(b.decided_at);

export class AlertsView {
  /** ``context``: marketOf(symbol), symbols(), go(address). */
  constructor(box, context) {
    Object.assign(this, { box, context, alerts: new Map(), rows: new Map(), open: null, asked: 0 });
    Object.assign(this, { filters: {}, newestFirst: true, isLoaded: false, isLast: false, error: null });
    this.draw = batched(() => this.#draw());
    this.#build();
  }

  /** It became visible, or another alert or minute is asked for: the address says which. */
  show() {
    const { parts } = readAddress(location.hash);
    this.isShown = true;
    this.life.show();
    if (!this.isLoaded) this.refetch();
    this.#offerSymbols();
    if (parts[0] === "explain") this.#openExplain(parts[1], parts[2]);
    else if (parts[0]) this.#openAlert(parts[0]);
    else this.#close();
  }

  hide() {
    this.isShown = false;
    this.life.hide();
  }

  /** A new alert, or a new state of one. */
  alert(alert) {
    const known = this.alerts.get(alert.alert_id);
    if (known && isLater(known, alert)) return;
    if (!known && !this.#isWanted(alert)) return;
    this.alerts.set(alert.alert_id, { ...known, ...alert });
    this.fresh = alert.alert_id;
    if (this.open === alert.alert_id) this.detail.load(alert.alert_id);
    this.draw();
  }

  /** Fetch again what is shown; what was loaded of older pages stays. */
  async refetch() {
    const asked = ++this.asked;
    try {
      const page = await get(this.#question());
      if (asked !== this.asked) return;
      const known = this.isLoaded ? this.alerts : new Map();
      this.alerts = new Map(page.map((alert) => [alert.alert_id, alert]));
      const oldest = page.length === PAGE ? Date.parse(page.at(-1).triggered_at) : Infinity;
      for (const [id, alert] of known) {
        const theirs = this.alerts.get(id);
        const isOlder = Date.parse(alert.triggered_at) <= oldest && page.length === PAGE;
        if (theirs ? isLater(alert, theirs) : isOlder || this.#isNewer(alert, page)) this.alerts.set(id, alert);
      }
      if (!this.isLoaded || page.length < PAGE) this.isLast = page.length < PAGE;
      Object.assign(this, { isLoaded: true, error: null });
    } catch (error) {
      if (asked !== this.asked) return;
      this.error = error.message;
    }
    this.draw();
    if (this.open && this.isShown) this.detail.load(this.open);
  }

  /** For tests: what is listed, and what is open. */
  get probe() {
    return {
      isLoaded: this.isLoaded, isLast: this.isLast, open: this.open, filters: { ...this.filters },
      alerts: this.#listed().map((alert) => ({ ...alert })), detail: this.detail.probe, explained: this.explain.probe,
      life: this.life.probe,
    };
  }

  // --- building -----------------------------------------------------------------------------------------------

  #build() {
    const view = this.box;
    view.classList.add("alerts-view");
    this.head = make("tr");
    COLUMNS.forEach((name, i) => this.head.append(this.#heading(name, i)));
    this.body = make("tbody");
    this.body.addEventListener("keydown", (event) => this.#key(event));
    this.more = make("button", "more", "Older alerts");
    this.more.type = "button";
    this.more.addEventListener("click", () => this.#older());
    this.empty = make("p", "empty");
    this.count = make("span", "count");
    const caption = make("caption", "unseen", "Alerts. Arrow keys move between them, Enter opens one, Escape closes it.");
    const table = make("table", "", caption, make("thead", "", this.head), this.body);
    const why = make("a", "why", "Why did nothing fire?");
    why.href = "#/explain";
    const head = make("div", "panel-head", make("h2", "", "Alerts"), this.count, why);
    this.life = new LifeStrip(this.context, () => [...this.rule.options].map((option) => option.value).filter(Boolean));
    this.list = make(
      "section", "panel alert-list", head, this.life.root, this.#buildFilters(), make("div", "scroll", table, this.empty, this.more),
    );
    this.list.setAttribute("aria-label", "List of alerts");
    this.list.lastChild.addEventListener("scroll", () => this.#scrolled());
    this.side = make("section", "panel alert-side");
    this.side.setAttribute("aria-label", "Details");
    this.side.tabIndex = -1;
    this.side.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#leave();
    });
    const shared = { ...this.context, close: () => this.#leave(), changed: () => this.life.load() };
    this.detail = new AlertDetail(shared);
    this.explain = new ExplainPanel(shared);
    view.append(this.list, this.side);
  }

  #heading(name, i) {
    const cell = make("th", i > 3 ? "num" : "text");
    cell.scope = "col";
    if (i > 0) {
      cell.append(name);
      return cell;
    }
    const button = make("button", "", name);
    button.type = "button";
    button.addEventListener("click", () => {
      this.newestFirst = !this.newestFirst;
      this.draw();
    });
    cell.append(button);
    this.timeHead = cell;
    return cell;
  }

  #buildFilters() {
    const form = make("form", "alert-filters");
    form.setAttribute("aria-label", "Which alerts");
    form.addEventListener("submit", (event) => event.preventDefault());
    this.symbols = make("datalist");
    this.symbols.id = "alert-symbols";
    const symbol = field("input", "Symbol", { type: "search", placeholder: "All symbols" });
    symbol.setAttribute("list", "alert-symbols");
    const kind = choice("Kind", [["", "All kinds"], ...Object.entries(KINDS).map(([key, [name]]) => [key, name])]);
    this.rule = choice("Rule", [["", "All rules"]]);
    const status = choice("Status", [["", "All states"], ...STATUSES.map((name) => [name, name])]);
    const from = field("input", "From, New York time", { type: "datetime-local" });
    this.clear = make("button", "clear", "Clear");
    this.clear.type = "button";
    const fields = { symbol, kind, rule: this.rule, status, from };
    const read = () => {
      this.filters = {};
      for (const [name, input] of Object.entries(fields)) if (input.value.trim()) this.filters[name] = input.value.trim();
      Object.assign(this, { isLoaded: false, isLast: false });
      this.refetch();
    };
    for (const input of Object.values(fields)) input.addEventListener("change", read);
    this.clear.addEventListener("click", () => {
      for (const input of Object.values(fields)) input.value = "";
      read();
    });
    const since = make("label", "since", make("span", "", "From"), from);
    form.append(symbol, kind, this.rule, status, since, this.clear, this.symbols);
    return form;
  }

  #offerSymbols() {
    const names = this.context.symbols();
    if (names.length !== this.symbols.childElementCount) {
      this.symbols.replaceChildren(...names.map((name) => Object.assign(make("option"), { value: name })));
    }
  }

  // --- asking -------------------------------------------------------------------------------------------------

  #question(before) {
    const { from, symbol, ...others } = this.filters;
    const asked = new URLSearchParams({ ...others, limit: PAGE });
    if (symbol) asked.set("symbol", symbol.toUpperCase());
    if (from) asked.set("from", new Date(moment(from, "stocks")).toISOString());
    if (before) asked.set("before", before);
    return `/api/v1/alerts?${asked}`;
  }

  async #older() {
    if (this.isAsking || this.isLast || !this.isLoaded) return;
    this.isAsking = true;
    const [asked, size] = [this.asked, this.alerts.size];
    const oldest = Math.min(...[...this.alerts.values()].map((alert) => Date.parse(alert.triggered_at)));
    try {
      // One millisecond more, since several may be of the same one; those that are known come twice.
      const page = await get(this.#question(oldest + 1));
      if (asked !== this.asked) return;
      for (const alert of page) if (!this.alerts.has(alert.alert_id)) this.alerts.set(alert.alert_id, alert);
      this.isLast = page.length < PAGE || this.alerts.size === size;
      this.error = null;
    } catch (error) {
      this.error = error.message;
    } finally {
      this.isAsking = false;
      this.draw();
    }
  }

  #scrolled() {
    const { scrollTop, clientHeight, scrollHeight } = this.list.lastChild;
    if (this.newestFirst && scrollTop > 0 && scrollHeight - scrollTop - clientHeight < 200) this.#older();
  }

  #isWanted(alert) {
    const { symbol, kind, rule, status, from } = this.filters;
    return (!symbol || alert.symbol === symbol.toUpperCase()) && (!kind || alert.kind === kind)
      && (!rule || alert.rule === rule) && (!status || alert.status === status)
      && (!from || Date.parse(alert.triggered_at) >= moment(from, "stocks"));
  }

  /** What the stream brought while the page of answers was on its way. */
  #isNewer(alert, page) {
    return this.#isWanted(alert) && (!page.length || Date.parse(alert.triggered_at) > Date.parse(page[0].triggered_at));
  }

  // --- the table ----------------------------------------------------------------------------------------------

  #listed() {
    const listed = [...this.alerts.values()]
      .filter((alert) => this.#isWanted(alert))
      .sort((a, b) => Date.parse(b.triggered_at) - Date.parse(a.triggered_at));
    return this.newestFirst ? listed : listed.reverse();
  }

  #draw() {
    const listed = this.#listed();
    this.timeHead.setAttribute("aria-sort", this.newestFirst ? "descending" : "ascending");
    let place = this.body.firstElementChild;
    const kept = new Set();
    for (const alert of listed) {
      const row = this.#row(alert);
      kept.add(row);
      if (row === place) place = place.nextElementSibling;
      else this.body.insertBefore(row, place);
    }
    for (const row of [...this.body.children]) if (!kept.has(row)) row.remove();
    for (const id of this.rows.keys()) if (!this.alerts.has(id)) this.rows.delete(id);
    this.#focusable();
    this.#offerRules();
    setText(this.count, listed.length ? `${listed.length}${this.isLast ? "" : "+"}` : "");
    this.clear.hidden = !Object.keys(this.filters).length;
    this.more.hidden = this.isLast || !listed.length || !this.isLoaded;
    this.head.closest("table").hidden = !listed.length;
    this.empty.hidden = listed.length > 0 && !this.error;
    setText(this.empty, this.#nothing());
  }

  #nothing() {
    if (this.error) return this.error;
    if (!this.isLoaded) return "Asking for the alerts …";
    if (Object.keys(this.filters).length) return "Nothing matches. Clear a filter to see more.";
    return "No alerts yet: a breakout shows here the moment it happens.";
  }

  #row(alert) {
    let row = this.rows.get(alert.alert_id);
    if (!row) {
      row = this.#makeRow(alert);
      this.rows.set(alert.alert_id, row);
    }
    setData(row, "status", alert.status);
    setText(row.querySelector(".pill"), alert.status);
    if (this.open === alert.alert_id) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
    if (this.fresh === alert.alert_id) {
      row.dataset.fresh = row.dataset.fresh === "a" ? "b" : "a";
      this.fresh = null;
    }
    return row;
  }

  #makeRow(alert) {
    const [kind, sign, way] = kindOf(alert);
    const market = this.context.marketOf(alert.symbol);
    const at = Date.parse(alert.triggered_at);
    const time = make("time", "", make("span", "when-day", format.day(at, market)), `${format.clock(at, market)} ${format.zoneMark(market)}`);
    time.dateTime = alert.triggered_at;
    const pick = make("button", "pick", alert.symbol);
    pick.type = "button";
    pick.setAttribute("aria-label", `${alert.symbol}, ${kind}, ${format.day(at, market)} ${format.clock(at, market)}`);
    const isVolume = alert.direction === 0;
    const by = alert.line && alert.price != null && !isVolume ? `${format.signed((alert.price / alert.line - 1) * 1e4, 1)} bps` : "–";
    const row = make(
      "tr", "",
      make("td", "text when", time),
      make("td", "text", pick),
      make("td", "text what", make("i", "sign", sign), make("span", "", kind)),
      make("td", "text", make("span", "pill")),
      make("td", "num", format.price(alert.price, market)),
      make("td", "num", isVolume ? `vol ${format.short(alert.line)}` : format.price(alert.line, market)),
      make("td", "num by", by),
    );
    row.dataset.way = way;
    row.dataset.id = alert.alert_id;
    row.addEventListener("click", () => this.context.go(`#/alerts/${encodeURIComponent(alert.alert_id)}`));
    return row;
  }

  /** One row can be reached with Tab; the arrows move from there. */
  #focusable() {
    const rows = [...this.body.children];
    const focused = rows.find((row) => row.contains(document.activeElement));
    const wanted = focused ?? rows.find((row) => row.dataset.id === this.open) ?? rows[0];
    for (const row of rows) row.querySelector(".pick").tabIndex = row === wanted ? 0 : -1;
  }

  #offerRules() {
    const known = new Set([...this.rule.options].map((option) => option.value));
    for (const { rule } of this.alerts.values()) {
      if (known.has(rule)) continue;
      known.add(rule);
      this.rule.append(new Option(rule, rule));
    }
  }

  #key(event) {
    const row = event.target.closest("tr");
    const steps = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling };
    steps.Home = this.body.firstElementChild;
    steps.End = this.body.lastElementChild;
    if (event.key === "Escape") this.#leave();
    if (!(event.key in steps)) return;
    event.preventDefault();
    steps[event.key]?.querySelector(".pick").focus();
    this.#focusable();
  }

  // --- what is open -------------------------------------------------------------------------------------------

  #openAlert(id) {
    const other = this.open !== id;
    this.open = id;
    setData(this.box, "open", "alert");
    if (this.side.firstChild !== this.detail.root) this.side.replaceChildren(this.detail.root);
    if (other) this.side.scrollTop = 0;
    this.detail.load(id, this.alerts.get(id));
    this.draw();
  }

  #openExplain(symbol, minute) {
    this.open = null;
    setData(this.box, "open", "explain");
    if (this.side.firstChild !== this.explain.root) this.side.replaceChildren(this.explain.root);
    this.explain.load(symbol, minute);
    this.draw();
  }

  #close() {
    const was = this.open;
    this.open = null;
    setData(this.box, "open", "none");
    if (this.side.firstChild !== this.explain.root) this.side.replaceChildren(this.explain.root);
    this.explain.load(null, null, { canClose: false });
    this.draw();
    if (was) this.rows.get(was)?.querySelector(".pick").focus();
  }

  #leave() {
    if (this.box.dataset.open !== "none") this.context.go("#/alerts");
  }
}

function field(tag, label, values) {
  const input = Object.assign(make(tag, "filter"), values);
  input.setAttribute("aria-label", label);
  return input;
}

function choice(label, options) {
  const select = field("select", label, {});
  select.append(...options.map(([value, name]) => new Option(name, value)));
  return select;
}
