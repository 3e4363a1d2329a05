/**
 * One gallery of cells: a listbox with a window of live tiles, a cursor, and chosen cells.
 *
 * Events: `cursor` (the cell that keys act on changed), `choice`, `arranged`.
 */

import { element, fill } from "./dom.js";
import { arrange, defaultOrder } from "./cell_order.js";
import { CAPTION_PX, GalleryLayout } from "./gallery_layout.js";
import { Selection } from "./selection.js";
import { Tiles } from "./tiles.js";
import { count, shortName, spoken } from "./words.js";

let number = 0;

export class Gallery extends EventTarget {
  /**
   * @param {HTMLElement} host
   * @param {Object} page the parts of the page: review, images, view
   * @param {string} label what a screen reader calls it
   */
  constructor(host, page, label) {
    super();
    this.page = page;
    this.options = defaultOrder();
    this.selection = new Selection();
    this.hovered = null;
    number += 1;
    this.headings = element("div", { class: "headings" });
    this.list = element("div", {
      class: "tiles",
      role: "listbox",
      tabindex: "0",
      "aria-multiselectable": "true",
      "aria-label": label,
      "aria-describedby": "gallery-help",
    });
    this.empty = element("p", { class: "empty", hidden: true }, "No cell matches these filters.");
    this.scroller = element("div", { class: "scroller" }, this.headings, this.list, this.empty);
    fill(host, this.scroller);
    this.tiles = new Tiles(this.list, page, `cell-${number}`);
    this.scroller.addEventListener("scroll", () => this.#window(), { passive: true });
    new ResizeObserver(() => this.#resized()).observe(this.scroller);
    page.images.onLoad((row) => this.tiles.draw(row));
    page.view.addEventListener("change", () => this.#viewChanged());
    page.review.on("cells", ({ rows }) => rows.forEach((row) => this.tiles.update(row)));
  }

  /** Change the order or the filters, and sort again. The cursor stays at its cell where it is still shown. */
  arrange(options = {}) {
    const row = this.layout?.rows[this.selection.cursor];
    Object.assign(this.options, options);
    this.sections = arrange(this.page.review, this.options);
    this.selection.chosen.clear();
    this.#measure();
    const position = this.layout.positions.get(row) ?? 0;
    this.selection.moveTo(position, this.layout.rows, false);
    this.#reveal();
    this.#emit("arranged");
    this.#moved();
  }

  #viewChanged() {
    const { tile, brightness, contrast } = this.page.view;
    this.list.style.setProperty("--brightness", `${brightness}%`);
    this.list.style.setProperty("--contrast", `${contrast}%`);
    this.list.classList.toggle("adjusted", brightness !== 100 || contrast !== 100);
    if (this.layout && tile !== this.tileSize) {
      this.#measure();
      this.#reveal();
    } else this.tiles.drawAll();
  }

  #resized() {
    if (this.layout && this.scroller.clientWidth !== this.width) {
      this.#measure();
      this.#reveal();
    } else this.#window();
  }

  #measure() {
    this.width = this.scroller.clientWidth;
    this.tileSize = this.page.view.tile;
    this.layout = new GalleryLayout(this.sections, this.width, this.tileSize);
    this.list.style.height = `${this.layout.height}px`;
    this.list.style.setProperty("--tile", `${this.layout.tile}px`);
    this.list.style.setProperty("--caption", `${CAPTION_PX}px`);
    this.empty.hidden = this.layout.length > 0;
    this.list.setAttribute("aria-roledescription", `gallery of ${count(this.layout.length, "cell")}`);
    this.tiles.reset();
    this.#drawHeadings();
    this.#window();
  }

  #drawHeadings() {
    fill(
      this.headings,
      this.layout.sections
        .filter((section) => section.name)
        .map((section) => {
          const heading = element(
            "div",
            { class: "section-heading", dataset: { answer: section.name, colour: this.page.review.colour(section.name) } },
            element("h3", {}, element("span", { class: "swatch" }), shortName(section.name)),
            element("span", { class: "soft" }, count(section.length, "cell")),
            element(
              "button",
              {
                type: "button",
                class: "quiet",
                "aria-label": `Select all cells of ${spoken(section.name)}`,
                on: { click: () => this.selectSection(section) },
              },
              "Select all",
            ),
          );
          heading.style.transform = `translateY(${section.top}px)`;
          return heading;
        }),
    );
  }

  /** Show the tiles of the window, and fetch ahead what the next keys reach. */
  #window() {
    if (!this.layout) return;
    const { scrollTop, clientHeight } = this.scroller;
    const range = this.layout.between(scrollTop, scrollTop + clientHeight);
    this.tiles.show(this.layout, range, this.selection);
    this.#activeDescendant();
    this.#fetch(range);
  }

  #fetch([first, last]) {
    const { rows, length } = this.layout;
    const page = Math.max(this.layout.columns, last - first);
    const next = this.page.review.differential?.stop?.next ?? [];
    const section = length ? this.layout.sectionStep(this.selection.cursor, 1) : 0;
    this.page.images.want([
      ...rows.slice(first, last),
      ...rows.slice(last, last + page),
      ...rows.slice(Math.max(0, first - page), first),
      ...next.slice(0, 5),
      ...rows.slice(section, section + this.layout.columns),
      ...rows.slice(Math.max(0, length - page)),
      ...rows.slice(0, page),
    ]);
  }

  /** Return the number of positions in one page. */
  get pageLength() {
    return this.layout.columns * Math.max(1, Math.floor(this.scroller.clientHeight / this.layout.pitch.y));
  }

  /** Move the cursor. @param {number} position @param {{extend?: boolean}} [options] */
  moveTo(position, { extend = false } = {}) {
    if (!this.layout.length) return;
    this.hovered = null;
    this.selection.moveTo(position, this.layout.rows, extend);
    this.#reveal();
    this.#moved();
  }

  /** Move the cursor to a row, if it is shown. @returns {boolean} */
  moveToRow(row) {
    const position = this.layout.positions.get(row);
    if (position === undefined) return false;
    this.moveTo(position);
    return true;
  }

  #moved() {
    this.tiles.markAll(this.selection);
    this.#activeDescendant();
    this.#emit("cursor");
    this.#emit("choice");
  }

  #activeDescendant() {
    const tile = this.tiles.live.get(this.selection.cursor);
    if (tile) this.list.setAttribute("aria-activedescendant", tile.id);
    else this.list.removeAttribute("aria-activedescendant");
  }

  /** Scroll so that the cursor shows. */
  #reveal() {
    if (!this.layout.length) return this.#window();
    const { top } = this.layout.place(this.selection.cursor);
    const { scrollTop, clientHeight } = this.scroller;
    const section = this.layout.sectionOf(this.selection.cursor);
    const above = top === section.body ? section.top : top;
    if (above < scrollTop) this.scroller.scrollTop = above;
    else if (top + this.layout.pitch.y > scrollTop + clientHeight) {
      this.scroller.scrollTop = top + this.layout.pitch.y - clientHeight;
    }
    return this.#window();
  }

  /** Add or remove one cell from the choice. */
  toggle(position) {
    this.hovered = null;
    this.selection.toggle(position, this.layout.rows);
    this.#moved();
  }

  /** Choose all cells of the section at the cursor, or of a given one. */
  selectSection(section = this.layout.sectionOf(this.selection.cursor)) {
    if (!section) return;
    if (this.layout.sectionOf(this.selection.cursor) !== section) this.moveTo(section.first);
    this.selection.choose(this.layout.rows.slice(section.first, section.first + section.length));
    this.#moved();
    this.list.focus();
  }

  /** Give up the choice. */
  clear() {
    this.selection.chosen.clear();
    this.#moved();
  }

  /** The row that keys act on and that the inspector shows; null in an empty gallery. */
  get active() {
    return this.hovered ?? this.layout?.rows[this.selection.cursor] ?? null;
  }

  /** The rows that keys act on. */
  get targets() {
    if (this.selection.chosen.size) return this.selection.targets(this.layout.rows);
    return this.active === null ? [] : [this.active];
  }

  #emit(type) {
    this.dispatchEvent(new Event(type));
  }
}
