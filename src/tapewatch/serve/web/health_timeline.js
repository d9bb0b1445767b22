// When each market's feed was connected during the last day, and when not: a bar with its gaps, and the same as a table.

import { make, setData, setText } from "./dom.js";
import * as format from "./format.js";
import { span } from "./health_words.js";

const DAY_MS = 86_400_000;
const WORDS = { live: "connected", gap: "gap: trades may be missing", filled: "gap, fetched afterwards", closed: "market closed" };
const CALM = new Set(["live", "closed"]);
const GAPS_SHOWN_MAX = 200;
const ASK = "Point at a gap, or move to it with the Tab key, to see when and why.";

export class Timeline {
  constructor() {
    this.rows = new Map();
    this.key = "";
    this.tracks = make("div", "tracks");
    this.says = make("p", "timeline-says", ASK);
    const scale = make("div", "timeline-scale");
    for (const text of ["24 h ago", "18 h", "12 h", "6 h", "now"]) scale.append(make("span", "", text));
    scale.setAttribute("aria-hidden", "true");
    this.body = make("tbody");
    const head = make("tr", "", ...["Market", "From", "To", "State", "Cause"].map((name) => make("th", "", name)));
    const words = make("table", "", make("caption", "", "Connections of the last 24 hours"), make("thead", "", head), this.body);
    const legend = make("ul", "timeline-legend");
    for (const [state, name] of [["live", "connected"], ["filled", "gap, fetched afterwards"], ["gap", "gap"], ["closed", "market closed"]]) {
      const mark = make("i", "mark");
      setData(mark, "state", state);
      legend.append(make("li", "", mark, name));
    }
    this.count = make("span", "count");
    const title = make("div", "panel-head", make("h2", "", "Connections, last 24 hours"), this.count, legend);
    this.box = make("section", "panel timeline", title, make("div", "timeline-body", this.tracks, scale, this.says), make("div", "unseen", words));
    this.box.setAttribute("aria-label", "Connections");
  }

  /** ``connections`` of the API; ``now``: the end of the day that is shown, in ms. */
  show(connections, feeds, now) {
    for (const { market } of feeds) this.#track(market);
    const stretches = connections.map((row) => ({ ...row, start: Date.parse(row.from), end: row.to ? Date.parse(row.to) : now }));
    const gaps = stretches.filter(({ state }) => !CALM.has(state)).length;
    setText(this.count, gaps ? `${gaps} ${gaps === 1 ? "interruption" : "interruptions"}` : "no interruption");
    for (const [market, track] of this.rows) {
      this.#draw(track, stretches.filter((row) => row.market === market), now);
      const feed = feeds.find((one) => one.market === market);
      setText(track.word, feed?.state ?? "");
      setData(track.word, "state", feed?.state ?? "");
    }
    const key = JSON.stringify(connections);
    if (key !== this.key) this.#table(stretches);
    this.key = key;
  }

  #track(market) {
    if (this.rows.has(market)) return;
    const bar = make("div", "track-bar");
    const word = make("span", "track-word");
    this.rows.set(market, { bar, word, pieces: new Map() });
    this.tracks.append(make("div", "track", make("span", "track-name", format.marketName(market)), bar, word));
  }

  /** Pieces are kept while their stretch is there, so that focus stays where it is. */
  #draw({ bar, pieces }, stretches, now) {
    const shown = new Set();
    for (const row of stretches.slice(-GAPS_SHOWN_MAX)) {
      const start = Math.max(row.start, now - DAY_MS);
      if (row.end <= start) continue;
      const name = `${row.from} ${row.state}`;
      shown.add(name);
      if (!pieces.has(name)) pieces.set(name, this.#piece(row, bar));
      const piece = pieces.get(name);
      piece.row = row;
      piece.element.style.left = `${(100 * (start - now + DAY_MS)) / DAY_MS}%`;
      piece.element.style.width = `${(100 * (row.end - start)) / DAY_MS}%`;
      if (!CALM.has(row.state)) piece.element.setAttribute("aria-label", sentence(row));
    }
    for (const [name, { element }] of pieces) {
      if (shown.has(name)) continue;
      element.remove();
      pieces.delete(name);
    }
  }

  #piece(row, bar) {
    const piece = { element: make(CALM.has(row.state) ? "span" : "button", "piece"), row };
    const { element } = piece;
    if (element.tagName === "BUTTON") element.type = "button";
    setData(element, "state", CALM.has(row.state) || row.state === "filled" ? row.state : "gap");
    const tell = () => setText(this.says, sentence(piece.row));
    const still = () => setText(this.says, ASK);
    for (const name of ["pointerenter", "focus", "click"]) element.addEventListener(name, tell);
    for (const name of ["pointerleave", "blur"]) element.addEventListener(name, still);
    bar.append(element);
    return piece;
  }

  #table(stretches) {
    const rows = stretches.map((row) => [format.marketName(row.market), clock(row.start, row.market),
      row.to ? clock(row.end, row.market) : "now", WORDS[row.state] ?? row.state, row.cause ?? ""]);
    this.body.replaceChildren(...rows.map((cells) => make("tr", "", ...cells.map((text) => make("td", "", text)))));
  }
}

const clock = (at, market) => `${format.day(at, market)} ${format.clock(at, market)} ${format.zoneMark(market)}`;

function sentence(row) {
  const { market, start, end, state, cause } = row;
  const until = row.to ? `until ${format.clock(end, market)} ${format.zoneMark(market)}` : "until now";
  const why = cause ? ` Cause: ${cause.replace(/\.$/, "")}.` : "";
  return `${format.marketName(market)}, ${WORDS[state] ?? state}: ${clock(start, market)} ${until}, ${span((end - start) / 1000)}.${why}`;
}
