// A symbol's last hour as a small line: the closes of ``/api/v1/overview``, gone on with by the live price.

import { setData } from "./dom.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, EDGE] = [64, 20, 1.5];

export class Sparkline {
  constructor() {
    this.svg = document.createElementNS(NAMESPACE, "svg");
    this.svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    this.path = document.createElementNS(NAMESPACE, "path");
    this.svg.append(this.path);
    this.drawn = "";
    this.closes = null; // one for each step, null where nothing traded
    this.step = 60_000;
    this.newest = 0; // number of the newest step since 1970
  }

  take({ from, step_ms: step, closes }) {
    if (!from) return;
    Object.assign(this, { step, closes: [...closes], newest: Math.floor(Date.parse(from) / step) + closes.length - 1 });
  }

  /** The live price is the close of the step it lies in. */
  go(price, timeMs) {
    const now = Math.floor(timeMs / this.step);
    if (!this.closes || price == null || now < this.newest) return;
    const passed = Math.min(now - this.newest, this.closes.length);
    for (let i = 0; i < passed; i += 1) {
      this.closes.shift();
      this.closes.push(null);
    }
    this.newest = now;
    this.closes[this.closes.length - 1] = price;
  }

  /** How far the hour has moved, as a fraction; null without two closes. */
  get change() {
    const first = this.closes?.find((close) => close != null);
    const last = this.closes?.findLast((close) => close != null);
    return first ? last / first - 1 : null;
  }

  draw() {
    if (!this.closes) return;
    const known = this.closes.filter((close) => close != null);
    if (!known.length) return;
    const low = Math.min(...known);
    const tall = Math.max(...known) - low || 1;
    const wide = WIDTH / Math.max(1, this.closes.length - 1);
    const points = [];
    this.closes.forEach((close, i) => {
      if (close == null) return;
      const y = HEIGHT - EDGE - ((HEIGHT - 2 * EDGE) * (close - low)) / tall;
      points.push(`${(i * wide).toFixed(1)} ${y.toFixed(1)}`);
    });
    setData(this.svg, "way", known.at(-1) >= known[0] ? "up" : "down");
    const line = `M${points.join("L")}`;
    if (line !== this.drawn) this.path.setAttribute("d", line);
    this.drawn = line;
  }
}
