// What is drawn with the candles: the sessions behind them, the marks of alerts, and the ribbon of data quality below.
//
// A bar is found by its place: ``times[i]`` (chart time, s) is at logical index i, since every series has every time.

const RIBBON_PX = { gap: 8, late: 6, backfilled: 5, excluded: 4, good: 3 }; // Worse is taller: told apart without colour.
const MARK_PX = 5;
const WAYS = { golden_cross: 1, death_cross: -1 };
const MARK_GAP_PX = 7;

/** One layer: asks ``draw(context, place, size)`` for each frame. ``place`` tells where things are. */
class Layer {
  constructor(order) {
    this.order = order;
  }

  attached({ chart, series, requestUpdate }) {
    Object.assign(this, { chart, series, requestUpdate });
  }

  paneViews() {
    const renderer = {
      draw: (target) => target.useMediaCoordinateSpace(({ context, mediaSize }) => this.draw(context, mediaSize)),
    };
    return [{ zOrder: () => this.order, renderer: () => renderer }];
  }

  /** Draw again, since what it shows has changed. */
  renew() {
    this.requestUpdate?.();
  }

  /** The indices of ``times`` that can be seen, and how wide one is. */
  seen(count) {
    const scale = this.chart.timeScale();
    const range = scale.getVisibleLogicalRange();
    if (!range) return null;
    const from = Math.max(0, Math.floor(range.from) - 1);
    const to = Math.min(count - 1, Math.ceil(range.to) + 1);
    return from <= to ? { from, to, wide: scale.options().barSpacing, x: (i) => scale.logicalToCoordinate(i) } : null;
  }
}

/** Runs of equal values of ``kinds`` as [kind, first index, last index]. */
function* runs(kinds, from, to) {
  let start = from;
  for (let i = from; i <= to; i += 1) {
    if (i === to || kinds[i + 1] !== kinds[start]) {
      yield [kinds[start], start, i];
      start = i + 1;
    }
  }
}

/** A fill for each bar's kind: behind the candles at full height, or as a ribbon at the foot. */
export class Bands extends Layer {
  /** ``colors``: kind -> colour; a kind without one is not drawn. */
  constructor({ isRibbon }) {
    super(isRibbon ? "top" : "bottom");
    this.isRibbon = isRibbon;
    this.kinds = [];
    this.colors = {};
  }

  show(kinds, colors = this.colors) {
    Object.assign(this, { kinds, colors });
    this.renew();
  }

  draw(context, { height }) {
    const seen = this.seen(this.kinds.length);
    if (!seen) return;
    for (const [kind, first, last] of runs(this.kinds, seen.from, seen.to)) {
      if (!this.colors[kind]) continue;
      const left = seen.x(first) - seen.wide / 2;
      context.fillStyle = this.colors[kind];
      const width = seen.x(last) + seen.wide / 2 - left;
      const tall = this.isRibbon ? RIBBON_PX[kind] : height;
      context.fillRect(left, height - tall, width, tall);
    }
  }
}

/** Alerts: provisional hollow, confirmed filled, retracted crossed; so they are told apart without colour too. */
export class Marks extends Layer {
  constructor() {
    super("top");
    this.marks = [];
  }

  /** ``marks``: of `marksOf`; ``colors``: {up, down, accent, grey}. */
  show(marks, colors) {
    Object.assign(this, { marks, colors });
    this.renew();
  }

  draw(context) {
    const seen = this.seen(Infinity);
    if (!seen) return;
    context.lineWidth = 1.5;
    for (const mark of this.marks) {
      if (mark.index < seen.from || mark.index > seen.to) continue;
      const below = mark.way > 0;
      const edge = this.series.priceToCoordinate(below ? mark.low : mark.high);
      if (edge === null) continue;
      this.#draw(context, mark, seen.x(mark.index), edge + (below ? MARK_GAP_PX : -MARK_GAP_PX - 2 * MARK_PX));
    }
  }

  #draw(context, { way, status }, x, top) {
    const { up, down, accent, grey } = this.colors;
    const color = status === "retracted" ? grey : way > 0 ? up : way < 0 ? down : accent;
    context.beginPath();
    if (way === 0) {
      context.arc(x, top + MARK_PX, MARK_PX - 0.5, 0, 2 * Math.PI);
    } else {
      const [tip, foot] = way > 0 ? [top, top + 2 * MARK_PX] : [top + 2 * MARK_PX, top];
      context.moveTo(x, tip);
      context.lineTo(x + MARK_PX, foot);
      context.lineTo(x - MARK_PX, foot);
      context.closePath();
    }
    context.strokeStyle = context.fillStyle = color;
    if (status === "confirmed") context.fill();
    context.stroke();
    if (status !== "retracted") return;
    context.beginPath();
    context.moveTo(x - MARK_PX - 1, top);
    context.lineTo(x + MARK_PX + 1, top + 2 * MARK_PX);
    context.moveTo(x + MARK_PX + 1, top);
    context.lineTo(x - MARK_PX - 1, top + 2 * MARK_PX);
    context.stroke();
  }
}

/** Alerts as {id, index, way: 1 above the line | -1 below | 0 volume, status, high, low}, where their bar is there. */
export function marksOf(alerts, times, bars, timeOf) {
  const places = new Map(times.map((time, index) => [time, index]));
  return alerts.flatMap((alert) => {
    const time = timeOf(alert);
    if (!places.has(time)) return [];
    const { high, low } = bars.get(time);
    return [{ id: alert.alert_id, index: places.get(time), way: WAYS[alert.kind] ?? 0, status: alert.status, high, low }];
  });
}
