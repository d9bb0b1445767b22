// The live stream. The server says something at least every second; when it has been silent for longer than
// SILENCE_MS the connection is given up and made anew, and what came before is taken as old.

export const SILENCE_MS = 2_400;
const WATCH_MS = 200;
const HELD_UP_MS = 1_000;
const RETRY_MS = [250, 500, 1_000, 2_000];
const EVENTS = ["hello", "price", "bar", "alert", "status", "resync"];

export class Stream {
  /** ``handlers``: one function for each event, and ``found()``, ``lost(since)``, ``failed()`` for the connection. */
  constructor(handlers) {
    this.handlers = handlers;
    this.bars = "";
    this.connected = false;
    this.heardAt = Date.now();
    this.tries = 0;
    this.source = null;
    this.retry = 0;
    this.watchedAt = Date.now();
    setInterval(() => this.#watch(), WATCH_MS);
    addEventListener("online", () => this.#open());
  }

  /** (Re)open, with bars of this symbol. The server's first events bring everything up to date. */
  open(symbol) {
    this.bars = symbol ?? "";
    this.#open();
  }

  #open() {
    clearTimeout(this.retry);
    this.source?.close();
    const source = new EventSource(`/api/v1/stream?bars=${encodeURIComponent(this.bars)}`);
    this.source = source;
    for (const name of EVENTS) source.addEventListener(name, (event) => this.#heard(name, JSON.parse(event.data)));
    source.onerror = () => this.#again(source);
    this.openedAt = Date.now();
  }

  #heard(name, data) {
    this.heardAt = Date.now();
    this.tries = 0;
    if (!this.connected) {
      this.connected = true;
      this.handlers.found();
    }
    this.handlers[name]?.(data);
  }

  #again(source) {
    if (source !== this.source) return;
    source.close();
    if (this.tries > 0) this.handlers.failed();
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.#open(), RETRY_MS[Math.min(this.tries++, RETRY_MS.length - 1)]);
  }

  #watch() {
    const now = Date.now();
    const wasHeldUp = now - this.watchedAt > HELD_UP_MS;
    this.watchedAt = now;
    if (wasHeldUp) return; // It was this page that was busy or asleep: what was said meanwhile is heard first.
    if (now - this.heardAt < SILENCE_MS) return;
    if (this.connected) {
      this.connected = false;
      this.handlers.lost(this.heardAt);
    }
    if (now - this.openedAt > 2 * SILENCE_MS) this.#again(this.source);
  }
}
