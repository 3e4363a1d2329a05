/** The controls over the gallery: channels, contrast, outlines, size of tiles, order and filters. */

import { SORTS, WORK } from "./cell_order.js";
import { channels } from "./draw_cell.js";
import { button, element, fill } from "./dom.js";
import { FLAGS, modalityLabel, modalityName } from "./words.js";

export class ViewBar {
  /**
   * @param {HTMLElement} host
   * @param {Object} page the parts of the page: review, view, gallery
   */
  constructor(host, page) {
    this.page = page;
    this.channels = element("div", { class: "segmented", role: "group", "aria-label": "Channel; hold the key to blink" });
    this.buttons = channels(page.review.strip).map(({ name, key }) => {
      const label = name === "colour" ? "Colour" : name === "blend" ? "Blend" : modalityLabel(name);
      const choice = button(label, () => page.view.set({ channel: name }), {
        dataset: { channel: name },
        "aria-keyshortcuts": key,
        title: `${label === modalityLabel(name) ? modalityName(name) : label}: hold ${key} to blink`,
      });
      choice.append(" ", element("kbd", {}, key));
      this.channels.append(choice);
      return choice;
    });
    this.outlines = button("Masks ", () => page.view.set({ outlines: !page.view.outlines }), { title: "Outlines of cell and nucleus (0)" });
    this.outlines.append(element("kbd", {}, "0"));
    this.order = element("div", { class: "order" });
    this.size = this.#size();
    fill(host, this.channels, this.outlines, this.#contrast(), this.order);
    page.view.addEventListener("change", () => this.update());
    this.arranged();
    this.update();
  }

  #contrast() {
    const slider = (name, label) => {
      const input = element("input", {
        type: "range",
        min: 40,
        max: 250,
        step: 5,
        "aria-label": label,
        on: { input: () => this.page.view.set({ [name]: Number(input.value) }) },
      });
      return input;
    };
    this.brightness = slider("brightness", "Brightness in per cent");
    this.contrast = slider("contrast", "Contrast in per cent");
    this.reset = button("Reset", () => this.page.view.resetContrast(), { class: "quiet" });
    return element(
      "details",
      { class: "popover" },
      element("summary", {}, "Contrast"),
      element("div", {}, element("label", {}, "Brightness ", this.brightness), element("label", {}, "Contrast ", this.contrast), this.reset),
    );
  }

  #size() {
    return element(
      "div",
      { class: "segmented", role: "group", "aria-label": "Size of the tiles" },
      button("−", () => this.page.view.zoom(-1), { "aria-label": "Smaller tiles", title: "Smaller tiles (−)" }),
      button("+", () => this.page.view.zoom(1), { "aria-label": "Larger tiles", title: "Larger tiles (+)" }),
    );
  }

  /** Show the order of the active gallery. */
  arranged() {
    const { gallery, review } = this.page;
    if (!gallery || review.reading || this.page.adjudication) {
      fill(this.order, this.size);
      return;
    }
    const { options } = gallery;
    const choose = (label, name, choices, value, change) => {
      const box = element("select", { "aria-label": label, name, on: { change: () => change(box.value) } });
      for (const [key, text] of choices) box.append(element("option", { value: key, selected: String(value) === String(key) }, text));
      return box;
    };
    const flags = [[-1, "any flag"], [-3, "counted"], [-2, "excluded"], ...FLAGS.map((name, bit) => [bit, name])];
    const grouped = element("input", {
      type: "checkbox",
      checked: options.grouped,
      on: { change: () => gallery.arrange({ grouped: grouped.checked }) },
    });
    fill(
      this.order,
      choose("Sort by", "sort", Object.entries(SORTS), options.sort, (sort) => this.#sort(sort)),
      element("label", { class: "check" }, grouped, " by class"),
      choose("Show", "work", Object.entries(WORK), options.work, (work) => gallery.arrange({ work })),
      choose("Flag", "flag", flags, options.flag, (flag) => gallery.arrange({ flag: Number(flag) })),
      button("Sort again", () => gallery.arrange(), { class: "quiet", title: "Cells that changed go to their class (F2)" }),
      this.size,
    );
  }

  #sort(sort) {
    if (sort === "similar") void this.page.sortSimilar();
    else this.page.gallery.arrange({ sort });
  }

  update() {
    const { view } = this.page;
    for (const choice of this.buttons) {
      choice.setAttribute("aria-pressed", String(choice.dataset.channel === view.shown));
    }
    this.outlines.setAttribute("aria-pressed", String(view.outlines));
    this.brightness.value = String(view.brightness);
    this.contrast.value = String(view.contrast);
  }
}
