/** What the page tells about the journal: saved or not, edits of other readers, conflicts. */

import { dismiss, notice } from "./dialogs.js";
import { cellsOf } from "./edits.js";
import { sharedCells } from "./journal.js";
import { count, shortName } from "./words.js";

/**
 * Show what happens to edits.
 *
 * @param {Object} page the parts of the page: review, journal, gallery
 * @param {HTMLElement} saved where "saved" stands
 */
export function connectNotices(page, saved) {
  const { journal } = page;
  journal.on("saved", ({ unsaved }) => {
    saved.dataset.state = journal.failures ? "bad" : unsaved ? "saving" : "saved";
    saved.textContent = journal.failures ? `${count(journal.pending.length, "edit")} not saved` : unsaved ? "saving" : "saved";
    if (!journal.failures) dismiss("trouble");
  });
  journal.on("trouble", ({ message }) => {
    const waiting = journal.pending.length ? ` ${count(journal.pending.length, "edit")} will be sent again; keep this page open.` : "";
    if (journal.failures || journal.pending.length) notice(`${message}${waiting}`, { kind: "bad", stays: true, name: "trouble" });
  });
  journal.on("refused", ({ message }) => notice(`Not written: ${message}`, { kind: "bad", stays: true, name: "refused" }));
  journal.on("others", ({ entries }) => others(page, entries));
  journal.on("conflict", (detail) => conflict(page, detail));
}

function others(page, entries) {
  const by = new Map();
  for (const entry of entries) {
    if (!["assign", "adjudicate", "comment", "undo", "redo"].includes(entry.action)) continue;
    by.set(entry.reader, [...(by.get(entry.reader) ?? []), entry]);
  }
  for (const [reader, list] of by) {
    const cells = new Set(list.flatMap(cellsOf)).size;
    const name = reader === page.review.reader ? "You, in another window," : reader;
    notice(`${name} changed ${cells ? count(cells, "cell") : "the review"}; merged.`, {
      name: `others ${reader}`,
      details: list.slice(-5).flatMap((entry) => lines(page, entry)),
    });
  }
}

function conflict(page, { entries, newer, message }) {
  const { review } = page;
  const shared = sharedCells(entries, newer);
  const rows = shared.map((key) => review.rowOf.get(key)).filter((row) => row !== undefined);
  const again = entries.filter((entry) => entry.action === "assign");
  const actions = [];
  if (rows.length) actions.push(["Show the cell", () => page.gallery.moveToRow(rows[0])]);
  if (again.length && review.open) {
    actions.push(["Write mine after all", () => again.forEach((entry) => page.journal.record(current(review, entry)))]);
  }
  notice(`Not written: ${message}.`.replace("..", "."), {
    kind: "bad",
    stays: true,
    name: "conflict",
    details: [
      ...newer.slice(-5).flatMap((entry) => lines(page, entry)),
      ...again.slice(0, 3).flatMap((entry) => lines(page, { ...entry, reader: "your edit" })),
    ],
    actions,
  });
}

/** Return an assignment with the classes from which it starts now. */
function current(review, entry) {
  const cells = entry.cells
    .filter(({ cell }) => review.rowOf.has(cell))
    .map((change) => ({ ...change, from: review.cells.now[review.rowOf.get(change.cell)] }));
  return { ...entry, cells };
}

function lines(page, entry) {
  const place = (key) => {
    const row = page.review.rowOf.get(key);
    return row === undefined ? "a cell that is no longer there" : `cell of field ${page.review.cells.field[row]}`;
  };
  if (entry.action === "assign") {
    return entry.cells.slice(0, 4).map(({ cell, from, to }) => `${entry.reader}: ${place(cell)}, ${shortName(from)} → ${shortName(to) || "the model's call"}`);
  }
  if (entry.action === "adjudicate") return [`${entry.reader} decided: ${place(entry.cell)}, ${shortName(entry.to)}`];
  if (entry.action === "comment") return [`${entry.reader}: “${entry.text}”`];
  if (["undo", "redo", "sign", "unsign", "amend"].includes(entry.action)) return [`${entry.reader}: ${entry.action}`];
  return [];
}
