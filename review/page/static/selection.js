/** The cursor and the chosen cells of a gallery, by position; pure. */

export class Selection {
  constructor() {
    this.cursor = 0;
    this.anchor = 0;
    /** @type {Set<number>} rows that are chosen; the cell at the cursor counts where none is */
    this.chosen = new Set();
  }

  /** Move the cursor; the choice is gone unless it is extended to the new place. */
  moveTo(position, rows, extend) {
    this.cursor = Math.max(0, Math.min(rows.length - 1, position));
    if (!extend) {
      this.anchor = this.cursor;
      this.chosen.clear();
      return;
    }
    const [first, last] = [Math.min(this.anchor, this.cursor), Math.max(this.anchor, this.cursor)];
    this.chosen = new Set(rows.slice(first, last + 1));
  }

  /** Add or remove one cell; the cursor goes there. */
  toggle(position, rows) {
    if (!this.chosen.size && this.cursor !== position && rows.length) this.chosen.add(rows[this.cursor]);
    this.cursor = this.anchor = position;
    const row = rows[position];
    if (!this.chosen.delete(row)) this.chosen.add(row);
  }

  /** Choose many cells. */
  choose(chosen) {
    this.chosen = new Set(chosen);
  }

  /** Return the rows that a key acts on: the chosen ones in order of the gallery, else the one at the cursor. */
  targets(rows) {
    if (this.chosen.size) return rows.filter((row) => this.chosen.has(row));
    return rows.length ? [rows[this.cursor]] : [];
  }
}
