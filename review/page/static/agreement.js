/** How far two readers, or a reader and the model, agree: kappa, confusion, the two counts, and what differs. */

import { beginAdjudication } from "./adjudication.js";
import { openDialog } from "./dialogs.js";
import { button, element, fill } from "./dom.js";
import { getJson, sampleUrl } from "./http.js";
import { count, percent, shortName } from "./words.js";

/** Open the comparison of readers. */
export async function openAgreement(page) {
  page.commands.writeLooks();
  await page.journal.settled();
  new AgreementView(page);
}

class AgreementView {
  constructor(page) {
    this.page = page;
    this.body = element("div", { class: "agreement" });
    this.first = this.#select("First reader");
    this.second = this.#select("Second reader");
    this.dialog = openDialog(
      "Agreement of readers",
      [element("div", { class: "actions" }, element("label", {}, "First ", this.first), element("label", {}, "Second ", this.second)), this.body],
      { wide: true },
    );
    void this.#readers();
  }

  #select(label) {
    return element("select", { "aria-label": label, on: { change: () => this.#compare() } });
  }

  async #readers() {
    const { review } = this.page;
    try {
      const { readers } = await getJson(sampleUrl(review.sample, "/agreement"));
      const names = [...new Set([...readers, "machine"])];
      for (const [box, chosen] of [[this.first, names[0]], [this.second, names[1] ?? "machine"]]) {
        fill(box, names.map((name) => element("option", { value: name, selected: name === chosen }, name === "machine" ? "the model" : name)));
      }
      if (readers.length) await this.#compare();
      else fill(this.body, element("p", {}, "Nobody has read this sample yet. A blind reading gives calls to compare."));
    } catch (error) {
      this.#problem(error);
    }
  }

  #problem(error) {
    fill(this.body, element("p", { class: "bad", role: "alert" }, error.message));
  }

  async #compare() {
    const query = new URLSearchParams({ a: this.first.value, b: this.second.value });
    try {
      const found = await getJson(sampleUrl(this.page.review.sample, `/agreement?${query}`));
      this.#show(found);
    } catch (error) {
      this.#problem(error);
    }
  }

  #show(found) {
    const { agreement } = found;
    const names = [found.first, found.second].map((name) => (name === "machine" ? "the model" : name));
    fill(
      this.body,
      found.blind ? null : element("p", { class: "warn" }, "Not blind: a reader saw the model's calls, so the agreement is too good."),
      found.finished ? null : element("p", { class: "warn" }, "A blind reading of theirs is not finished."),
      element(
        "dl",
        { class: "figures" },
        figure("Cells that both called", agreement.cells),
        figure("Same class", agreement.observed === null ? "–" : `${percent(100 * agreement.observed)} %`, interval(agreement.observed_interval, 100)),
        figure("Cohen's kappa", kappaValue(agreement.kappa), kappaInterval(agreement.kappa)),
      ),
      this.#differing(found),
      element("h3", {}, "By class"),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Agreement by class" }, byClass(agreement)),
      element("h3", {}, "Counts"),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The two counts" }, counts(found.counts, names)),
      element("p", { class: "soft small" }, "Limits: 95 % of counts of this size (Rümke). p: how often chance alone makes two counts differ as much."),
      found.reference ? reference(found.reference) : null,
      element("h3", {}, "Confusion"),
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion table" }, confusion(agreement, names)),
    );
  }

  #differing(found) {
    const { differ } = found;
    if (!differ.length) return element("p", { class: "good" }, "They differ on no cell.");
    const canDecide = this.page.review.open && found.first !== found.second;
    return element(
      "p",
      {},
      `They differ on ${count(differ.length, "cell")}. `,
      canDecide
        ? button("Adjudicate", () => {
            this.dialog.close();
            beginAdjudication(this.page, found);
          }, { class: "primary" })
        : null,
    );
  }
}

function figure(term, value, detail = "") {
  return element("div", {}, element("dt", {}, term), element("dd", {}, value, element("small", { class: "soft" }, ` ${detail}`)));
}

function interval(limits, scale = 1) {
  return limits ? limits.map((limit) => (scale === 1 ? limit.toFixed(2) : percent(scale * limit))).join("–") : "";
}

/** Kappa comes as [value, low, high] or with these names. */
function kappaParts(kappa) {
  return Array.isArray(kappa) ? kappa : [kappa.value, kappa.low, kappa.high];
}

function kappaValue(kappa) {
  return kappa ? kappaParts(kappa)[0].toFixed(2) : "–";
}

function kappaInterval(kappa) {
  return kappa ? interval(kappaParts(kappa).slice(1)) : "";
}

function table(heads, rows) {
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, heads.map((head, column) => element("th", { scope: "col", class: column ? "n" : null }, head)))),
    element("tbody", {}, rows.map(([head, ...values]) => element("tr", {}, element("th", { scope: "row" }, head), values.map((value) => element("td", { class: "n" }, value))))),
  );
}

function byClass(agreement) {
  return table(
    ["Class", "Kappa", "95 % interval", "Both", "Only first", "Only second", "Specific agreement"],
    agreement.by_class.map((one) => [
      shortName(one.name),
      kappaValue(one.kappa),
      kappaInterval(one.kappa) || "–",
      one.both,
      one.only_first,
      one.only_second,
      one.specific === null ? "–" : one.specific.toFixed(2),
    ]),
  );
}

function counts(lines, names) {
  const limits = (pair) => (pair ? `${pair[0]}–${pair[1]}` : "–");
  return table(
    ["Class", names[0], "%", "limits %", names[1], "%", "limits %", "p"],
    lines.map((one) => [
      shortName(one.name),
      one.first,
      percent(one.first_percent),
      limits(one.first_limits),
      one.second,
      percent(one.second_percent),
      limits(one.second_limits),
      one.p_value < 0.001 ? "< 0.001" : one.p_value.toFixed(3),
    ]),
  );
}

/** The reference differential of two blind readers, and what is less than the standard asks for. */
function reference(found) {
  return element(
    "section",
    {},
    element("h3", {}, "Reference differential"),
    element("p", { class: "soft small" }, `The mean of both readers, in the manner of CLSI H20-A2, on ${count(found.white_cells, "white cell")}.`),
    element(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Reference differential" },
      table(
        ["Class", "%", "95 % interval", ...found.readers.map(({ reader }) => reader)],
        found.classes.map((one) => [
          shortName(one.name),
          percent(one.percent),
          one.interval_percent.map(percent).join("–"),
          ...one.by_reader.map(percent),
        ]),
      ),
    ),
    found.notes.length ? element("ul", { class: "soft small" }, found.notes.map((note) => element("li", {}, note))) : null,
  );
}

function confusion(agreement, names) {
  const used = agreement.classes.flatMap((_, index) =>
    agreement.confusion[index].some(Boolean) || agreement.confusion.some((row) => row[index]) ? [index] : [],
  );
  const built = table(
    [`${names[0]} ↓  ${names[1]} →`, ...used.map((index) => shortName(agreement.classes[index]))],
    used.map((row) => [shortName(agreement.classes[row]), ...used.map((column) => agreement.confusion[row][column] || "·")]),
  );
  built.querySelectorAll("tbody tr").forEach((line, index) => line.children[index + 1]?.classList.add("same"));
  return built;
}
