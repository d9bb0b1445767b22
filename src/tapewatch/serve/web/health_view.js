// The Health view: whether all is well and what to do if not, then the numbers behind it. It asks while it is looked at.

import { get } from "./api.js";
import { make, setData, setText } from "./dom.js";
import * as format from "./format.js";
import { LineChart } from "./health_chart.js";
import { SymbolTable, fillRows, table } from "./health_tables.js";
import { Timeline } from "./health_timeline.js";
import { bytes, checksOf, ms, rate, sizeOf, span, UNSEEN } from "./health_words.js";

const EVERY_MS = 2_000;
const CHARTS = [
  ["trades_per_second", "Trades a second", rate],
  ["lag_ms", "Lag, receipt to database", ms],
  ["queue_bytes", "Waiting in the queue", bytes],
  ["commit_ms", "Time of a commit", ms],
];
const VITALS = ["Trades", "Lag", "Queue", "Commit", "Log", "Database"];
const STAGE_NAMES = { feed: "Feed", log: "Log", engine: "Engine", store: "Database", "whole path": "Whole path" };

export class HealthView {
  /** ``context``: may have hello(), the first event of the stream. */
  constructor(box, context = {}) {
    Object.assign(this, { box, context, report: null, state: null, isShown: false, asked: 0, timer: null });
    this.failedAt = null;
    this.vitals = new Map();
    this.#build();
  }

  show() {
    if (this.isShown) return;
    this.isShown = true;
    this.#ask();
  }

  hide() {
    this.isShown = false;
    clearTimeout(this.timer);
    this.asked += 1; // An answer on its way is not waited for.
  }

  refetch() {
    if (this.isShown) this.#ask();
  }

  /** The stream's status, every second: what changes fastest, and the ages. */
  status(status) {
    this.state = status;
    if (!this.isShown || !this.report) return;
    this.#tick();
  }

  /** For tests: the answer that is shown. */
  get probe() {
    return { report: this.report, failedAt: this.failedAt, isShown: this.isShown };
  }

  // --- asking -------------------------------------------------------------------------------------------------

  async #ask() {
    clearTimeout(this.timer);
    const mine = ++this.asked;
    try {
      const report = await get("/api/v1/health");
      if (mine !== this.asked) return;
      this.report = report;
      this.failedAt = null;
      this.#draw();
    } catch (error) {
      if (mine !== this.asked) return;
      this.failedAt ??= Date.now();
      this.#sayUnanswered(error);
    }
    if (this.isShown) this.timer = setTimeout(() => this.#ask(), EVERY_MS);
  }

  // --- building -----------------------------------------------------------------------------------------------

  #build() {
    this.box.classList.add("health");
    this.sentence = make("p", "verdict-sentence", "Asking every room how it is …");
    this.advice = make("p", "verdict-advice");
    this.others = make("ul", "verdict-others");
    this.asOf = make("p", "verdict-time");
    this.verdict = make("section", "panel verdict", make("i", "lamp"), make("div", "", this.sentence, this.advice, this.others), this.asOf);
    this.verdict.setAttribute("aria-label", "How it is");
    for (const part of [this.sentence, this.advice]) part.setAttribute("role", "status");
    setData(this.verdict, "state", "wait");

    const vitals = make("dl", "vitals");
    for (const name of VITALS) {
      const cell = { value: make("dd", "vital-value", "–"), more: make("dd", "vital-more") };
      this.vitals.set(name, cell);
      cell.box = make("div", "panel vital", make("dt", "", name), cell.value, cell.more);
      vitals.append(cell.box);
    }
    this.fill = make("progress", "vital-fill");
    this.fill.max = 1;
    this.fill.value = 0;
    this.fill.setAttribute("aria-label", "How full the queue is");
    this.vitals.get("Queue").box.append(make("dd", "", this.fill));

    this.charts = CHARTS.map(([key, name, say]) => new LineChart(key, name, say));
    const charts = make("div", "health-charts", ...this.charts.map((chart) => chart.box));
    this.timeline = new Timeline();
    this.stages = table("Where time is spent", ["Stage", "Lag", ""], "stages");
    this.queries = table("Queries of the page and the API", ["Query", "Asked", "Half under", "99 % under"], "queries");
    this.outbox = table("Notifications", ["", ""], "outbox");
    this.rows = table("Rows in the database", ["Table", "Rows"], "rows");
    this.checks = table("What the feed checks", ["", ""], "checks");
    this.symbols = new SymbolTable();
    const side = make("div", "health-side", this.outbox.box, this.checks.box, this.rows.box);
    const middle = make("div", "health-tables", this.stages.box, this.queries.box, side);
    this.box.append(this.verdict, vitals, charts, this.timeline.box, middle, this.symbols.box);
  }

  // --- drawing ------------------------------------------------------------------------------------------------

  #draw() {
    const { report } = this;
    this.#sayVerdict();
    this.#tick();
    this.charts.forEach((chart) => chart.show(report.series));
    this.timeline.show(report.connections ?? [], report.feeds, Date.parse(report.as_of));
    this.#drawTables();
    this.symbols.show(report.database ? report.symbols : null, this.#agesFrom());
  }

  #sayVerdict() {
    const { report } = this;
    const [worst, ...others] = report.problems;
    setData(this.verdict, "state", worst ? worst.state ?? "bad" : "good");
    setText(this.sentence, report.sentence);
    setText(this.advice, report.advice ?? "");
    while (this.others.childElementCount > others.length) this.others.lastChild.remove();
    while (this.others.childElementCount < others.length) this.others.append(make("li", "", make("b"), make("span")));
    others.forEach(({ sentence, advice }, i) => {
      setText(this.others.children[i].firstChild, `${sentence} `);
      setText(this.others.children[i].lastChild, advice);
    });
    this.others.hidden = !others.length;
  }

  #sayUnanswered(error) {
    const at = new Date(this.failedAt).toLocaleTimeString("en-GB");
    setData(this.verdict, "state", "bad");
    setText(this.sentence, `The server has not said how it is since ${at}: what is shown below is old.`);
    setText(this.advice, `It is asked again every ${EVERY_MS / 1000} s. If it stays so, look whether tapewatch runs: ./monitor_pipeline.sh (${error.message})`);
    this.others.hidden = true;
  }

  /** What moves each second: the freshest numbers and every age. */
  #tick() {
    const { report, state } = this;
    const now = Date.now();
    const { log, database, commit, queue } = report;
    setText(this.asOf, `as of ${new Date(report.as_of).toLocaleTimeString("en-GB")}`);
    this.#vital("Trades", rate(state?.trades_per_second ?? report.trades_per_second), "into the engine, last 5 s");
    const lag = state ? state.lag_ms : report.lag_ms;
    this.#vital("Lag", lag == null ? "–" : ms(lag), lag == null ? (this.#isReplay() ? "times of another day" : UNSEEN) : "from receipt to database");
    const waiting = state?.queue_bytes ?? queue?.bytes;
    const share = queue?.bytes_max && waiting != null ? waiting / queue.bytes_max : null;
    this.fill.hidden = share == null;
    if (share != null && this.fill.value !== share) this.fill.value = share;
    this.#vital("Queue", share == null ? "–" : percent(share), share == null ? UNSEEN : `${bytes(waiting)} of ${bytes(queue.bytes_max)}`);
    setData(this.vitals.get("Queue").box, "mood", share > 0.5 ? "bad" : "");
    const hasCommits = commit?.p50_ms != null;
    this.#vital("Commit", hasCommits ? ms(commit.p50_ms) : "–", hasCommits ? `99 % under ${ms(commit.p99_ms)} · last ${ms(commit.last_ms)}` : "none seen from here");
    const oldest = Date.parse(log.oldest_at);
    const room = log.disk_free_bytes == null ? "" : `, ${bytes(log.disk_free_bytes)} free`;
    const since = Number.isNaN(oldest) ? "" : `oldest ${span((now - oldest) / 1000)} ago`;
    this.#vital("Log", sizeOf(log), [since || (log.bytes == null ? UNSEEN : ""), room].join("").replace(/^, /, ""));
    this.vitals.get("Log").box.title = Number.isNaN(oldest) ? "" : `Oldest record kept: ${log.oldest_at}`;
    this.#vital("Database", database?.bytes == null ? "–" : bytes(database.bytes), database?.bytes == null ? "does not answer" : version(database));
    setData(this.vitals.get("Database").box, "mood", database?.bytes == null ? "bad" : "");
    this.symbols.tick(this.#agesFrom());
  }

  #vital(name, value, more) {
    const cell = this.vitals.get(name);
    setText(cell.value, value);
    setText(cell.more, more);
  }

  #drawTables() {
    const { stages, queries, notifications, database } = this.report;
    const lag = (stage) => (stage.lag_ms == null ? "–" : ms(stage.lag_ms));
    fillRows(this.stages, stages.map((stage) => [STAGE_NAMES[stage.name] ?? stage.name, lag(stage), stage.detail ?? UNSEEN]));
    fillRows(this.queries, (queries ?? []).map(({ name, count, p50_ms: half, p99_ms: most }) =>
      [name.replaceAll("_", " "), format.short(count), ms(half), ms(most)]), "No query was asked yet.");
    fillRows(this.outbox, notifications ? [
      ["Waiting", `${count(notifications.waiting)}${waitsSince(notifications.oldest_waiting_at)}`],
      ["Given up", count(notifications.dead)],
      ["Delivered in 24 h", count(notifications.delivered_24h)],
    ] : [], "The database does not answer.");
    setData(this.outbox.body, "mood", notifications?.dead ? "bad" : "");
    fillRows(this.checks, checksOf(this.report), UNSEEN);
    const rows = Object.entries(database?.rows ?? {}).filter(([name]) => !name.startsWith("notifications_"));
    fillRows(this.rows, rows.map(([name, many]) => [name.replaceAll("_", " "), count(many)]), "The database does not answer.");
  }

  /** From when ages are counted; null in a recording, whose times are of another day. */
  #agesFrom() {
    return this.#isReplay() ? null : Date.now();
  }

  #isReplay() {
    return (this.state?.origin ?? this.context.hello?.()?.origin) === "REPLAYED";
  }
}

const count = (number) => (number == null ? "–" : number.toLocaleString("en-US"));
const percent = (share) => `${(100 * share).toFixed(share && share < 0.1 ? 1 : 0)} %`;
const waitsSince = (at) => (at ? `, the first for ${span((Date.now() - Date.parse(at)) / 1000)}` : "");

function version({ version: own, postgres, timescaledb }) {
  if (own) return own;
  return `PostgreSQL ${postgres}${timescaledb ? `, TimescaleDB ${timescaledb}` : ""}`;
}
