/**
 * The decoded strips of cells: all modalities of one cell side by side. Keeps the most recent, and fetches ahead what
 * the next keys can reach.
 */

import { getJson, sampleUrl } from "./http.js";

/** Decoded strips in memory: 512 kB each at 160 px, four modalities and their composite. */
const KEPT = 300;
/** Requests at once; browsers open six connections to a host, and one must stay free for edits. */
const AT_ONCE = 5;

export class StripImages {
  /** @param {import("./review.js").Review} review */
  constructor(review) {
    this.review = review;
    /** @type {Map<number, ImageBitmap>} in order of use */
    this.bitmaps = new Map();
    /** @type {Map<number, Promise<void>>} */
    this.loading = new Map();
    /** @type {number[]} rows that wait, the most urgent first */
    this.wanted = [];
    this.listeners = new Set();
    this.outlines = new Map();
  }

  /** Return the address of a strip; `side` asks for more pixels than a tile has. */
  url(row, side = 0) {
    const size = side ? `&side=${side}` : "";
    return sampleUrl(this.review.sample, `/strips/${row}.webp?v=${this.review.digest}${size}`);
  }

  /** Return the decoded strip of a row, or null; a missing one is not asked for. */
  get(row) {
    const bitmap = this.bitmaps.get(row);
    if (!bitmap) return null;
    this.bitmaps.delete(row);
    this.bitmaps.set(row, bitmap);
    return bitmap;
  }

  /** Call a listener with the row of every strip that arrives. */
  onLoad(listener) {
    this.listeners.add(listener);
  }

  /**
   * Ask for rows, in order of urgency; what was asked for before and has not begun is dropped.
   *
   * @param {number[]} rows
   */
  want(rows) {
    this.wanted = rows.slice(0, KEPT).filter((row) => !this.bitmaps.has(row) && !this.loading.has(row));
    this.#next();
  }

  #next() {
    while (this.loading.size < AT_ONCE && this.wanted.length) {
      const row = this.wanted.shift();
      if (this.bitmaps.has(row) || this.loading.has(row)) continue;
      this.loading.set(
        row,
        this.#load(row).finally(() => {
          this.loading.delete(row);
          this.#next();
        }),
      );
    }
  }

  async #load(row) {
    try {
      const response = await fetch(this.url(row), { credentials: "same-origin" });
      if (!response.ok) return;
      const bitmap = await createImageBitmap(await response.blob());
      this.bitmaps.set(row, bitmap);
      while (this.bitmaps.size > KEPT) {
        const [oldest, old] = this.bitmaps.entries().next().value;
        this.bitmaps.delete(oldest);
        old.close();
      }
      this.listeners.forEach((listener) => listener(row));
    } catch {
      // A tile without its image says so; the next visit asks again.
    }
  }

  /** Forget everything, after the cells were replaced. */
  clear() {
    this.bitmaps.forEach((bitmap) => bitmap.close());
    this.bitmaps.clear();
    this.outlines.clear();
    this.wanted = [];
  }

  /** Return the outlines of a cell and its nucleus if they are here; else ask for them and call back. */
  outline(row, done) {
    const found = this.outlines.get(row);
    if (found) return found.cell ? found : null;
    this.outlines.set(row, {});
    getJson(sampleUrl(this.review.sample, `/outlines/${row}.json?v=${this.review.digest}`)).then(
      (body) => {
        this.outlines.set(row, body);
        done(row);
      },
      () => this.outlines.delete(row),
    );
    return null;
  }
}
