/**
 * Applies journal entries to the cells: what each cell is called now, who looked, and the comments.
 *
 * The rules are those of the server's replay: the last assignment that is not undone counts, "" is the machine's call.
 */

/** @typedef {{id: string, action: string, reader?: string, time?: string, cells?: Array, target?: string}} Entry */
/** @typedef {{id: string, entry: Entry, undone: boolean}} Recorded */

/** Answers after which a cell does not count, and each is its own reason. */
const APART = ["not_classed", "artefact"];

export class Edits {
  /** @param {import("./review.js").Review} review */
  constructor(review) {
    this.review = review;
    /** @type {Map<string, Recorded>} by id */
    this.recorded = new Map();
    /** @type {Map<number, Recorded[]>} the assignments of a row, oldest first */
    this.assignments = new Map();
    /** @type {Map<number, Map<string, string>>} row to reader to the class that the reader saw; "" if not known */
    this.looks = new Map();
    /** An entry could not be applied: the columns must be read again from the server. */
    this.stale = false;
  }

  /**
   * Apply an entry to the columns.
   *
   * @param {Entry} entry
   * @returns {number[]} the rows that it touches
   */
  apply(entry) {
    if (entry.id && this.recorded.has(entry.id)) return [];
    const recorded = { id: entry.id, entry, undone: false };
    if (entry.id) this.recorded.set(entry.id, recorded);
    return this.#perform(recorded);
  }

  #perform(recorded) {
    const { entry } = recorded;
    switch (entry.action) {
      case "assign":
      case "adjudicate":
        return this.#assign(recorded);
      case "call": {
        const rows = this.review.reading ? this.#rows([entry.cell]) : [];
        for (const row of rows) {
          this.review.setClass(row, entry.to, "");
          this.review.cells.looked[row] = 1;
        }
        return rows;
      }
      case "look":
        return this.#look(entry);
      case "undo":
      case "redo":
        return this.#turn(entry.target, entry.action === "undo");
      case "comment":
        this.#comment(recorded);
        return entry.cell ? this.#rows([entry.cell]) : [];
      case "cells_replaced":
        this.stale = true;
        return [];
      default:
        return [];
    }
  }

  #assign(recorded) {
    const rows = this.#rows(cellsOf(recorded.entry));
    for (const row of rows) {
      const list = this.assignments.get(row) ?? [];
      list.push(recorded);
      this.assignments.set(row, list);
      this.#recompute(row);
    }
    return rows;
  }

  #look(entry) {
    const rows = [];
    entry.cells.forEach((key, position) => {
      const [row] = this.#rows([key]);
      if (row === undefined) return;
      const looks = this.looks.get(row) ?? new Map();
      looks.set(entry.reader, entry.seen?.[position] ?? "");
      this.looks.set(row, looks);
      this.#markLooked(row);
      rows.push(row);
    });
    return rows;
  }

  /** A cell was looked at if a reader gave it its class, or saw it with the class that it has now. */
  #markLooked(row) {
    const { cells } = this.review;
    if (!cells.looked) return;
    const seen = [...(this.looks.get(row)?.values() ?? [])];
    cells.looked[row] = Number(Boolean(this.#given(row)) || seen.includes("") || seen.includes(cells.now[row]));
  }

  /** Return the class that readers gave a row; "" where it is the model's. */
  #given(row) {
    const last = this.assignments.get(row)?.findLast((recorded) => !recorded.undone);
    return last ? toOf(last.entry, this.review.cells.key[row]) : "";
  }

  #turn(target, undone) {
    const recorded = this.recorded.get(target);
    if (!recorded) {
      this.stale = true;
      return [];
    }
    recorded.undone = undone;
    if (recorded.entry.action === "comment") {
      this.review.comments.get(recorded.entry.cell ?? "")?.forEach((comment) => {
        if (comment.id === target) comment.undone = undone;
      });
      return recorded.entry.cell ? this.#rows([recorded.entry.cell]) : [];
    }
    const rows = this.#rows(cellsOf(recorded.entry));
    rows.forEach((row) => this.#recompute(row));
    return rows;
  }

  #comment({ id, entry }) {
    const key = entry.cell ?? "";
    const list = this.review.comments.get(key) ?? [];
    if (!list.some((comment) => comment.id === id)) {
      list.push({ id, reader: entry.reader ?? this.review.reader, time: entry.time ?? new Date().toISOString(), text: entry.text });
    }
    this.review.comments.set(key, list);
  }

  #recompute(row) {
    const { review } = this;
    const given = this.#given(row);
    const apart = APART.includes(given) || (given !== "unidentified" && !review.counted.includes(given));
    if (given) review.setClass(row, given, apart ? given : "");
    else review.setClass(row, review.machineClass(row), review.cells.flagged[row]);
    this.#markLooked(row);
  }

  #rows(keys) {
    const rows = [];
    for (const key of keys) {
      const row = this.review.rowOf.get(key);
      if (row === undefined) this.stale = true;
      else rows.push(row);
    }
    return rows;
  }

  /**
   * Give an entry that was applied before its answer the id that the server gave it. One that a reload forgot meanwhile
   * is applied now.
   *
   * @returns {number[]} the rows that change by it
   */
  confirm(local, entry) {
    const recorded = this.recorded.get(local);
    if (!recorded) return this.apply(entry);
    this.recorded.delete(local);
    recorded.id = entry.id;
    recorded.entry = entry;
    this.recorded.set(entry.id, recorded);
    if (entry.action === "comment") {
      this.review.comments.get(entry.cell ?? "")?.forEach((comment) => {
        if (comment.id === local) comment.id = entry.id;
      });
    }
    return [];
  }

  /** Take back an entry that the server refused. @returns {number[]} the rows that it touches */
  revoke(local) {
    const recorded = this.recorded.get(local);
    if (!recorded) return [];
    this.recorded.delete(local);
    const { entry } = recorded;
    if (entry.action === "undo" || entry.action === "redo") return this.#turn(entry.target, entry.action === "redo");
    if (entry.action === "comment") {
      const key = entry.cell ?? "";
      this.review.comments.set(key, (this.review.comments.get(key) ?? []).filter((comment) => comment.id !== local));
      return entry.cell ? this.#rows([entry.cell]) : [];
    }
    if (entry.action !== "assign") return [];
    const rows = this.#rows(cellsOf(entry));
    for (const row of rows) {
      this.assignments.set(row, (this.assignments.get(row) ?? []).filter((other) => other !== recorded));
      this.#recompute(row);
    }
    return rows;
  }

  /** Remember entries made before the page was opened; the columns that came with them hold their effect. */
  remember(entries) {
    for (const entry of entries) this.apply(entry);
  }

  /** Return the assignments of a row, oldest first, with whether they are undone. */
  history(row) {
    return this.assignments.get(row) ?? [];
  }
}

/** Return the keys of the cells that an entry names. */
export function cellsOf(entry) {
  if (entry.action === "assign") return entry.cells.map((change) => change.cell);
  if (entry.action === "look") return entry.cells;
  return entry.cell ? [entry.cell] : [];
}

function toOf(entry, key) {
  return entry.action === "assign" ? entry.cells.find((change) => change.cell === key)?.to : entry.to;
}
