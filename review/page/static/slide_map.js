/** The map of the slide: fields taken, empty and missing ones, cells, and the height of the focus. */

import { element, fill, svg } from "./dom.js";
import { getJson, sampleUrl } from "./http.js";

const STATES = { complete: "with cells", empty: "empty", missing: "missing" };

export class SlideMap {
  /**
   * @param {HTMLElement} host
   * @param {Object} page the parts of the page: review
   * @param {function(number)} open called with the index of the field that a reader chose
   */
  constructor(host, page, open) {
    this.host = host;
    this.page = page;
    this.open = open;
    this.ready = this.#load();
  }

  async #load() {
    const { review } = this.page;
    try {
      this.map = await getJson(sampleUrl(review.sample, "/map"));
    } catch (error) {
      fill(this.host, element("p", { class: "soft" }, error.message));
      return;
    }
    this.#draw();
    this.mark(this.marked, this.row);
  }

  #draw() {
    const { fields, cells, focus } = this.map;
    if (!fields.length) {
      fill(this.host, element("p", { class: "soft" }, "The sample has no fields with positions."));
      return;
    }
    const left = Math.min(...fields.map((field) => field.x_um - field.width_um / 2));
    const top = Math.min(...fields.map((field) => field.y_um - field.height_um / 2));
    const right = Math.max(...fields.map((field) => field.x_um + field.width_um / 2));
    const bottom = Math.max(...fields.map((field) => field.y_um + field.height_um / 2));
    this.host.closest(".field-view")?.classList.toggle("wide-map", right - left > 2.5 * (bottom - top));
    const radius = Math.sqrt((right - left) * (bottom - top)) / 250;
    const heights = heightScale(focus ?? []);
    this.drawing = svg(
      "svg",
      { viewBox: `${left} ${top} ${right - left} ${bottom - top}`, role: "group", "aria-label": "Map of the slide" },
      svg("g", { class: "focus" }, (focus ?? []).map((point) => this.#focusPoint(point, heights, radius))),
      fields.map((field) => this.#field(field)),
      svg("g", { class: "cells" }, cells.x_um.map((x, row) => svg("circle", { cx: x, cy: cells.y_um[row], r: radius, dataset: { row } }))),
    );
    const counts = Object.entries(STATES).map(([state, words]) => {
      const number = fields.filter((field) => field.state === state).length;
      return element("li", { dataset: { state } }, element("span", { class: "swatch" }), `${number} ${words}`);
    });
    fill(
      this.host,
      this.drawing,
      element("ul", { class: "legend" }, counts),
      heights ? element("p", { class: "soft small" }, `Focus from ${heights.low.toFixed(1)} (dark) to ${heights.high.toFixed(1)} µm (light).`) : null,
    );
  }

  #field(field) {
    const choose = () => field.state !== "missing" && this.open(field.index);
    return svg(
      "rect",
      {
        class: "field",
        x: field.x_um - field.width_um / 2,
        y: field.y_um - field.height_um / 2,
        width: field.width_um,
        height: field.height_um,
        tabindex: field.state === "missing" ? null : "0",
        role: field.state === "missing" ? "img" : "button",
        "aria-label": `field ${field.index}, ${STATES[field.state]}`,
        dataset: { state: field.state, index: field.index },
        on: { click: choose, keydown: (event) => event.key === "Enter" && choose() },
      },
      svg("title", {}, `field ${field.index}: ${STATES[field.state]}`),
    );
  }

  #focusPoint(point, heights, radius) {
    const share = heights ? (point.z_um - heights.low) / Math.max(1e-9, heights.high - heights.low) : 0.5;
    const mark = svg("circle", { cx: point.x_um, cy: point.y_um, r: radius * 6 }, svg("title", {}, `focus ${point.z_um.toFixed(2)} µm`));
    mark.style.fillOpacity = String(0.1 + 0.6 * share);
    return mark;
  }

  /** Mark a field and a cell. */
  mark(index, row) {
    this.marked = index;
    this.row = row;
    if (!this.drawing) return;
    this.drawing.querySelectorAll(".here").forEach((node) => node.classList.remove("here"));
    this.drawing.querySelector(`.field[data-index="${index}"]`)?.classList.add("here");
    this.drawing.querySelector(`.cells [data-row="${row}"]`)?.classList.add("here");
  }
}

function heightScale(focus) {
  if (!focus.length) return null;
  const heights = focus.map((point) => point.z_um);
  return { low: Math.min(...heights), high: Math.max(...heights) };
}
