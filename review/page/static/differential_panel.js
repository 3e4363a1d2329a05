/**
 * The differential, before and after the review, with intervals; its rows filter the gallery and take dragged cells.
 */

import { element, fill, setText, svg } from "./dom.js";
import { count, percent, shortName, spoken } from "./words.js";

export class DifferentialPanel {
  /**
   * @param {HTMLElement} host
   * @param {Object} page the parts of the page: review, filterClass
   */
  constructor(host, page) {
    this.host = host;
    this.page = page;
    /** @type {Map<string, Object>} cells of the table by class */
    this.lines = new Map();
    this.#build();
    page.review.on("differential", () => this.update());
    page.review.on("loaded", () => this.#build());
  }

  #build() {
    const { review } = this.page;
    this.lines.clear();
    const head = element(
      "tr",
      {},
      element("th", { scope: "col" }, "Class"),
      element("th", { scope: "col", class: "n" }, "Before"),
      element("th", { scope: "col", class: "n" }, "Now %"),
      element("th", { scope: "col", class: "n" }, "95 % interval"),
    );
    const rows = review.counted.map((name) => this.#classRow(name));
    this.total = element("p", { class: "total soft" });
    this.flags = element("p", { class: "flags" });
    fill(
      this.host,
      element("table", { class: "differential" }, element("thead", {}, head), element("tbody", {}, rows)),
      this.total,
      element("h3", {}, "Not in the percentages"),
      element("ul", { class: "others" }, this.#otherRows()),
    );
    this.update();
  }

  #name(name) {
    const { review } = this.page;
    const label = element(
      "button",
      {
        type: "button",
        class: "class-name",
        "aria-pressed": "false",
        title: `Show only ${spoken(name)}`,
        on: { click: () => this.page.filterClass(name) },
      },
      element("kbd", { title: `Key ${review.keyOf(name)}` }, review.keyOf(name) || "·"),
      element("span", { class: "swatch", "aria-hidden": "true" }),
      element("span", { class: "name" }, shortName(name)),
    );
    return label;
  }

  #classRow(name) {
    const line = {
      label: this.#name(name),
      before: element("td", { class: "n soft" }),
      now: element("td", { class: "n now" }),
      interval: element("td", { class: "n interval" }),
      bar: svg("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" }),
    };
    line.text = element("span", {});
    line.interval.append(line.text, line.bar);
    line.row = element(
      "tr",
      { dataset: { answer: name, colour: this.page.review.colour(name) } },
      element("th", { scope: "row" }, line.label),
      line.before,
      line.now,
      line.interval,
    );
    this.lines.set(name, line);
    return line.row;
  }

  #otherRows() {
    const { review } = this.page;
    return review.answers
      .filter((name) => !review.counted.includes(name))
      .map((name) => {
        const line = { label: this.#name(name), value: element("span", { class: "n" }) };
        const extra = review.extraClasses.find((one) => one.name === name);
        if (extra) line.label.title = extra.meaning;
        line.row = element("li", { dataset: { answer: name, colour: -1 } }, line.label, line.value);
        this.lines.set(name, line);
        return line.row;
      });
  }

  /** Show the counts; intervals that the server has not confirmed yet are dimmed. */
  update() {
    const { differential, estimated } = this.page.review;
    if (!differential) return;
    this.host.classList.toggle("estimated", estimated);
    for (const entry of differential.after) {
      this.#class(entry, differential.before?.find((before) => before.name === entry.name));
    }
    for (const extra of differential.extra ?? []) {
      const rate = extra.per_100_wbc === null || extra.per_100_wbc === undefined ? "" : ` · ${percent(extra.per_100_wbc)} per 100 WBC`;
      this.#other(extra.name, `${extra.count}${rate}`);
    }
    for (const name of ["unidentified", "not_classed", "artefact"]) this.#other(name, String(differential[name] ?? 0));
    setText(this.total, `${count(differential.counted, "cell")} counted`);
  }

  #other(name, text) {
    const line = this.lines.get(name);
    if (line) setText(line.value, text);
  }

  #class(entry, before) {
    const line = this.lines.get(entry.name);
    if (!line) return;
    setText(line.before, before ? percent(before.percent) : "");
    setText(line.now, percent(entry.percent));
    setText(line.text, entry.interval_percent ? entry.interval_percent.map(percent).join("–") : "");
    line.row.classList.toggle("moved", Boolean(before) && before.count !== entry.count);
    line.row.dataset.flag = entry.flag ?? "";
    const reference = entry.reference_percent;
    line.row.title = [
      count(entry.count, "cell"),
      before ? `before the review ${before.count}` : "",
      reference ? `reference ${reference[0]}–${reference[1]} %` : "",
      entry.flag && entry.flag !== "normal" ? entry.flag : "",
    ]
      .filter(Boolean)
      .join(", ");
    this.#bar(line.bar, entry, reference);
  }

  /** Draw the interval over the reference, from 0 to what both need: a class of 2 % has a scale of its own. */
  #bar(bar, entry, reference) {
    const [low, high] = entry.interval_percent ?? [0, 100];
    const end = Math.min(100, Math.max(1.3 * (reference?.[1] ?? 0), 1.1 * high, 1));
    const rect = (kind, from, to, y, height) =>
      svg("rect", { class: kind, x: (100 * from) / end, y, width: Math.max(0.8, (100 * (to - from)) / end), height });
    fill(
      bar,
      rect("bar-axis", 0, end, 3.5, 1),
      reference ? rect("bar-reference", reference[0], reference[1], 0.5, 7) : null,
      entry.interval_percent ? rect("bar-interval", low, high, 3, 2) : null,
      rect("bar-point", (entry.percent ?? 0) - end / 100, (entry.percent ?? 0) + end / 100, 0.5, 7),
    );
  }

  /** Show which classes the gallery is filtered to. */
  pressed(classes) {
    for (const [name, line] of this.lines) {
      line.label.setAttribute("aria-pressed", String(classes.includes(name)));
    }
  }
}
