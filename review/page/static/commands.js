/** What a reader does to cells: assign, agree, undo, comment. Keys, buttons, menus and drags all end here. */

import { count, shortName, spoken } from "./words.js";

/** A cell counts as looked at once the cursor rested on it this long. */
const DWELL_MS = 600;
/** Looks are written together after this pause. */
const LOOK_PAUSE_MS = 1500;

export class Commands {
  /** @param {Object} page the parts of the page: review, journal, announce, gallery (the active one) */
  constructor(page) {
    this.page = page;
    /** @type {Map<number, string>} rows that were looked at, with the class they were shown with */
    this.looks = new Map();
    this.lookTimer = 0;
    this.dwell = 0;
    addEventListener("pagehide", () => this.writeLooks());
    document.addEventListener("visibilitychange", () => document.hidden && this.writeLooks());
  }

  /**
   * Assign cells to a class, and move on where one key was meant for the cell at the cursor.
   *
   * @param {number[]} rows
   * @param {string} to an answer, or "" for the model's call
   * @param {{via: string, moveOn?: boolean, why?: string}} options
   */
  assign(rows, to, { via, moveOn = false, why = "" }) {
    const { review, journal, gallery } = this.page;
    if (!this.#mayEdit() || !rows.length) return;
    if (this.page.adjudication) {
      if (to) this.page.adjudication.decide(rows, to);
    } else if (review.reading) {
      if (!to) return;
      const { reading } = review.reading;
      rows.forEach((row) => journal.record({ action: "call", reading, cell: review.cells.key[row], to }));
    } else {
      rows.forEach((row) => this.looks.delete(row));
      const cells = rows.map((row) => ({ cell: review.cells.key[row], from: review.cells.now[row], to }));
      journal.record({ action: "assign", cells, why, via });
    }
    const word = to ? spoken(to) : "the model's call";
    this.page.announce(rows.length === 1 ? word : `${count(rows.length, "cell")}: ${word}`);
    if (moveOn) this.#moveOn(gallery);
  }

  /** Take the n-th most likely class of the cell at the cursor. */
  assignCandidate(index) {
    const { review, gallery } = this.page;
    const row = gallery.active;
    const candidate = row === null ? undefined : review.cells.order3?.[row]?.[index];
    if (candidate === undefined) return;
    this.assign([row], review.classes[candidate], { via: "key", moveOn: true });
  }

  /** Record that the reader looked and agrees, and move on. */
  agree() {
    const { gallery } = this.page;
    if (!this.#mayEdit()) return;
    const rows = gallery.targets;
    if (!this.page.review.reading) rows.forEach((row) => this.#looked(row));
    if (rows.length > 1) this.page.announce(`looked at ${count(rows.length, "cell")}`);
    this.#moveOn(gallery);
  }

  #moveOn(gallery) {
    if (gallery.selection.chosen.size) {
      const last = Math.max(...gallery.targets.map((row) => gallery.layout.positions.get(row)));
      gallery.moveTo(last + 1);
    } else if (gallery.hovered === null) gallery.moveTo(gallery.selection.cursor + 1);
  }

  /** Note on which cell the cursor rests; after a while it has been looked at. */
  rest(row) {
    clearTimeout(this.dwell);
    const { review } = this.page;
    if (row === null || review.reading || !review.open || review.cells.looked[row] || document.hidden) return;
    this.dwell = setTimeout(() => this.#looked(row), DWELL_MS);
  }

  #looked(row) {
    const { review } = this.page;
    if (review.reading || review.cells.looked[row] || this.looks.has(row)) return;
    this.looks.set(row, review.cells.now[row]);
    clearTimeout(this.lookTimer);
    this.lookTimer = setTimeout(() => this.writeLooks(), LOOK_PAUSE_MS);
    review.cells.looked[row] = 1;
    review.emit("cells", { rows: [row] });
  }

  /** Write the looks that wait. */
  writeLooks() {
    clearTimeout(this.lookTimer);
    if (!this.looks.size) return;
    const { review, journal } = this.page;
    const cells = [...this.looks.keys()].map((row) => review.cells.key[row]);
    const seen = [...this.looks.values()];
    this.looks.clear();
    journal.record({ action: "look", cells, seen });
  }

  /** Undo or redo the last edit of this reader. */
  async turn(action) {
    const { journal, review } = this.page;
    if (!this.#mayEdit()) return;
    if (review.reading) {
      this.page.announce("In a blind reading, a later call replaces the earlier one.");
      return;
    }
    this.writeLooks();
    await journal.settled();
    const target = review.edits.recorded.get(review[action]?.at(-1));
    if (!journal.turn(action)) {
      const nothing = action === "undo" ? "Nothing to undo." : "Nothing to redo.";
      this.page.announce(journal.unsaved ? "Edits wait to be saved." : nothing, { visible: journal.unsaved });
      return;
    }
    this.page.announce(`${action === "undo" ? "Undone" : "Redone"}${describe(target?.entry)}`);
    this.#show(target?.entry);
  }

  /** Move to the first cell of an entry, so that the reader sees what changed. */
  #show(entry) {
    const key = entry?.action === "assign" ? entry.cells[0].cell : entry?.cell;
    const row = this.page.review.rowOf.get(key);
    if (row !== undefined) this.page.gallery.moveToRow(row);
  }

  /** Write a comment on a cell, or on the sample (null). */
  comment(row, text) {
    const { review, journal } = this.page;
    if (!text.trim() || !this.#mayEdit()) return;
    journal.record({ action: "comment", cell: row === null ? null : review.cells.key[row], text: text.trim() });
  }

  /** Go to the next (+1) cell that can still change the result. */
  nextDecisive() {
    const { review, gallery } = this.page;
    const next = (review.differential.stop?.next ?? []).filter((row) => !review.cells.looked[row] && row !== gallery.active);
    if (!next.length) this.page.announce("No cell can change the result any more.");
    else if (!gallery.moveToRow(next[0])) {
      gallery.arrange({ classes: [], work: "all", flag: -1 });
      gallery.moveToRow(next[0]);
    }
  }

  #mayEdit() {
    const { review } = this.page;
    if (review.open || review.reading) return true;
    this.page.announce("The sample is signed. Amend it to change cells.", { visible: true });
    return false;
  }
}

function describe(entry) {
  if (!entry) return ".";
  if (entry.action === "comment") return ": a comment.";
  if (entry.action === "adjudicate") return `: a decision for ${shortName(entry.to)}.`;
  const to = new Set(entry.cells.map((change) => change.to));
  const names = [...to].map((name) => shortName(name) || "the model's call").join(", ");
  return `: ${count(entry.cells.length, "cell")} to ${names}.`;
}
