/**
 * The state of one sample under review: its cells, what they are called now, and the differential.
 *
 * Events: `cells` (detail.rows changed), `differential`, `state`, `loaded`.
 */

import { Edits } from "./edits.js";
import { getJson, sampleUrl } from "./http.js";
import { spoken } from "./words.js";

/** How often a sample is read again because an edit came between. */
const READS = 5;

export class Review extends EventTarget {
  /** @param {string} sample its name */
  constructor(sample) {
    super();
    this.sample = sample;
  }

  /** Read the sample from the server. */
  async load() {
    await this.#read();
    this.loaded = true;
    this.emit("loaded");
  }

  async #read() {
    let [body, history] = [];
    for (let tries = 0; tries < READS; tries++) {
      const { head } = this;
      body = await getJson(sampleUrl(this.sample));
      history = await getJson(sampleUrl(this.sample, "/entries?after="));
      if (body.head === history.head && this.head === head) break; // else an edit came between
    }
    // In one go from here on: no key may meet the cells of the one and the entries of the other.
    this.loaded = false;
    this.#take(body);
    this.edits.remember(history.newer);
    if (this.edits.stale) this.#restore();
  }

  /** Read the columns again, for instance after another process replaced the cells. */
  reload() {
    this.reloading ??= this.#read().then(
      () => {
        this.reloading = null;
        this.loaded = true;
        this.emit("loaded");
        this.emit("differential");
        this.emit("state");
      },
      (error) => {
        this.reloading = null;
        throw error;
      },
    );
    return this.reloading;
  }

  /** Return whether an answer is of other cells than the page has, or of a blind reading begun or ended elsewhere. */
  isOutdated(body) {
    const reading = "reading" in body && Boolean(body.reading) !== Boolean(this.reading);
    return reading || ("digest" in body && body.digest !== this.digest);
  }

  #take(body) {
    this.columns = body.cells;
    this.reader = body.reader;
    this.classes = body.classes;
    this.extraClasses = body.extra_classes ?? [];
    this.keys = body.keys;
    this.heads = body.heads ?? [];
    this.modalities = body.modalities;
    this.digest = body.digest;
    this.strip = body.strip;
    /** The reading in progress of this reader, whose answers hide the model's; null outside of one. */
    this.reading = body.reading ?? null;
    this.cells = body.cells;
    this.size = body.cells.key.length;
    this.rowOf = new Map(body.cells.key.map((key, row) => [key, row]));
    this.comments = new Map(Object.entries(body.comments ?? {}));
    this.edits = new Edits(this);
    if (this.reading) this.#beginReading();
    this.#given = structuredClone({ now: body.cells.now, looked: body.cells.looked, excluded: body.cells.excluded });
    this.takeSummary(body);
  }

  /** In a blind reading, what a cell is called is what this reader called it; the counts are of these calls. */
  #beginReading() {
    const { cells, reading } = this;
    cells.now = cells.key.map((key) => reading.calls[key] ?? "");
    cells.looked = cells.now.map((name) => (name ? 1 : 0));
    const called = (name) => cells.now.filter((now) => now === name).length;
    const after = this.counted.map((name) => ({ name, count: called(name), interval_percent: null, reference_percent: null }));
    const counted = after.reduce((sum, entry) => sum + entry.count, 0);
    for (const entry of after) entry.percent = counted ? (100 * entry.count) / counted : null;
    this.differential = {
      before: null,
      after,
      counted,
      extra: this.extraClasses.filter(({ name }) => !this.counted.includes(name)).map(({ name }) => ({ name, count: called(name), per_100_wbc: null })),
      unidentified: called("unidentified"),
      not_classed: called("not_classed"),
      artefact: called("artefact"),
    };
  }

  /** The server's word on each cell, where the history names cells that are no longer there. */
  #given = {};

  #restore() {
    Object.assign(this.cells, structuredClone(this.#given));
    this.edits.stale = false;
  }

  /** Take what every answer carries: head, undo and redo lists, differential, checks, state. */
  takeSummary(body) {
    if (body.head !== undefined) this.head = body.head;
    if (body.undo) this.undo = body.undo;
    if (body.redo) this.redo = body.redo;
    if (body.checks) this.checks = body.checks;
    if (body.differential) {
      this.differential = body.differential;
      this.estimated = false;
      this.emit("differential");
    }
    if (body.state && body.state !== this.state) {
      this.state = body.state;
      this.emit("state");
    }
  }

  emit(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  on(type, listener) {
    this.addEventListener(type, (event) => listener(event.detail));
  }

  /** Return the model's call of a cell; empty in a blind reading, where it is hidden. */
  machineClass(row) {
    const machine = this.cells.machine;
    if (!machine) return "";
    return machine[row] < 0 ? "unidentified" : this.classes[machine[row]];
  }

  /** Return every answer that a reader can give: classes, extra classes, and the three that are no class. */
  get answers() {
    return [...new Set([...this.classes, ...this.extraClasses.map((extra) => extra.name), "unidentified", "not_classed", "artefact"])];
  }

  /** Return the key of an answer, or "". */
  keyOf(answer) {
    return Object.keys(this.keys).find((key) => this.keys[key] === answer) ?? "";
  }

  /** Classes of the differential: those of the model, and the laboratory's extra white cells. */
  get counted() {
    return [...this.classes, ...this.extraClasses.filter((extra) => extra.per_100_wbc === false).map((extra) => extra.name)];
  }

  /** Return the colour index of a class: its place among those of the differential, -1 for the rest. */
  colour(name) {
    const place = this.counted.indexOf(name);
    return place < 0 ? -1 : place % 7;
  }

  /** Return whether a reader gave a cell another class, or one that makes a flagged cell count. */
  isChanged(row) {
    const { cells } = this;
    if (!cells.machine) return false;
    return cells.now[row] !== this.machineClass(row) || cells.excluded[row] !== cells.flagged[row];
  }

  /** Return whether a person may change cells: not while the sample is signed. */
  get open() {
    return this.state !== "verified" && this.state !== "corrected";
  }

  /**
   * Set the class of a cell, and estimate the counts until the server sends the differential.
   *
   * @param {number} row
   * @param {string} name its class
   * @param {string} excluded why it does not count, or ""
   */
  setClass(row, name, excluded) {
    const { cells } = this;
    const before = this.#line(row);
    cells.now[row] = name;
    if (!this.reading) cells.excluded[row] = excluded;
    const after = this.#line(row);
    if (this.loaded && this.differential && before !== after) this.#move(before, after);
  }

  /** Return the line of the differential in which a cell stands; "" for none, as of a cell that a flag excludes. */
  #line(row) {
    const { now, excluded } = this.cells;
    return this.reading || !excluded[row] || excluded[row] === now[row] ? now[row] : "";
  }

  #move(from, to) {
    const { differential } = this;
    for (const [name, step] of [[from, -1], [to, 1]]) {
      const entry = differential.after.find((one) => one.name === name);
      const extra = differential.extra?.find((one) => one.name === name);
      if (entry) {
        entry.count += step;
        differential.counted += step;
      } else if (extra) extra.count += step;
      else if (name in differential) differential[name] += step;
    }
    for (const entry of differential.after) {
      entry.percent = differential.counted ? (100 * entry.count) / differential.counted : null;
    }
    this.estimated = !this.reading;
  }

  /** Return how a screen reader names a cell: "cell 37 of 212, neutrophil, 0.81, field 12". */
  spokenName(row, position, total) {
    const { cells } = this;
    const parts = [`cell ${position + 1} of ${total}`];
    if (cells.now) parts.push(spoken(cells.now[row]) || "no call");
    const confidence = cells.confidence?.[row] ?? null;
    if (confidence !== null) parts.push(confidence.toFixed(2));
    parts.push(`field ${cells.field[row]}`);
    if (this.isChanged(row)) parts.push(`changed from ${spoken(this.machineClass(row))}`);
    if (cells.excluded?.[row]) parts.push(`excluded: ${cells.excluded[row].replaceAll("_", " ")}`);
    return parts.join(", ");
  }
}
