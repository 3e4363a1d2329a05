/**
 * Sends entries to the journal, one request after the other, and takes what other tabs and readers wrote.
 *
 * An entry is applied to the page at once; the answer confirms it, or takes it back where another reader changed the
 * same cells meanwhile. Entries made while a request is under way travel together in the next one.
 */

import { cellsOf } from "./edits.js";
import { getJson, postJson, sampleUrl } from "./http.js";

/** No answer, a session that ended, a sample that a stage holds, too many requests: the same edit may succeed later. */
const LATER = [0, 401, 403, 423, 429];
const POLL_MS = 2000;
const RETRY_MS = [500, 1000, 2000, 5000];

export class Journal extends EventTarget {
  /** @param {import("./review.js").Review} review */
  constructor(review) {
    super();
    this.review = review;
    /** @type {Array<{local: string, entry: Object}>} not yet sent */
    this.pending = [];
    this.sending = false;
    this.failures = 0;
    this.number = 0;
  }

  /** Begin to ask for the entries of others. */
  start() {
    setInterval(() => this.poll(), POLL_MS);
    document.addEventListener("visibilitychange", () => this.poll());
    addEventListener("beforeunload", (event) => {
      if (this.unsaved) event.preventDefault();
    });
  }

  /** Whether an entry has not reached the server. */
  get unsaved() {
    return this.sending || this.pending.length > 0;
  }

  /**
   * Apply an entry and send it.
   *
   * @param {Object} entry with its action, without time, reader and id
   */
  record(entry) {
    const local = `local ${this.number++}`;
    const rows = this.review.edits.apply({ ...entry, id: local, reader: this.review.reader });
    this.pending.push({ local, entry });
    this.#changed(rows);
    this.#announce();
    void this.flush();
  }

  /** Undo the last entry of this reader, or redo the last that was undone. @returns {boolean} there was one */
  turn(action) {
    const list = this.review[action];
    const target = list?.at(-1);
    if (!target || this.unsaved) return false;
    list.pop();
    this.record({ action, target });
    return true;
  }

  /** Wait until everything is saved, so that an undo knows the last entry's id. */
  async settled() {
    while (this.unsaved && this.failures === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  /** Send what is pending. */
  async flush() {
    if (this.sending || !this.pending.length) return;
    this.sending = true;
    const batch = this.pending;
    this.pending = [];
    try {
      const body = { base: this.review.head, entries: batch.map(({ entry }) => entry) };
      this.#accept(batch, await postJson(sampleUrl(this.review.sample, "/entries"), body));
      this.failures = 0;
    } catch (error) {
      if (LATER.includes(error.status) || error.status >= 500) this.#retry(batch, error);
      else this.#refused(batch, error);
    } finally {
      this.sending = false;
      this.#announce();
    }
    if (this.pending.length && !this.failures) void this.flush();
  }

  #accept(batch, body) {
    const { edits } = this.review;
    const own = body.newer.slice(body.newer.length - batch.length);
    const others = body.newer.slice(0, body.newer.length - batch.length);
    this.#changed(batch.flatMap(({ local }, index) => edits.confirm(local, own[index])));
    this.#take(others, body);
  }

  #take(others, body) {
    const rows = others.flatMap((entry) => this.review.edits.apply(entry));
    if (this.pending.length) {
      // Newer edits wait: their effect on the counts is not in this answer, so the estimate stays.
      const { differential, ...rest } = body;
      this.review.takeSummary(this.review.estimated ? rest : body);
    } else this.review.takeSummary(body);
    this.#changed(rows);
    if (others.length) this.#emit("others", { entries: others });
    if (this.review.edits.stale || this.review.isOutdated(body)) this.#reload();
  }

  #reload() {
    this.review.reload().catch((error) => this.#emit("trouble", { message: error.message }));
  }

  #retry(batch, error) {
    this.pending = [...batch, ...this.pending];
    const wait = RETRY_MS[Math.min(this.failures, RETRY_MS.length - 1)];
    this.failures += 1;
    this.#emit("trouble", { message: error.message });
    setTimeout(() => {
      void this.flush();
    }, wait);
  }

  #refused(batch, error) {
    const { edits } = this.review;
    const newer = error.body.newer ?? [];
    const saved = batch.filter(({ entry }) => newer.some((other) => this.#isMine(other, entry)));
    const lost = batch.filter((item) => !saved.includes(item));
    const rows = batch.flatMap(({ local }) => edits.revoke(local));
    rows.push(...newer.flatMap((entry) => edits.apply(entry)));
    this.review.takeSummary(error.body);
    this.#changed(rows);
    if (lost.length) {
      const entries = lost.map(({ entry }) => entry);
      this.#emit(error.status === 409 ? "conflict" : "refused", { entries, newer, message: error.message });
    }
    if (error.status === 409 && !error.body.newer) this.#reload(); // the cells were replaced
  }

  /** Whether an entry is the one that was sent: its answer was lost, and it was sent again. */
  #isMine(other, entry) {
    if (other.reader !== this.review.reader || other.action !== entry.action) return false;
    return Object.entries(entry).every(([name, value]) => JSON.stringify(other[name]) === JSON.stringify(value));
  }

  /** Ask for the entries of others, and for the differential. */
  async poll(always = false) {
    if ((document.hidden && !always) || this.unsaved) return;
    const asked = this.review.head;
    try {
      const query = encodeURIComponent(asked);
      const body = await getJson(sampleUrl(this.review.sample, `/entries?after=${query}`));
      this.failures = 0;
      if (this.unsaved || asked !== this.review.head) return;
      if (body.newer.length || always || this.review.isOutdated(body)) this.#take(body.newer, body);
      this.#announce();
    } catch (error) {
      this.#emit("trouble", { message: error.message });
    }
  }

  #changed(rows) {
    if (rows.length) this.review.emit("cells", { rows });
    if (rows.length && (this.review.estimated || this.review.reading)) this.review.emit("differential");
  }

  #announce() {
    this.#emit("saved", { unsaved: this.unsaved });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  on(type, listener) {
    this.addEventListener(type, (event) => listener(event.detail));
  }
}

/** Return the cells that two lists of entries have in common. */
export function sharedCells(some, others) {
  const cells = new Set(some.flatMap(cellsOf));
  return [...new Set(others.flatMap(cellsOf))].filter((cell) => cells.has(cell));
}
