/**
 * Adjudication: the gallery shows the cells on which two readers differ, and a class key decides.
 */

import { button, byId, element, fill, setText } from "./dom.js";
import { count, shortName } from "./words.js";

/**
 * Begin to adjudicate.
 *
 * @param {Object} page the parts of the page
 * @param {{first: string, second: string, differ: Array<{row: number, first: string, second: string}>}} comparison
 */
export function beginAdjudication(page, comparison) {
  page.adjudication?.end();
  page.adjudication = new Adjudication(page, comparison);
  page.adjudication.show();
}

class Adjudication {
  constructor(page, { first, second, differ }) {
    this.page = page;
    this.between = [first, second];
    this.calls = new Map(differ.map((cell) => [cell.row, cell]));
    this.decided = new Set();
    this.order = { ...page.gallery.options };
  }

  show() {
    const { page } = this;
    page.gallery.arrange({ rows: [...this.calls.keys()] });
    page.gallery.moveTo(0);
    this.#bar();
    page.gallery.list.focus();
    page.inspector.refresh();
  }

  #bar() {
    const bar = byId("mode");
    bar.hidden = false;
    this.progress = element("span", {});
    fill(
      bar,
      element("strong", {}, `Adjudication between ${this.between.join(" and ")}: `),
      this.progress,
      element("label", {}, "Why ", (this.why = element("input", { type: "text", maxlength: 500, placeholder: "may stay empty" }))),
      button("End", () => this.end()),
    );
    this.#count();
  }

  #count() {
    setText(this.progress, `${this.decided.size} of ${count(this.calls.size, "cell")} decided. A class key decides and moves on.`);
  }

  /** Return who called a cell what. */
  describe(row) {
    const cell = this.calls.get(row);
    if (!cell) return "";
    return `${this.between[0]}: ${shortName(cell.first)} · ${this.between[1]}: ${shortName(cell.second)}`;
  }

  /** Write the decision on cells. */
  decide(rows, to) {
    const { review, journal } = this.page;
    for (const row of rows) {
      if (!this.calls.has(row)) continue;
      journal.record({ action: "adjudicate", cell: review.cells.key[row], to, why: this.why.value.trim(), between: this.between });
      this.decided.add(row);
    }
    this.#count();
  }

  /** Show the cells as before. */
  end() {
    const { page } = this;
    byId("mode").hidden = true;
    page.adjudication = null;
    page.gallery.arrange({ ...this.order, rows: undefined });
    page.inspector.refresh();
    page.gallery.list.focus();
  }
}
