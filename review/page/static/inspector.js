/**
 * The cell at the cursor: every modality with the call of its head, the likely classes, comments, history; beside it a
 * second cell that the reader holds for comparison.
 */

import { drawCell, drawOutline } from "./draw_cell.js";
import { button, element, fill } from "./dom.js";
import { count, flagNames, listed, localTime, modalityName, shortName, spoken } from "./words.js";

/** Side of a panel's image; the server gives full crops for it. */
const FULL_PX = 224;

export class Inspector {
  /**
   * @param {HTMLElement} host
   * @param {Object} page the parts of the page
   */
  constructor(host, page) {
    this.host = host;
    this.page = page;
    this.cards = [];
    this.pinned = null;
    this.active = this.#card("Cell at the cursor");
    this.held = this.#card("Held for comparison");
    this.held.root.hidden = true;
    fill(host, this.active.root, this.held.root);
    page.review.on("cells", ({ rows }) => this.cards.forEach((card) => rows.includes(card.row) && this.#write(card)));
    page.images.onLoad((row) => this.cards.forEach((card) => card.row === row && this.#draw(card)));
    page.view.addEventListener("change", () => this.cards.forEach((card) => this.#draw(card)));
  }

  #card(label) {
    const { page } = this;
    const card = {
      row: null,
      sharp: null,
      title: element("h3", {}),
      call: element("p", { class: "call-line" }),
      panels: element("div", { class: "panels" }),
      says: element("p", { class: "says" }),
      candidates: element("div", { class: "candidates", role: "group", "aria-label": "Likely classes" }),
      facts: element("p", { class: "soft small" }),
      notes: element("ul", { class: "notes" }),
      references: element("div", { class: "references", hidden: true }),
      actions: element("div", { class: "actions" }),
    };
    card.heads = page.review.modalities.map((name) => {
      const canvas = element("canvas", { width: FULL_PX, height: FULL_PX });
      const caption = element("figcaption", {});
      card.panels.append(element("figure", { dataset: { modality: name } }, canvas, caption));
      return { name, canvas, caption };
    });
    const { title, call, panels, says, candidates, facts, notes, references, actions } = card;
    card.root = element("section", { class: "card", "aria-label": label }, title, call, panels, says, candidates, actions, facts, notes, references);
    this.cards.push(card);
    return card;
  }

  /** Show a row; null shows nothing. */
  show(row) {
    if (row === this.active.row) return;
    this.active.row = row;
    this.#write(this.active);
    this.#sharpen(this.active);
    void this.#references();
  }

  /** Hold a row for comparison; the same row again lets it go. */
  pin(row) {
    this.pinned = this.pinned === row ? null : row;
    this.held.row = this.pinned;
    this.held.root.hidden = this.pinned === null;
    this.host.classList.toggle("comparing", this.pinned !== null);
    if (this.pinned !== null) {
      this.#write(this.held);
      this.#sharpen(this.held);
    }
    this.#write(this.active);
  }

  /** Draw from the strip at once, and from the full crop when it is here and the cursor rested. */
  #sharpen(card) {
    clearTimeout(card.timer);
    card.sharp?.bitmap.close();
    card.sharp = null;
    const { row } = card;
    if (row === null) return;
    card.timer = setTimeout(async () => {
      try {
        const response = await fetch(this.page.images.url(row, FULL_PX), { credentials: "same-origin" });
        if (!response.ok) return;
        const bitmap = await createImageBitmap(await response.blob());
        if (card.row !== row) return bitmap.close();
        card.sharp = { row, bitmap };
        this.#draw(card);
      } catch {
        // The strip of the tile stays.
      }
    }, 120);
  }

  #draw(card) {
    if (card.row === null) return;
    const { images, review, view } = this.page;
    const bitmap = card.sharp?.bitmap ?? images.get(card.row);
    const outline = view.outlines && images.outline(card.row, () => this.#draw(card));
    for (const { name, canvas } of card.heads) {
      canvas.style.filter =
        view.brightness === 100 && view.contrast === 100 ? "" : `brightness(${view.brightness}%) contrast(${view.contrast}%)`;
      if (bitmap) drawCell(canvas, bitmap, review.strip, name);
      else canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
      if (bitmap && outline) drawOutline(canvas, outline);
    }
  }

  #write(card) {
    const { review, gallery } = this.page;
    const { cells } = review;
    const { row } = card;
    card.root.classList.toggle("blank", row === null);
    if (row === null) {
      fill(card.title, "No cell");
      return;
    }
    const position = gallery.layout?.positions.get(row);
    const place = position === undefined ? `Row ${row}` : `Cell ${position + 1} of ${gallery.layout.length}`;
    fill(card.title, card === this.held ? "Held for comparison" : place, element("span", { class: "soft" }, ` field ${cells.field[row]}`));
    this.#call(card);
    this.#heads(card);
    this.#candidates(card);
    this.#facts(card);
    this.#notes(card);
    this.#actions(card);
    this.#draw(card);
  }

  #call(card) {
    const { review } = this.page;
    const now = review.cells.now?.[card.row] ?? "";
    const confidence = review.cells.confidence?.[card.row] ?? null;
    const between = this.page.adjudication?.describe(card.row);
    fill(
      card.call,
      element("span", { class: "swatch", dataset: { colour: review.colour(now) }, "aria-hidden": "true" }),
      element("strong", {}, shortName(now) || "no call yet"),
      confidence === null ? null : element("span", { class: "soft" }, ` ${confidence.toFixed(2)}`),
      review.isChanged(card.row)
        ? element("span", { class: "soft" }, ` · model: ${shortName(review.machineClass(card.row))}`)
        : null,
      review.cells.excluded?.[card.row]
        ? element("span", { class: "badge warn" }, `excluded: ${review.cells.excluded[card.row].replaceAll("_", " ")}`)
        : null,
      between ? element("span", { class: "between" }, between) : null,
    );
  }

  /** Write each head's own call under its modality; name the heads that do not agree. */
  #heads(card) {
    const { review } = this.page;
    const calls = review.cells.heads?.[card.row];
    const named = new Map();
    card.heads.forEach(({ name, caption }) => {
      const head = review.heads.indexOf(name);
      const call = calls && head >= 0 ? review.classes[calls[head]] : undefined;
      fill(
        caption,
        element("span", { class: "soft" }, modalityName(name)),
        call ? element("span", { class: "head-call", dataset: { colour: review.colour(call) } }, call) : null,
      );
      if (call) named.set(call, [...(named.get(call) ?? []), modalityName(name)]);
    });
    const sentences = [...named].map(([call, heads]) => `${listed(heads)} ${heads.length > 1 ? "say" : "says"} ${spoken(call)}`);
    const split = named.size > 1;
    card.says.hidden = !split;
    if (split) fill(card.says, `The heads disagree: ${sentences.join("; ")}.`);
    card.heads.forEach(({ canvas }, index) => {
      const head = review.heads.indexOf(card.heads[index].name);
      const odd = split && head >= 0 && review.classes[calls[head]] !== review.cells.now[card.row];
      canvas.parentElement.classList.toggle("odd", odd);
    });
  }

  #candidates(card) {
    const { review, commands } = this.page;
    const candidates = review.cells.order3?.[card.row] ?? [];
    card.candidates.hidden = !candidates.length || card === this.held;
    if (card.candidates.hidden) return;
    fill(
      card.candidates,
      candidates.map((index, rank) => {
        const name = review.classes[index];
        return element(
          "button",
          {
            type: "button",
            dataset: { colour: review.colour(name) },
            "aria-label": `Assign ${spoken(name)}, candidate ${rank + 1}`,
            on: { click: () => commands.assign([card.row], name, { via: "menu", moveOn: true }) },
          },
          element("kbd", {}, rank + 1),
          name,
        );
      }),
    );
  }

  #facts(card) {
    const { cells } = this.page.review;
    const flags = flagNames(cells.flags?.[card.row] ?? 0);
    fill(
      card.facts,
      [
        cells.area_um2[card.row] === null ? "" : `${cells.area_um2[card.row].toFixed(0)} µm²`,
        (cells.disagreement?.[card.row] ?? null) !== null ? `disagreement ${cells.disagreement[card.row].toFixed(2)}` : "",
        flags.length ? `flags: ${flags.join(", ")}` : "no flags",
        cells.looked?.[card.row] ? "looked at" : "not looked at",
      ]
        .filter(Boolean)
        .join(" · "),
    );
  }

  #notes(card) {
    const { review } = this.page;
    const history = review.edits.history(card.row).map(({ entry, undone }) => {
      const to = entry.action === "assign" ? entry.cells.find((one) => one.cell === review.cells.key[card.row])?.to : entry.to;
      const who = `${entry.reader}${entry.time ? `, ${localTime(entry.time)}` : ""}`;
      return element("li", { class: undone ? "undone" : "" }, `${shortName(to) || "the model's call"}`, element("span", { class: "soft" }, ` ${who}${undone ? " (undone)" : ""}`));
    });
    const comments = (review.comments.get(review.cells.key[card.row]) ?? []).map((comment) =>
      element("li", { class: comment.undone ? "comment undone" : "comment" }, `“${comment.text}”`, element("span", { class: "soft" }, ` ${comment.reader}`)),
    );
    fill(card.notes, history, comments);
  }

  #actions(card) {
    const { page } = this;
    if (card === this.held) {
      fill(card.actions, button("Let go", () => this.pin(this.pinned), { class: "quiet" }));
      return;
    }
    const similar = page.gallery.selection.chosen.size > 1 ? `Like these ${count(page.gallery.selection.chosen.size, "cell")}` : "Similar";
    const blind = page.review.reading;
    fill(
      card.actions,
      button("Field", () => page.openField(card.row), { title: "The field around the cell (Enter)" }),
      blind ? null : button(similar, () => page.sortSimilar(), { title: "Sort by similarity to the chosen cells" }),
      button("Hold", () => page.pin(card.row), { title: "Hold this cell beside the next ones (=)" }),
      blind
        ? null
        : button("References", () => this.#toggleReferences(), {
            "aria-pressed": String(!this.active.references.hidden),
            title: "Reference cells of the laboratory beside the cell",
          }),
      blind ? null : button("Comment", () => page.writeComment(), { title: "Comment on the cell (/)" }),
    );
  }

  #toggleReferences() {
    const { references } = this.active;
    references.hidden = !references.hidden;
    this.#actions(this.active);
    void this.#references();
  }

  /** Show reference cells of the likely classes, where the reader asked for them. */
  async #references() {
    const { references, row } = this.active;
    if (references.hidden || row === null) return;
    const { review, library } = this.page;
    const names = (review.cells.order3?.[row] ?? []).map((index) => review.classes[index]);
    if (names.join() === this.shownReferences) return;
    this.shownReferences = names.join();
    try {
      fill(references, element("h3", {}, "Reference cells"), await library.beside(names));
    } catch (error) {
      fill(references, element("p", { class: "bad small" }, error.message));
    }
  }

  /** Write the cards again, for instance after the choice changed. */
  refresh() {
    this.cards.forEach((card) => card.row !== null && this.#write(card));
  }
}
