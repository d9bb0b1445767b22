// "Why did nothing fire?": a symbol and a minute in, one sentence and its numbers for each rule out.

import { exact, kindOf, minuteClock, minuteText, pairs, section, table } from "./alert_words.js";
import { get } from "./api.js";
import { make, setText } from "./dom.js";
import * as format from "./format.js";
import { MomentChart } from "./moment_chart.js";

const MINUTE_MS = 60_000;
const SESSIONS = { pre: "pre-market", regular: "regular session", post: "after hours", closed: "market closed", open: "always open" };
const GRADES = {
  A: "no gap, hardly anything late", B: "no gap, but more than 1 % late", C: "a gap of less than 10 s", D: "a gap of 10 s or more",
};

export class ExplainPanel {
  /** ``context``: marketOf(symbol), symbols(), go(address), close(). */
  constructor(context) {
    this.context = context;
    this.chart = new MomentChart();
    this.asked = 0;
    this.found = null;
    this.#build();
  }

  get probe() {
    return { found: this.found, error: this.error.hidden ? null : this.error.textContent };
  }

  /** Explain; without a symbol or a minute only the form is there. */
  async load(symbol, minute, { canClose = true } = {}) {
    const asked = ++this.asked;
    const names = this.context.symbols();
    if (names.length !== this.options.childElementCount) {
      this.options.replaceChildren(...names.map((name) => Object.assign(make("option"), { value: name })));
    }
    this.close.hidden = !canClose;
    if (!symbol || !minute) {
      this.#nothing(symbol);
      return;
    }
    this.symbol.value = symbol;
    this.minute.value = minute.slice(0, 16);
    this.#zone();
    this.answer.setAttribute("aria-busy", "true");
    try {
      const found = await get(`/api/v1/explain?symbol=${encodeURIComponent(symbol)}&minute=${encodeURIComponent(minute)}`);
      if (asked === this.asked) this.#show(found);
    } catch (error) {
      if (asked === this.asked) this.#fail(error.message);
    }
  }

  // --- the form -----------------------------------------------------------------------------------------------

  #build() {
    this.symbol = Object.assign(make("input", "filter"), { placeholder: "AAPL", required: true, autocomplete: "off", id: "explain-symbol" });
    this.symbol.setAttribute("list", "explain-symbols");
    this.symbol.addEventListener("input", () => this.#zone());
    this.minute = Object.assign(make("input", "filter"), { type: "datetime-local", required: true, id: "explain-minute" });
    this.zoneName = make("span", "zone-name", "New York time");
    this.options = make("datalist");
    this.options.id = "explain-symbols";
    const go = Object.assign(make("button", "button solid", "Explain"), { type: "submit" });
    const label = (name, input, more = "") => {
      const text = make("label", "", name, " ", more);
      text.htmlFor = input.id;
      return make("div", "field", text, input);
    };
    const form = make("form", "explain-form", label("Symbol", this.symbol), label("Minute,", this.minute, this.zoneName), go, this.options);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask(this.minute.value);
    });
    this.error = make("p", "explain-error");
    this.error.setAttribute("role", "alert");
    this.error.hidden = true;
    this.answer = make("div", "answer");
    this.answer.setAttribute("aria-live", "polite");
    this.close = Object.assign(make("button", "close", "×"), { type: "button", title: "Close (Escape)" });
    this.close.setAttribute("aria-label", "Close");
    this.close.addEventListener("click", () => this.context.close());
    const head = make("div", "panel-head", make("h2", "", "Explain a minute"), this.close);
    this.root = make("div", "detail explain", head, make("div", "scroll detail-body", form, this.error, this.answer));
  }

  #ask(minute) {
    const symbol = this.symbol.value.trim().toUpperCase();
    const address = `#/explain/${encodeURIComponent(symbol)}/${minute.slice(0, 16)}`;
    if (location.hash === address) this.load(symbol, minute);
    else this.context.go(address);
  }

  #market() {
    return this.context.marketOf(this.symbol.value.trim().toUpperCase());
  }

  #zone() {
    setText(this.zoneName, `${format.zoneName(this.#market())} time`);
  }

  #nothing(symbol) {
    Object.assign(this, { found: null });
    this.error.hidden = true;
    this.answer.removeAttribute("aria-busy");
    if (symbol) this.symbol.value = symbol;
    else this.symbol.value ||= this.context.symbols()[0] ?? "";
    if (!this.minute.value) this.minute.value = minuteText(Date.now() - 2 * MINUTE_MS, this.#market());
    this.#zone();
    this.answer.replaceChildren(
      make("p", "hint", "Why did nothing fire? Choose a symbol and a minute: for each rule it says what was decided and why, computed anew from the log."),
      make("p", "hint", "Or open an alert of the list, to see what it was decided from."),
    );
  }

  #fail(text) {
    this.found = null;
    this.answer.removeAttribute("aria-busy");
    this.answer.replaceChildren();
    setText(this.error, text);
    this.error.hidden = false;
  }

  // --- the answer ---------------------------------------------------------------------------------------------

  #show(found) {
    this.found = found;
    this.error.hidden = true;
    this.answer.removeAttribute("aria-busy");
    const { market } = found;
    const at = Date.parse(found.minute);
    this.symbol.value = found.symbol;
    this.minute.value = minuteText(at, market);
    this.#zone();
    const step = (by, name, title) => {
      const button = Object.assign(make("button", "step", name), { type: "button", title });
      button.setAttribute("aria-label", title);
      button.addEventListener("click", () => this.#ask(minuteText(at + by * MINUTE_MS, market)));
      return button;
    };
    const title = make(
      "div", "answer-head", step(-1, "‹", "The minute before"),
      make("h3", "", `${found.symbol} ${minuteClock(at, market)} ${format.zoneMark(market)}`, make("small", "", format.day(at, market))),
      step(1, "›", "The minute after"),
    );
    this.answer.replaceChildren(
      title, marks(found), ...found.rules.map((rule) => ruleCard(rule, market)), this.chart.root, minuteFacts(found), foot(found, market),
    );
    const fired = found.rules.find((rule) => rule.outcome === "fired");
    this.chart.load(found.symbol, market, at, { kind: fired?.kind ?? null });
  }
}

function marks(found) {
  const chips = [SESSIONS[found.session] ?? found.session, `${found.trades} ${found.trades === 1 ? "trade" : "trades"}`];
  const box = make("p", "answer-marks", ...chips.map((text) => make("span", "answer-mark", text)));
  if (found.grade) {
    const grade = make("span", `answer-mark grade-${found.grade}`, `data ${found.grade}`);
    grade.title = GRADES[found.grade];
    box.append(grade);
  }
  if (found.state !== "past") box.append(make("span", "answer-mark wait", found.state === "running" ? "still running" : "not yet"));
  return box;
}

function ruleCard(rule, market) {
  const [name, sign, way] = kindOf(rule);
  const head = make("h4", "", make("i", "sign", sign), make("span", "", name), make("span", "outcome", rule.outcome));
  const card = make("article", "rule-card", head, make("p", "sentence", rule.sentence));
  card.dataset.way = way;
  card.dataset.outcome = rule.outcome.replace(" ", "-");
  if (rule.alert_id) {
    const link = make("a", "", "Open the alert");
    link.href = `#/alerts/${encodeURIComponent(rule.alert_id)}`;
    card.append(link);
  }
  const details = make("details", "", make("summary", "", "Numbers"));
  details.append(...(rule.direction === 0 ? volumeFacts(rule.facts, market) : crossFacts(rule, market)));
  card.append(details);
  return card;
}

const SIDES = { 1: "above", "-1": "below", 0: "not known" };

function crossFacts({ facts }, market) {
  const priceAt = (one) => (one ? `${format.price(one.price, market)} at ${exact(one.time_ms, market)}` : "–");
  const since = facts.side_since_ms ? `, since ${exact(facts.side_since_ms, market)}` : "";
  const entries = [
    ["Side before", `${SIDES[facts.side_before] ?? "–"}${since}`], ["Side after", SIDES[facts.side_after] ?? "–"],
    ["Prices", String(facts.prices ?? "–")], ["Band", `${facts.band_bps} bps`],
    ["Cooldown", facts.cooldown_ms ? format.age(facts.cooldown_ms / 1000) : "none"],
    ["Lowest", priceAt(facts.lowest)], ["Highest", priceAt(facts.highest)],
  ];
  if (facts.nearest) {
    const { bps, edge } = facts.nearest;
    entries.push(["Nearest to the edge", `${priceAt(facts.nearest)}`], ["The edge then", `${format.price(edge, market)}, ${format.signed(-bps, 1)} bps beyond it`]);
  }
  const parts = [pairs(entries)];
  if (facts.window?.length) {
    const rows = facts.window.map(({ minute_ms: ms, close, own }) => [minuteClock(ms, market), format.price(close, market), own ? "its own" : close == null ? "lacking" : "carried on"]);
    parts.push(table(["Minute", "Close", "From"], rows, "sheet lines"));
  }
  return parts;
}

function volumeFacts(facts, market) {
  const limit = facts.absolute == null ? `${facts.multiple} × mean` : `${facts.multiple} × mean, or ${format.short(facts.absolute)}`;
  const box = pairs([
    ["Volume", format.short(facts.volume)], ["Limit", facts.limit == null ? "none yet" : `${format.short(facts.limit)} (${limit})`],
    ["Mean before", facts.mean == null ? "–" : format.short(facts.mean)],
    ["Minutes with trades before", `${facts.before?.length ?? 0} (at least ${facts.panes_min})`],
  ]);
  if (!facts.before?.length) return [box];
  const top = Math.max(facts.limit ?? 0, facts.volume, ...facts.before.map(({ volume }) => volume)) || 1;
  const bars = [...facts.before, { minute_ms: null, volume: facts.volume }].map(({ minute_ms: ms, volume }) => {
    const bar = make("i", ms == null ? "own" : "");
    bar.style.height = `${Math.max(2, (100 * volume) / top)}%`;
    bar.title = `${ms == null ? "This minute" : minuteClock(ms, market)}: ${format.short(volume)}`;
    return bar;
  });
  const plot = make("div", "volumes", ...bars);
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `Volumes of the ${facts.before.length} minutes before, and of this one`);
  if (facts.limit != null) {
    const line = make("span", "limit");
    line.style.bottom = `${(100 * facts.limit) / top}%`;
    plot.append(line);
  }
  return [box, plot];
}

function minuteFacts(found) {
  const { bar, counts, market } = found;
  const price = (value) => format.price(value, market);
  const entries = bar
    ? [["Open", price(bar.open)], ["High", price(bar.high)], ["Low", price(bar.low)], ["Close", price(bar.close)],
      ["Average", price(bar.ma_5min)], ["Volume", format.short(bar.volume)]]
    : [];
  const kinds = [["excluded", "May set no price"], ["late", "Late"], ["future", "From the future"], ["stale", "Older than the newest"]];
  for (const [key, name] of kinds) if (counts?.[key]) entries.push([name, String(counts[key])]);
  if (counts?.gap_ms) entries.push(["Gap", format.milliseconds(counts.gap_ms)]);
  return entries.length ? section("The minute", pairs(entries, "pairs facts-grid")) : make("span");
}

function foot(found, market) {
  const from = Date.parse(found.computed_from);
  const words = make("p", "agreement", found.agreement);
  words.dataset.agrees = String(found.agrees);
  return make("footer", "answer-foot", words, make("p", "note", `Computed from the log since ${format.day(from, market)}, ${exact(from, market)}.`));
}
