/** The laboratory's own adjudicated cells, by class, with their source. */

import { openDialog } from "./dialogs.js";
import { element } from "./dom.js";
import { getJson } from "./http.js";
import { shortName, spoken } from "./words.js";

const PER_CLASS = 24;
const BESIDE = 3;

/** Read the library once. */
export class Library {
  async load() {
    this.cells ??= await getJson("/api/library");
    return this.cells;
  }

  /**
   * Return some reference cells of each likely class of a cell, for the space beside it.
   *
   * @param {string[]} names classes, the likeliest first
   */
  async beside(names) {
    const cells = await this.load();
    const found = names.filter((name) => cells.some((cell) => cell.class === name));
    if (!found.length) return [element("p", { class: "soft small" }, "The library has no cell of these classes yet.")];
    return found.map((name) => section(name, cells.filter((cell) => cell.class === name).slice(0, BESIDE), false));
  }

  /**
   * Show all reference cells, and a cell over them.
   *
   * @param {Object} page the parts of the page
   * @param {number|null} row its likely classes come first
   */
  async show(page, row) {
    let cells;
    try {
      cells = await this.load();
    } catch (error) {
      page.announce(error.message, { visible: true });
      return;
    }
    const { review } = page;
    const likely = row === null ? [] : (review.cells.order3?.[row] ?? []).map((index) => review.classes[index]);
    const names = [...new Set([...likely, ...review.answers])].filter((name) => cells.some((cell) => cell.class === name));
    const content = names.length
      ? names.map((name) => section(name, cells.filter((cell) => cell.class === name), likely.includes(name)))
      : [element("p", {}, "The library is empty. Cells come into it when two readers agree on them, or when a third decides.")];
    const beside = row === null ? null : element("div", { class: "library-cell" }, element("h3", {}, "Your cell"), image(page.images.url(row), `The cell at the cursor`));
    openDialog("Reference cells", [element("div", { class: "library" }, beside, element("div", {}, content))], { wide: true });
  }
}

function section(name, cells, likely) {
  return element(
    "section",
    { class: likely ? "likely" : null },
    element("h3", {}, shortName(name), element("span", { class: "soft" }, ` ${spoken(name)}, ${cells.length}`)),
    element("div", { class: "strips" }, cells.slice(0, PER_CLASS).map((cell) => figure(cell))),
  );
}

function figure(cell) {
  return element("figure", {}, image(cell.url, `${spoken(cell.class)} of the library`), element("figcaption", { class: "soft" }, cell.source));
}

function image(url, alt) {
  return element("img", { src: url, alt, loading: "lazy", decoding: "async" });
}
