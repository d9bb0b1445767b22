// One alert in full: what it is, how it lived, what it was decided from, how fast, and who was told.

import { alertActions } from "./alert_life.js";
import { bps, exact, kindOf, linesOf, minuteText, pairs, section, table } from "./alert_words.js";
import { get } from "./api.js";
import { make } from "./dom.js";
import * as format from "./format.js";
import { MomentChart } from "./moment_chart.js";

const STAGES = [["event", "Event"], ["received", "Received"], ["logged", "Logged"], ["decided", "Decided"], ["stored", "Stored"], ["delivered", "Delivered"]];
const STAGE_MS_MAX = 3_600_000;
/** A longer stage is no latency: it is a recording, or what a warm-up fetched. */

export class AlertDetail {
  /** ``context``: marketOf(symbol), go(address), close(). */
  constructor(context) {
    this.context = context;
    this.root = make("div", "detail");
    this.chart = new MomentChart();
    this.asked = 0;
    this.id = null;
    this.alert = null;
  }

  get probe() {
    return { id: this.id, alert: this.alert && { ...this.alert }, passport: this.passport ?? null };
  }

  /** Show the alert; ``known`` at once, if it is, and as the server has it when it has answered. */
  async load(id, known) {
    const asked = ++this.asked;
    if (id !== this.id) {
      Object.assign(this, { id, alert: null });
      if (known) this.#show(known);
      else this.#say("Asking for the alert …");
    }
    try {
      const alert = await get(`/api/v1/alerts/${encodeURIComponent(id)}`);
      if (asked === this.asked) this.#show(alert);
    } catch (error) {
      if (asked === this.asked && !this.alert) this.#say(error.message);
    }
  }

  /** Somebody has acknowledged or muted it. */
  async #changed(id) {
    this.context.changed?.();
    await this.load(id);
  }

  #say(text) {
    const words = make("p", "empty", text);
    words.setAttribute("role", "status");
    this.root.replaceChildren(this.#head("Alert"), words);
  }

  #head(...title) {
    const close = make("button", "close", "×");
    close.type = "button";
    close.setAttribute("aria-label", "Close");
    close.title = "Close (Escape)";
    close.addEventListener("click", () => this.context.close());
    return make("div", "panel-head", make("h2", "", ...title), close);
  }

  /** Nothing is made anew that is the same: a button that is pressed, or has the focus, stays. */
  #show(alert) {
    const market = this.context.marketOf(alert.symbol);
    const at = Date.parse(alert.triggered_at);
    const drawn = JSON.stringify([market, alert]);
    if (!this.alert || drawn !== this.drawn) this.#draw(alert, market, at);
    Object.assign(this, { alert, drawn });
    this.chart.load(alert.symbol, market, at, { kind: alert.kind, status: alert.status });
  }

  #draw(alert, market, at) {
    const [name, sign, way] = kindOf(alert);
    const symbol = make("a", "symbol-link", alert.symbol);
    symbol.href = `#/overview/${encodeURIComponent(alert.symbol)}/1m`;
    const title = [make("i", "sign", sign), symbol, make("span", "kind", name), make("span", "pill", alert.status)];
    const head = this.#head(...title);
    const minute = minuteText(Date.parse(alert.pane_start), market);
    const why = make("a", "button", "Explain this minute");
    why.href = `#/explain/${encodeURIComponent(alert.symbol)}/${minute}`;
    const when = make("p", "when-line", `${format.day(at, market)}, ${exact(at, market)} · ${format.zoneName(market)} time`);
    const parts = [
      head,
      make("div", "scroll detail-body", when, alertActions(alert, () => this.#changed(alert.alert_id)), this.#facts(alert, market), this.#life(alert, market), this.chart.root, why,
        this.#passports(alert), this.#evidence(alert, market), this.#deliveries(alert, market)),
    ];
    const scrolled = this.root.querySelector(".detail-body")?.scrollTop ?? 0;
    const hadFocus = this.root.querySelector(".alert-actions")?.contains(document.activeElement);
    this.root.replaceChildren(...parts);
    if (hadFocus) this.root.querySelector(".alert-actions button").focus();
    this.root.dataset.way = way;
    this.root.dataset.status = alert.status;
    this.root.querySelector(".detail-body").scrollTop = scrolled;
  }

  #facts(alert, market) {
    const isVolume = alert.direction === 0;
    const band = newest(alert)?.band_bps;
    const volume = alert.evidence?.provisional?.price;
    const facts = [["Price", format.price(alert.price, market)]];
    if (isVolume) facts.push(["Volume then", volume == null ? "–" : format.short(volume)], ["Limit", format.short(alert.line)]);
    else facts.push([capital(linesOf(alert)[1]), format.price(alert.line, market)], ["Distance", bps(alert.price, alert.line)], ["Band", band == null ? "–" : `${band} bps`]);
    facts.push(["Minute", `${format.clock(Date.parse(alert.pane_start), market).slice(0, 5)} ${format.zoneMark(market)}`]);
    facts.push(["Rule", make("code", "", `${alert.rule} ${alert.rule_version}`)]);
    const box = pairs(facts, "pairs facts-grid");
    if (!alert.late) return box;
    const why = newest(alert)?.backfilled ? "its trade did not come by the stream but was fetched afterwards" : "its trade was old when it was received";
    return make("div", "", box, make("p", "note", `Late: ${why}, so it was stored and never sent as news.`));
  }

  #life(alert, market) {
    const states = [["provisional", Date.parse(alert.triggered_at)]];
    for (const name of ["confirmed", "retracted"]) if (alert[`${name}_at`]) states.push([name, Date.parse(alert[`${name}_at`])]);
    if (states.length === 1 && alert.status !== "provisional") states.push([alert.status, Date.parse(alert.decided_at)]);
    const items = states.map(([name, ms], i) => {
      const after = i ? ` · ${format.age((ms - states[0][1]) / 1000)} later` : "";
      return make("li", name, make("b", "", name), make("span", "", `${exact(ms, market)}${after}`));
    });
    if (states.length === 1) items.push(make("li", "waiting", make("b", "", "decided"), make("span", "", "when its minute has ended")));
    return make("ol", "life", ...items);
  }

  // --- how fast -----------------------------------------------------------------------------------------------

  #passports(alert) {
    const box = section("Latency passport");
    this.passport = {};
    for (const state of ["provisional", "confirmed", "retracted"]) {
      const times = stageTimes(alert, state);
      if (times.length < 2) continue;
      this.passport[state] = times;
      box.append(make("h4", "", state), passportBar(times), passportList(times));
    }
    if (box.childElementCount === 1) box.append(make("p", "note", "The evidence holds no times."));
    return box;
  }

  // --- decided from what --------------------------------------------------------------------------------------

  #evidence(alert, market) {
    const found = alert.evidence ?? {};
    const [first, last] = [found.provisional, found.confirmed ?? found.retracted];
    if (!first && !last) return section("Evidence", make("p", "note", "No evidence was stored with it."));
    const isVolume = alert.direction === 0;
    const show = isVolume ? format.short : (value) => format.price(value, market);
    const columns = [["Before", first?.price_before, first?.line_before], ["At the trade", first?.price, first?.line]];
    if (isVolume) columns.shift();
    if (last) columns.push(["At the end", last.price, last.line]);
    const rows = [
      [isVolume ? "Volume" : capital(linesOf(alert)[0]), ...columns.map(([, price]) => show(price))],
      [isVolume ? "Limit" : capital(linesOf(alert)[1]), ...columns.map(([, , line]) => show(line))],
      ["Distance", ...columns.map(([, price, line]) => (isVolume ? ratio(price, line) : bps(price, line)))],
    ];
    const box = section("Evidence", table(["", ...columns.map(([name]) => name)], rows, "sheet lines"));
    if (first?.trade) box.append(make("h4", "", "The trade"), tradePairs(first.trade, market));
    const held = last ?? first;
    if (held?.window) box.append(make("h4", "", "The window"), windowPairs(held.window, market));
    return box;
  }

  #deliveries(alert, market) {
    const sent = alert.deliveries ?? [];
    if (!sent.length) {
      const words = alert.late ? "None: it is late, and no news." : "None: no channel asks for this state, or none is set up.";
      return section("Deliveries", make("p", "note", words));
    }
    const rows = sent.map((one) => [
      one.channel, one.event, make("span", `state ${one.state}`, one.state), String(one.attempts),
      one.delivered_at ? exact(Date.parse(one.delivered_at), market) : whyNot(one, market),
    ]);
    return section("Deliveries", table(["Channel", "State told", "Delivery", "Tries", "When, or why not"], rows, "sheet deliveries"));
  }
}

const capital = (words) => words[0].toUpperCase() + words.slice(1);
const newest = (alert) => alert.evidence?.confirmed ?? alert.evidence?.retracted ?? alert.evidence?.provisional;
const ratio = (volume, limit) => (volume == null || !limit ? "–" : `${(volume / limit).toFixed(2)} ×`);

/** Why a message is not there yet, or never will be. */
function whyNot(one, market) {
  const until = one.held_until && one.state === "held" ? `, looked at again ${exact(Date.parse(one.held_until), market)}` : "";
  const told = one.told_by ? ", told with others in one message" : "";
  return one.last_error ?? (one.reason ? `${one.reason}${until}${told}` : "–");
}

/** [stage, Unix ms] of one state, in order, as far as they are known. */
function stageTimes(alert, state) {
  const passport = alert.evidence?.[state]?.passport;
  if (!passport) return [];
  const stored = state === "provisional" ? alert.stored_at : alert.changed_at;
  const told = (alert.deliveries ?? []).filter((one) => one.event === state && one.delivered_at).map((one) => Date.parse(one.delivered_at));
  const times = {
    event: passport.event_ms,
    received: passport.received_ns && passport.received_ns / 1e6,
    logged: passport.logged_ns && passport.logged_ns / 1e6,
    decided: passport.decided_ns && passport.decided_ns / 1e6,
    stored: stored && precise(stored),
    delivered: told.length ? Math.min(...told) : null,
  };
  return STAGES.filter(([key]) => times[key]).map(([key, name]) => ({ key, name, ms: times[key] }));
}

/** Unix ms with its fraction, which `Date.parse` drops. */
function precise(iso) {
  const fraction = /\.\d{3}(\d+)/.exec(iso);
  return Date.parse(iso) + (fraction ? Number(`0.${fraction[1]}`) : 0);
}

const stageMs = (times, i) => Math.max(0, times[i].ms - times[i - 1].ms);
const isLatency = (ms) => ms <= STAGE_MS_MAX;

function duration(ms) {
  if (!isLatency(ms)) return "recorded earlier";
  return ms < 10 ? `${ms.toFixed(1)} ms` : format.milliseconds(ms);
}

function passportBar(times) {
  const bar = make("div", "passport");
  bar.setAttribute("role", "img");
  const spans = times.slice(1).map((stage, i) => [stage, stageMs(times, i + 1)]).filter(([, ms]) => isLatency(ms));
  const total = spans.reduce((sum, [, ms]) => sum + ms, 0);
  bar.setAttribute("aria-label", `${duration(total)} altogether`);
  for (const [stage, ms] of spans) {
    const part = make("span", `stage-${stage.key}`);
    part.style.flexGrow = String(total ? ms / total : 1);
    part.title = `${stage.name}: ${duration(ms)}`;
    bar.append(part);
  }
  return bar;
}

function passportList(times) {
  const items = times.slice(1).map((stage, i) => {
    const ms = stageMs(times, i + 1);
    return make("li", "", make("i", `dot stage-${stage.key}`), make("span", "", stage.name), make("b", "", duration(ms)));
  });
  return make("ol", "passport-list", ...items);
}

function tradePairs(trade, market) {
  return pairs([
    ["Price", format.price(trade.price, market)], ["Size", String(trade.size)], ["Time", exact(trade.time_ms, market)],
    ["Exchange", String(trade.exchange)], ["Conditions", trade.conditions?.length ? trade.conditions.join(", ") : "none"],
    ["Id", make("code", "", trade.id || "none")],
  ]);
}

function windowPairs(held, market) {
  const from = held.from_ms == null ? "–" : `${exact(held.from_ms, market).slice(0, 5)} to ${exact(held.to_ms, market).slice(0, 5)}`;
  return pairs([
    ["From, to", from], ["Trades", String(held.trades ?? "–")], ["May set no price", String(held.excluded ?? "–")],
    ["Gap", held.gap_ms ? format.milliseconds(held.gap_ms) : "none"],
  ]);
}
