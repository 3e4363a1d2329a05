/** The field around a cell with its neighbours outlined, beside the map of the slide. */

import { button, element, fill, setText, svg } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { getJson, sampleUrl } from "./http.js";
import { SlideMap } from "./slide_map.js";
import { count, modalityName, shortName } from "./words.js";

/**
 * Open the field of a row. Closing goes back to the same place in the gallery.
 *
 * @param {Object} page the parts of the page: review, view, gallery
 * @param {number} row
 */
export function openField(page, row) {
  return new FieldView(page, row);
}

function labelOf(modality) {
  return modality === "composite" ? "Colour" : modalityName(modality);
}

class FieldView {
  constructor(page, row) {
    this.page = page;
    this.row = row;
    this.index = page.review.cells.field[row];
    const { modalities, strip } = page.review;
    /** What the field can be shown in; the server's name of the colour image is "composite". */
    this.modalities = strip.composite ? [...modalities, "composite"] : modalities;
    this.modality = modalities.includes(page.view.channel) ? page.view.channel : this.modalities.at(strip.composite ? -1 : 0);
    this.zoom = 1;
    const arrived = () => setText(this.title, this.words ?? "");
    this.image = element("img", { alt: "", on: { load: arrived, error: () => setText(this.title, "The image of the field cannot be read.") } });
    this.overlay = svg("svg", { class: "overlay", role: "group", "aria-label": "Cells of the field" });
    this.picture = element("div", { class: "picture" }, this.image, this.overlay);
    this.frame = element("div", { class: "frame", tabindex: "0", "aria-label": "Field; scroll with the arrow keys" }, this.picture);
    this.title = element("p", { class: "soft", role: "status" });
    this.mapHost = element("div", { class: "map" });
    this.dialog = openDialog(
      `Field and slide`,
      [
        element("div", { class: "field-view" }, element("div", {}, this.#controls(), this.frame, this.title), element("div", {}, element("h3", {}, "Slide"), this.mapHost)),
      ],
      { wide: true },
    );
    this.dialog.addEventListener("keydown", (event) => this.#keys(event));
    this.map = new SlideMap(this.mapHost, page, (index) => this.#load(index));
    this.frame.focus();
    void this.#load(this.index, row);
  }

  #controls() {
    this.choices = this.modalities.map((name) => {
      const choice = button(labelOf(name), () => this.#show(name), { dataset: { channel: name } });
      choice.append(" ", element("kbd", {}, this.#keyOf(name)));
      return choice;
    });
    return element(
      "div",
      { class: "view-bar" },
      element("div", { class: "segmented", role: "group", "aria-label": "Modality" }, this.choices),
      element(
        "div",
        { class: "segmented", role: "group", "aria-label": "Zoom" },
        button("−", () => this.#scale(1 / 1.5), { "aria-label": "Smaller" }),
        button("+", () => this.#scale(1.5), { "aria-label": "Larger" }),
        button("Fit", () => this.#scale(0), { "aria-label": "Fit into the window" }),
      ),
    );
  }

  #keyOf(name) {
    return name === "composite" ? "8" : String(4 + this.modalities.indexOf(name));
  }

  #keys(event) {
    const modality = this.modalities.find((name) => this.#keyOf(name) === event.key);
    if (modality) this.#show(modality);
    else if (event.key === "+") this.#scale(1.5);
    else if (event.key === "-") this.#scale(1 / 1.5);
    else return;
    event.preventDefault();
  }

  async #load(index, row = null) {
    const { review } = this.page;
    this.index = index;
    this.row = row ?? this.row;
    this.map.mark(index, this.row);
    try {
      this.field = await getJson(sampleUrl(review.sample, `/fields/${index}.json?v=${review.digest}`));
    } catch (error) {
      fill(this.title, error.message);
      fill(this.overlay);
      this.image.removeAttribute("src");
      return;
    }
    if (this.index !== index) return;
    this.#show(this.modality);
    this.#outline();
    this.#scale(0);
    this.#center();
    this.words = `Field ${index}: ${count(this.field.cells.length, "cell")}. A click on a cell goes to it in the gallery.`;
  }

  #show(modality) {
    const { review } = this.page;
    this.modality = modality;
    fill(this.title, `Loading field ${this.index}`);
    this.image.src = sampleUrl(review.sample, `/fields/${this.index}.webp?modality=${encodeURIComponent(modality)}&v=${review.digest}`);
    this.image.alt = `Field ${this.index}, ${labelOf(modality)}`;
    this.choices.forEach((choice) => choice.setAttribute("aria-pressed", String(choice.dataset.channel === modality)));
  }

  #outline() {
    const { review } = this.page;
    const { width, height, cells } = this.field;
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    fill(
      this.overlay,
      cells.filter(({ outline }) => outline.length).map(({ row, outline }) => {
        const now = review.cells.now?.[row] ?? "";
        const top = outline.reduce((best, point) => (point[0] < best[0] ? point : best), outline[0]);
        const go = () => this.#go(row);
        return svg(
          "g",
          {
            class: row === this.row ? "outline here" : "outline",
            role: "button",
            tabindex: "0",
            "aria-label": `${row === this.row ? "this cell, " : ""}${shortName(now) || "cell"}`,
            dataset: { row, colour: review.colour(now) },
            on: { click: go, keydown: (event) => event.key === "Enter" && go() },
          },
          svg("polygon", { points: outline.map(([y, x]) => `${x},${y}`).join(" ") }),
          svg("text", { x: top[1], y: Math.max(40, top[0]), dy: "-.4em" }, shortName(now)),
        );
      }),
    );
  }

  #go(row) {
    this.dialog.close();
    const { gallery } = this.page;
    if (!gallery.moveToRow(row)) {
      gallery.arrange({ classes: [], work: "all", flag: -1 });
      gallery.moveToRow(row);
    }
  }

  /** Scale the picture by a factor; 0 fits it into the frame. */
  #scale(factor) {
    const fit = Math.min(this.frame.clientWidth / this.field.width, this.frame.clientHeight / this.field.height);
    this.zoom = factor ? Math.max(fit, Math.min(4, this.zoom * factor)) : fit;
    this.picture.style.width = `${this.field.width * this.zoom}px`;
    this.picture.style.height = `${this.field.height * this.zoom}px`;
    // The letters keep their size on the screen: the overlay's unit is a pixel of the field.
    this.overlay.style.fontSize = `${12 / this.zoom}px`;
    this.overlay.style.setProperty("--halo", `${3 / this.zoom}px`);
    if (factor) this.#center();
  }

  #center() {
    const cell = this.field.cells.find(({ row }) => row === this.row);
    if (!cell?.outline.length) return;
    const [y, x] = cell.outline[0];
    this.frame.scrollTo(x * this.zoom - this.frame.clientWidth / 2, y * this.zoom - this.frame.clientHeight / 2);
  }
}
