/** The live tiles of a gallery: about fifty elements, used again for other cells as the gallery scrolls. */

import { drawCell, drawOutline } from "./draw_cell.js";
import { element, setText } from "./dom.js";
import { flagNames, shortName } from "./words.js";

export class Tiles {
  /**
   * @param {HTMLElement} list the listbox that holds the tiles
   * @param {Object} page the parts of the page: review, images, view
   * @param {string} prefix of the ids of the tiles
   */
  constructor(list, page, prefix) {
    this.list = list;
    this.page = page;
    this.prefix = prefix;
    /** @type {Map<number, HTMLElement>} by position */
    this.live = new Map();
    this.spare = [];
  }

  /** Show the positions of a range, and only these. */
  show(layout, [first, last], selection) {
    this.layout = layout;
    for (const [position, tile] of this.live) {
      if (position < first || position >= last) {
        this.live.delete(position);
        this.spare.push(tile);
      }
    }
    for (let position = first; position < last; position++) {
      if (!this.live.has(position)) this.#place(position);
      this.mark(position, selection);
    }
    for (const tile of this.spare) {
      tile.hidden = true;
      tile.removeAttribute("id");
      tile.classList.remove("cursor");
    }
  }

  /** Let every tile be placed again: the order or the size changed. */
  reset() {
    this.spare.push(...this.live.values());
    this.live.clear();
  }

  #place(position) {
    const tile = this.spare.pop() ?? this.#create();
    const { left, top } = this.layout.place(position);
    tile.hidden = false;
    tile.style.transform = `translate(${left}px, ${top}px)`;
    tile.id = `${this.prefix}-${position}`;
    tile.dataset.row = String(this.layout.rows[position]);
    tile.dataset.position = String(position);
    tile.setAttribute("aria-posinset", String(position + 1));
    tile.setAttribute("aria-setsize", String(this.layout.length));
    this.live.set(position, tile);
    this.#caption(tile, position);
    this.#draw(tile);
  }

  #create() {
    const tile = element(
      "div",
      { class: "tile", role: "option", draggable: "true" },
      element("canvas", { width: 112, height: 112 }),
      element(
        "span",
        { class: "caption", "aria-hidden": "true" },
        element("span", { class: "call" }),
        element("span", { class: "marks" }),
        element("span", { class: "confidence" }),
      ),
    );
    this.list.append(tile);
    return tile;
  }

  /** Write the class and the marks of a row's tile, if it is live. */
  update(row) {
    const position = this.layout?.positions.get(row);
    const tile = position === undefined ? undefined : this.live.get(position);
    if (tile) this.#caption(tile, position);
  }

  #caption(tile, position) {
    const { review } = this.page;
    const { cells } = review;
    const row = this.layout.rows[position];
    const [call, marks, confidence] = tile.lastChild.children;
    const now = cells.now?.[row] ?? "";
    setText(call, shortName(now) || "–");
    tile.dataset.colour = String(review.colour(now));
    setText(confidence, (cells.confidence?.[row] ?? null) === null ? "" : cells.confidence[row].toFixed(2));
    setText(marks, this.#marks(row));
    tile.classList.toggle("changed", review.isChanged(row));
    tile.classList.toggle("looked", Boolean(cells.looked?.[row]));
    tile.classList.toggle("excluded", Boolean(cells.excluded?.[row]));
    tile.setAttribute("aria-label", review.spokenName(row, position, this.layout.length));
    tile.title = this.#title(row);
  }

  #marks(row) {
    const { review } = this.page;
    const { cells } = review;
    let marks = "";
    if (review.isChanged(row)) marks += "✎";
    if (cells.looked?.[row]) marks += "✓";
    if (review.comments.get(cells.key[row])?.length) marks += "❝";
    if (cells.excluded?.[row]) marks += "⊘";
    return marks;
  }

  #title(row) {
    const { cells } = this.page.review;
    const flags = flagNames(cells.flags?.[row] ?? 0);
    return flags.length ? `flags: ${flags.join(", ")}` : "";
  }

  /** Show whether a position is chosen, and whether the cursor is there. */
  mark(position, selection) {
    const tile = this.live.get(position);
    if (!tile) return;
    const chosen = selection.chosen.has(this.layout.rows[position]);
    const selected = String(chosen);
    if (tile.getAttribute("aria-selected") !== selected) tile.setAttribute("aria-selected", selected);
    tile.classList.toggle("cursor", position === selection.cursor);
  }

  /** Mark all live tiles. */
  markAll(selection) {
    for (const position of this.live.keys()) this.mark(position, selection);
  }

  /** Draw the image of a row, if its tile is live. */
  draw(row) {
    const position = this.layout?.positions.get(row);
    const tile = position === undefined ? undefined : this.live.get(position);
    if (tile) this.#draw(tile);
  }

  /** Draw all live tiles again. */
  drawAll() {
    for (const tile of this.live.values()) this.#draw(tile);
  }

  #draw(tile) {
    const { images, review, view } = this.page;
    const row = Number(tile.dataset.row);
    const canvas = tile.firstChild;
    const bitmap = images.get(row);
    tile.classList.toggle("loading", !bitmap);
    if (!bitmap) {
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      return;
    }
    drawCell(canvas, bitmap, review.strip, view.shown);
    if (view.outlines) {
      const outline = images.outline(row, (arrived) => this.draw(arrived));
      if (outline) drawOutline(canvas, outline);
    }
  }
}
