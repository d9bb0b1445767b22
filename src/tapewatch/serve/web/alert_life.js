// What people do with alerts: see what is not well, what is muted and how the channels do; mute, acknowledge, send a test.

import { get, send } from "./api.js";
import { make, setText } from "./dom.js";
import * as format from "./format.js";

const LOOK_MS = 10_000;
const SPANS = [["15m", "15 minutes"], ["1h", "1 hour"], ["8h", "8 hours"], ["1d", "1 day"], ["7d", "7 days"]];
const BY = "page";
const FAILURES = 3;

/** "15:42 ET", with the day where it is another one. */
function until(iso) {
  const ms = Date.parse(iso);
  const day = format.day(ms, "stocks") === format.day(Date.now(), "stocks") ? "" : `${format.day(ms, "stocks")} `;
  return `${day}${format.clock(ms, "stocks").slice(0, 5)} ${format.zoneMark("stocks")}`;
}

function button(words, className, act) {
  const made = make("button", className, words);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

function choice(label, options) {
  const select = make("select", "filter");
  select.setAttribute("aria-label", label);
  select.append(...options.map(([value, name]) => new Option(name, value)));
  return select;
}

const muted = (mute) => [mute.rule?.replaceAll("_", " "), mute.symbol, mute.channel && `on ${mute.channel}`].filter(Boolean).join(" ") || "Everything";

/** The strip above the list. ``context``: symbols(); ``rules`` gives the names of rules that are known. */
export class LifeStrip {
  constructor(context, rules) {
    Object.assign(this, { context, rules, mutes: [], channels: [], downs: [], error: "", asked: 0 });
    this.root = make("div", "life-strip");
    this.downBox = make("div", "life-downs");
    this.downBox.setAttribute("role", "alert");
    this.line = make("div", "life-line");
    this.words = make("p", "life-words");
    this.words.setAttribute("role", "status");
    this.form = this.#buildForm();
    this.root.append(this.downBox, this.line, this.form, this.words);
  }

  show() {
    this.hide();
    this.timer = setInterval(() => this.load(), LOOK_MS);
    this.load();
  }

  hide() {
    clearInterval(this.timer);
  }

  get probe() {
    return { mutes: this.mutes, channels: this.channels, downs: this.downs, words: this.words.textContent };
  }

  async load() {
    const asked = ++this.asked;
    try {
      const [mutes, channels, alerts] = await Promise.all(
        ["/api/v1/mutes", "/api/v1/channels", "/api/v1/system-alerts?limit=20"].map((path) => get(path)),
      );
      if (asked !== this.asked) return;
      Object.assign(this, { mutes, channels, downs: alerts.filter((one) => one.state === "down") });
      if (this.error) this.#say("");
      this.error = "";
    } catch (error) {
      if (asked === this.asked) this.#say((this.error = error.message));
    }
    this.draw();
  }

  /** Nothing is made anew that is the same: a button that is pressed, or has the focus, stays. */
  draw() {
    const { downs, mutes, form } = this;
    const shown = JSON.stringify([downs, mutes, this.channels.map((one) => ({ ...one, updated_at: null })), form.hidden]);
    if (shown === this.shown) return;
    this.shown = shown;
    const hadFocus = this.downBox.contains(document.activeElement) || this.line.contains(document.activeElement);
    this.downBox.replaceChildren(...this.downs.map((down) => this.#down(down)));
    const parts = [...this.channels.map(channelMark), ...this.mutes.map((mute) => this.#mute(mute))];
    const opener = button("Mute …", "small", () => this.#toggle());
    opener.setAttribute("aria-expanded", String(!this.form.hidden));
    const test = button("Send a test", "small", () => this.#act(() => this.#test()));
    test.title = "A test alert the whole way: outbox, gate, sender, every channel";
    this.line.replaceChildren(...parts, make("span", "gap"), opener, test);
    if (hadFocus) opener.focus();
  }

  #down(down) {
    const since = `since ${until(down.began_at)}`;
    const box = make("div", "life-down", make("b", "", "System Down"), make("span", "", down.detail), make("small", "", since));
    if (down.acknowledged_at) box.append(make("small", "seen", `seen by ${down.acknowledged_by}`));
    else box.append(button("Acknowledge", "small", () => this.#act(() => acknowledge(down.system_id))));
    return box;
  }

  #mute(mute) {
    const end = button("×", "end", () => this.#act(() => send("DELETE", `/api/v1/mutes/${mute.mute_id}`)));
    end.setAttribute("aria-label", `End the mute of ${muted(mute)}`);
    const tag = make("span", "tag mute", make("span", "", `${muted(mute)} muted until ${until(mute.muted_to)}`), end);
    tag.title = [`by ${mute.muted_by}`, mute.note].filter(Boolean).join(": ");
    return tag;
  }

  #buildForm() {
    const form = make("form", "mute-form");
    form.hidden = true;
    form.setAttribute("aria-label", "Mute");
    this.fields = {
      symbol: choice("Symbol to mute", []), rule: choice("Rule to mute", []), channel: choice("Channel to mute", []), for: choice("How long", SPANS),
    };
    const note = make("input", "filter");
    Object.assign(note, { placeholder: "Why (may be empty)", maxLength: 200 });
    note.setAttribute("aria-label", "Why");
    this.fields.note = note;
    const go = make("button", "button solid", "Mute");
    go.type = "submit";
    form.append(...Object.values(this.fields), go);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#act(() => this.#muteIt());
    });
    return form;
  }

  #toggle() {
    this.form.hidden = !this.form.hidden;
    if (!this.form.hidden) {
      const offer = (select, all, names) => select.replaceChildren(new Option(all, ""), ...names.map((name) => new Option(name.replaceAll("_", " "), name)));
      offer(this.fields.symbol, "All symbols", this.context.symbols());
      offer(this.fields.rule, "All rules", this.rules());
      offer(this.fields.channel, "All channels", this.channels.map((one) => one.channel));
      this.fields.symbol.focus();
    }
    this.draw();
  }

  async #muteIt() {
    const wish = { by: BY, for: this.fields.for.value };
    for (const name of ["symbol", "rule", "channel", "note"]) if (this.fields[name].value) wish[name] = this.fields[name].value;
    if (!wish.symbol && !wish.rule && !wish.channel) wish.all = true;
    await send("POST", "/api/v1/mutes", wish);
    this.form.hidden = true;
    this.fields.note.value = "";
  }

  async #test() {
    await send("POST", "/api/v1/system-alerts/test");
    this.#say("A test alert is on its way to every channel. Where it does not arrive within a minute, System Down says so.");
  }

  async #act(what) {
    this.#say("");
    try {
      await what();
    } catch (error) {
      this.#say(error.message);
    }
    await this.load();
  }

  #say(words) {
    setText(this.words, words);
  }
}

function channelMark(one) {
  const isBad = one.failures >= FAILURES;
  const state = isBad ? "bad" : one.failures ? "warn" : one.accepted_at ? "good" : "new";
  const waits = one.waiting + one.held;
  const tag = make("span", `tag channel ${state}`, make("i", "dot"), make("b", "", one.channel));
  if (isBad) tag.append(make("span", "", `${one.failures} failures in a row`));
  if (waits) tag.append(make("span", "", `${waits} waiting`));
  if (one.dead) tag.append(make("span", "", `${one.dead} given up`));
  const facts = [`${one.kind}: ${one.delivered_24h} delivered in 24 h`];
  if (one.accepted_at) facts.push(`last accepted ${until(one.accepted_at)}`);
  if (one.failures && one.last_error) facts.push(`failing: ${one.last_error}`);
  if (one.paused_until && Date.parse(one.paused_until) > Date.now()) facts.push(`left alone until ${until(one.paused_until)}`);
  tag.title = facts.join("\n");
  return tag;
}

export const acknowledge = (id) => send("POST", `/api/v1/alerts/${encodeURIComponent(id)}/acknowledgement`, { by: BY });
const forget = (id) => send("DELETE", `/api/v1/alerts/${encodeURIComponent(id)}/acknowledgement`);

/** What one may do with an alert that is open. ``changed`` is called when something was done. */
export function alertActions(alert, changed) {
  const words = make("span", "note");
  words.setAttribute("role", "status");
  const act = async (what, done = "") => {
    try {
      await what();
      setText(words, done);
      await changed();
    } catch (error) {
      setText(words, error.message);
    }
  };
  const box = make("div", "alert-actions");
  if (alert.acknowledged_at) {
    const seen = `Seen by ${alert.acknowledged_by} at ${until(alert.acknowledged_at)}${alert.note ? `: ${alert.note}` : ""}`;
    box.append(make("span", "tag good", make("i", "dot"), make("span", "", seen)), button("Take back", "small", () => act(() => forget(alert.alert_id))));
  } else box.append(button("Acknowledge", "small", () => act(() => acknowledge(alert.alert_id))));
  const rule = alert.rule.replaceAll("_", " ");
  const span = choice(`Mute ${rule} of ${alert.symbol}`, [["", `Mute ${alert.symbol} ${rule} …`], ...SPANS.map(([value, name]) => [value, `for ${name}`])]);
  span.addEventListener("change", () => {
    const wish = { by: BY, symbol: alert.symbol, rule: alert.rule, for: span.value };
    if (span.value) act(() => send("POST", "/api/v1/mutes", wish), "Muted: see above the list.");
    span.value = "";
  });
  box.append(span, words);
  return box;
}
