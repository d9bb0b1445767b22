// A small line chart of the last hour, in plain SVG: what it shows is also said in words.

import { make, setText } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 64;
const SPACE = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export class LineChart {
  /** ``key``: its list in the series; ``say``: how a value is written. */
  constructor(key, name, say) {
    Object.assign(this, { key, name, say, values: [], series: null, at: null });
    this.now = make("span", "chart-now", "–");
    this.note = make("span", "chart-note");
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    this.cross = svg("line", { class: "cross", y1: 0, y2: HEIGHT, x1: -9, x2: -9 });
    this.plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.plot.append(this.area, this.line, this.cross);
    this.top = make("span", "chart-top");
    this.empty = make("p", "chart-empty", "Nothing measured yet.");
    const head = make("div", "chart-head", make("h3", "", name), this.now);
    this.start = make("span", "");
    const foot = make("div", "chart-foot", this.start, this.note, make("span", "", "now"));
    this.box = make("figure", "panel health-chart", head, make("div", "chart-plot", this.plot, this.top, this.empty), foot);
    this.plot.addEventListener("pointermove", (event) => this.#point(event));
    this.plot.addEventListener("pointerleave", () => this.#leave());
  }

  show(series) {
    this.series = series;
    this.values = series?.[this.key] ?? [];
    const known = this.values.filter((value) => value != null);
    this.empty.hidden = known.length > 0;
    if (!known.length) {
      this.plot.setAttribute("aria-label", `${this.name}: nothing measured yet`);
      for (const path of [this.area, this.line]) path.setAttribute("d", "");
      setText(this.now, "–");
      return;
    }
    const most = Math.max(...known);
    this.scale = most > 0 ? most * 1.35 : 1;
    const { line, area } = this.#paths();
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", area);
    setText(this.top, this.say(most));
    const last = known.at(-1);
    const low = Math.min(...known);
    const length = this.#length((this.values.length - 1) * series.step_s);
    this.plot.setAttribute("aria-label", `${this.name}, last ${length}: now ${this.say(last)}, between ${this.say(low)} and ${this.say(most)}`);
    setText(this.start, `${length} ago`);
    if (this.at === null) setText(this.now, this.say(last));
  }

  #length(seconds) {
    return seconds < 100 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
  }

  #x(i) {
    return this.values.length > 1 ? (i * WIDTH) / (this.values.length - 1) : WIDTH;
  }

  /** A line that is broken where nothing was measured, and the area under it. */
  #paths() {
    let line = "";
    let area = "";
    let start = null;
    this.values.forEach((value, i) => {
      if (value == null) {
        if (start !== null) area += `V${HEIGHT}H${start}Z`;
        start = null;
        return;
      }
      const [x, y] = [this.#x(i).toFixed(1), (HEIGHT * (1 - value / this.scale)).toFixed(1)];
      line += `${start === null ? "M" : "L"}${x} ${y}`;
      area += start === null ? `M${x} ${HEIGHT}L${x} ${y}` : `L${x} ${y}`;
      start ??= x;
    });
    if (start !== null) area += `V${HEIGHT}H${start}Z`;
    return { line, area };
  }

  #point(event) {
    const { left, width } = this.plot.getBoundingClientRect();
    const i = Math.round(((event.clientX - left) / width) * (this.values.length - 1));
    const value = this.values[i];
    if (i < 0 || value == null) return;
    this.at = i;
    const ago = (this.values.length - 1 - i) * this.series.step_s;
    for (const name of ["x1", "x2"]) this.cross.setAttribute(name, this.#x(i));
    setText(this.now, this.say(value));
    setText(this.note, `${this.#length(ago)} ago`);
  }

  #leave() {
    this.at = null;
    for (const name of ["x1", "x2"]) this.cross.setAttribute(name, -9);
    setText(this.note, "");
    this.show(this.series);
  }
}
