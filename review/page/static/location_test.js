/**
 * The cell-location test: a reader marks the white cells of a few fields that were not found; the share that was found,
 * and how it changed over the samples, is the answer.
 */

import { openDialog } from "./dialogs.js";
import { button, element, fill, setText, svg } from "./dom.js";
import { getJson, postJson, sampleUrl } from "./http.js";
import { count, localTime, percent } from "./words.js";

/** Open the test of a sample. */
export async function openLocationTest(page) {
  page.commands.writeLooks();
  await page.journal.settled();
  new LocationTest(page);
}

class LocationTest {
  constructor(page) {
    this.page = page;
    this.step = 0;
    /** @type {Map<number, Array<{y_px: number, x_px: number}>>} marks that are not written yet, by field */
    this.marks = new Map();
    this.body = element("div", { class: "location-test" });
    this.dialog = openDialog("Cell-location test", [this.body], { wide: true });
    void this.#load();
  }

  async #load() {
    try {
      this.test = await getJson(sampleUrl(this.page.review.sample, "/location-test"));
    } catch (error) {
      fill(this.body, element("p", { class: "bad", role: "alert" }, error.message));
      return;
    }
    if (!this.test.fields.length) fill(this.body, element("p", {}, "The sample has no fields to look at."));
    else await this.#field();
  }

  async #field() {
    const { review } = this.page;
    const index = this.test.fields[this.step];
    this.image = element("img", {
      src: sampleUrl(review.sample, `/fields/${index}.webp?v=${review.digest}${review.strip.composite ? "&modality=composite" : ""}`),
      alt: `Field ${index}`,
    });
    this.overlay = svg("svg", { class: "overlay marking", role: "img", "aria-label": "Cells that were found, and your marks" });
    this.words = element("p", { role: "status" });
    const last = this.step === this.test.fields.length - 1;
    fill(
      this.body,
      element("p", {}, `Field ${this.step + 1} of ${this.test.fields.length}. Outlined cells were found. Click every white cell that has no outline; a click on a mark removes it.`),
      element("div", { class: "frame" }, element("div", { class: "picture" }, this.image, this.overlay)),
      this.words,
      element("div", { class: "actions" }, button(last ? "Finish" : "Next field", () => this.#next(), { class: "primary" })),
      this.#keyboardMark(),
    );
    const field = await getJson(sampleUrl(review.sample, `/fields/${index}.json?v=${review.digest}`));
    this.field = { ...field, index };
    const frame = this.body.querySelector(".frame");
    const picture = this.body.querySelector(".picture");
    const zoom = Math.min(frame.clientWidth / field.width, frame.clientHeight / field.height);
    picture.style.width = `${field.width * zoom}px`;
    picture.style.height = `${field.height * zoom}px`;
    this.overlay.setAttribute("viewBox", `0 0 ${field.width} ${field.height}`);
    this.overlay.addEventListener("click", (event) => this.#click(event));
    this.#draw();
  }

  /** The way to mark without a mouse: by position. */
  #keyboardMark() {
    const place = (label) => element("input", { type: "number", min: 0, step: 1, "aria-label": label, placeholder: label });
    const [y, x] = [place("y in pixels"), place("x in pixels")];
    return element(
      "details",
      {},
      element("summary", {}, "Mark by position"),
      element(
        "div",
        { class: "actions" },
        y,
        x,
        button("Mark", () => y.value && x.value && this.#toggle(Number(y.value), Number(x.value))),
      ),
    );
  }

  #click(event) {
    const { left, top, width } = this.overlay.getBoundingClientRect();
    const scale = this.field.width / width;
    this.#toggle((event.clientY - top) * scale, (event.clientX - left) * scale);
  }

  /** Add a mark, or remove the one that is there. */
  #toggle(y, x) {
    const reach = 4 / this.field.pixel_um;
    const marks = this.marks.get(this.field.index) ?? [];
    const kept = marks.filter((mark) => Math.hypot(mark.y_px - y, mark.x_px - x) > reach);
    if (kept.length === marks.length) kept.push({ y_px: Math.round(y * 10) / 10, x_px: Math.round(x * 10) / 10 });
    this.marks.set(this.field.index, kept);
    this.#draw();
  }

  #draw() {
    const marks = this.marks.get(this.field.index) ?? [];
    const radius = 6 / this.field.pixel_um;
    fill(
      this.overlay,
      this.field.cells.map(({ outline }) => svg("polygon", { class: "found", points: outline.map(([y, x]) => `${x},${y}`).join(" ") })),
      marks.map(({ y_px, x_px }) => svg("circle", { class: "missed", cx: x_px, cy: y_px, r: radius })),
    );
    setText(this.words, `${count(this.field.cells.length, "cell")} found, ${count(marks.length, "mark")}.`);
  }

  async #next() {
    this.step += 1;
    if (this.step < this.test.fields.length) await this.#field();
    else await this.#finish();
  }

  /** Write the marks to the journal, and ask for the result of the test. */
  async #finish() {
    const { journal, review } = this.page;
    for (const [field, list] of this.marks) {
      list.forEach((mark) => journal.record({ action: "location_mark", field, ...mark }));
    }
    this.marks.clear();
    await journal.settled();
    try {
      if (journal.unsaved) throw new Error("The marks wait to be saved.");
      this.#show(await postJson(sampleUrl(review.sample, "/location-test"), { fields: this.test.fields }));
    } catch (error) {
      fill(this.body, element("p", { class: "bad", role: "alert" }, error.message), button("Try again", () => this.#finish()));
    }
  }

  #show({ result, results, trend }) {
    fill(
      this.body,
      element(
        "dl",
        { class: "figures" },
        figure("Found", `${percent(result.percent)} %`, result.interval_percent.map(percent).join("–")),
        figure("White cells", `${result.found} found, ${result.missed} missed`, `in ${count(result.fields, "field")}`),
        figure("Limit", `${percent(result.limit_percent)} %`, result.passed ? "passed" : "not passed"),
      ),
      result.already_found ? element("p", { class: "soft" }, `${count(result.already_found, "mark")} on cells that were found.`) : null,
      element("p", { class: trend.direction === "falling" ? "warn" : "soft" }, trendSentence(trend)),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Earlier tests" }, earlier(results)),
    );
  }
}

function figure(term, value, detail) {
  return element("div", {}, element("dt", {}, term), element("dd", {}, value, element("small", { class: "soft" }, ` ${detail}`)));
}

function trendSentence({ tests, direction, p_value: p }) {
  if (p === null) return `${count(tests, "test")} so far: too few, or too equal, for a trend.`;
  if (direction === "none") return `No trend in ${tests} tests.`;
  return `The share is ${direction} over ${tests} tests (p ${p < 0.001 ? "< 0.001" : p.toFixed(3)}).`;
}

function earlier(results) {
  const heads = ["Date", "Sample", "Reader", "Found %", "95 % interval"];
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, heads.map((word) => element("th", { scope: "col" }, word)))),
    element(
      "tbody",
      {},
      results.toReversed().map((one) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, localTime(one.date)),
          element("td", {}, one.sample),
          element("td", {}, one.reader),
          element("td", {}, percent(one.percent)),
          element("td", {}, one.interval_percent.map(percent).join("–")),
        ),
      ),
    ),
  );
}
