/** Puts the review page together. */

import { Commands } from "./commands.js";
import { announce, askText, closePopovers, notice, openDialog } from "./dialogs.js";
import { DifferentialPanel } from "./differential_panel.js";
import { byId, element, fill, setText } from "./dom.js";
import { openField } from "./field_view.js";
import { Gallery } from "./gallery.js";
import { getJson, sampleUrl } from "./http.js";
import { Inspector } from "./inspector.js";
import { Journal } from "./journal.js";
import { connectKeyboard } from "./keyboard.js";
import { showKeys } from "./keys_help.js";
import { Library } from "./library.js";
import { connectNotices } from "./notices_of_others.js";
import { acceptDrops, connectPointer } from "./pointer.js";
import { Review } from "./review.js";
import { openSigning } from "./signing.js";
import { StripImages } from "./strip_images.js";
import { connectLogOut, connectTheme } from "./session.js";
import { ViewBar } from "./view_bar.js";
import { ViewSettings } from "./view_settings.js";
import { count } from "./words.js";

/** What would show a reader more than the own calls. */
const HIDDEN_WHILE_BLIND = ["two", "agreement", "show-library", "sample-comment", "location-test", "sign"];

/** The parts of the page, and what they ask of each other. */
class Page {
  constructor(sample) {
    this.review = new Review(sample);
    this.journal = new Journal(this.review);
    this.images = new StripImages(this.review);
    this.view = new ViewSettings();
    this.library = new Library();
    this.announce = announce;
    this.galleries = [];
    /** The adjudication in progress, see adjudication.js; null outside of one. */
    this.adjudication = null;
    this.commands = new Commands(this);
  }

  /** Build the page of a loaded sample. */
  start() {
    this.addGallery(byId("gallery"), "Cells");
    this.gallery = this.galleries[0];
    this.differential = new DifferentialPanel(byId("differential"), this);
    this.inspector = new Inspector(byId("inspector"), this);
    this.viewBar = new ViewBar(byId("view-bar"), this);
    this.#arrangeAll();
    this.activate(this.gallery);
    connectKeyboard(this);
    connectNotices(this, byId("saved"));
    acceptDrops(document.body, (rows, to) => this.commands.assign(rows, to, { via: "drag" }));
    this.#connectTop();
    for (const type of ["differential", "state", "cells"]) this.review.on(type, () => this.showTop());
    this.review.on("loaded", () => this.#reloaded());
    this.showTop();
    this.#comeBack();
    this.journal.start();
    this.gallery.list.focus();
  }

  /** Begin at the cell at which this window was left, for instance by a reload. */
  #comeBack() {
    const { review, gallery } = this;
    const stored = `wbcpipe review cell ${review.sample}`;
    const row = review.rowOf.get(sessionStorage.getItem(stored));
    if (row !== undefined && !review.reading) gallery.moveToRow(row);
    addEventListener("pagehide", () => {
      if (gallery.active !== null) sessionStorage.setItem(stored, review.cells.key[gallery.active]);
    });
  }

  addGallery(host, label) {
    const gallery = new Gallery(host, this, label);
    this.galleries.push(gallery);
    connectPointer(gallery, { activate: () => this.activate(gallery), openField: (row) => this.openField(row) });
    gallery.addEventListener("cursor", () => {
      if (gallery !== this.gallery) return;
      this.inspector?.show(gallery.active);
      this.commands.rest(gallery.active);
    });
    gallery.addEventListener("choice", () => this.#choice(gallery));
    gallery.addEventListener("arranged", () => {
      this.viewBar?.arranged();
      this.differential?.pressed(gallery.options.classes);
      this.inspector?.refresh();
    });
    return gallery;
  }

  #choice(gallery) {
    const chosen = gallery.selection.chosen.size;
    setText(byId("choice"), chosen ? `${count(chosen, "cell")} chosen` : "");
    if (chosen !== this.chosen && (chosen > 1 || this.chosen > 1)) this.inspector?.refresh();
    this.chosen = chosen;
  }

  /** Make a gallery the one that keys act on. */
  activate(gallery) {
    if (this.gallery === gallery && gallery.active === this.inspector?.active.row) return;
    this.gallery = gallery;
    this.galleries.forEach((one) => one.list.parentElement.classList.toggle("active", one === gallery && this.galleries.length > 1));
    this.viewBar?.arranged();
    this.differential?.pressed(gallery.options.classes);
    this.inspector?.show(gallery.active);
  }

  /** Show one class in the active gallery, or all again. */
  filterClass(name) {
    if (this.review.reading) return;
    const only = this.gallery.options.classes;
    this.gallery.arrange({ classes: only.length === 1 && only[0] === name ? [] : [name], work: "all" });
    this.gallery.list.focus();
  }

  /** Sort by similarity to the chosen cells, or to the one at the cursor. */
  async sortSimilar() {
    const { gallery, review } = this;
    const rows = gallery.targets.slice(0, 100);
    if (!rows.length) return;
    try {
      const { order } = await getJson(sampleUrl(review.sample, `/similar?rows=${rows.join(",")}`));
      gallery.arrange({ sort: "similar", similar: order, grouped: false, classes: [], work: "all", flag: -1 });
      gallery.moveTo(0);
      gallery.list.focus();
      announce(`Sorted by similarity to ${count(rows.length, "cell")}.`);
    } catch (error) {
      notice(error.message, { kind: "bad" });
    }
  }

  openField(row) {
    if (row !== null) openField(this, row);
  }

  /** Hold a cell for comparison. */
  pin(row) {
    if (row !== null) this.inspector.pin(row);
  }

  showLibrary(row) {
    void this.library.show(this, row);
  }

  showKeys() {
    showKeys(this);
  }

  async writeComment() {
    const row = this.gallery.active;
    if (row === null || this.review.reading) return;
    const text = await askText("Comment on the cell", "Comment", { accept: "Write" });
    if (text) this.commands.comment(row, text);
  }

  /** Show or hide a second gallery, for two classes side by side. */
  toggleSecond() {
    const host = byId("gallery-2");
    if (this.galleries.length > 1) {
      this.galleries.pop();
      host.hidden = true;
      fill(host);
      this.activate(this.galleries[0]);
    } else {
      host.hidden = false;
      const second = this.addGallery(host, "Cells, second gallery");
      const other = this.review.classes.find((name) => !this.gallery.options.classes.includes(name));
      second.arrange({ classes: [other] });
      if (!this.gallery.options.classes.length) this.gallery.arrange({ classes: [this.review.classes.find((name) => name !== other)] });
      second.list.focus();
    }
    byId("two").setAttribute("aria-pressed", String(this.galleries.length > 1));
    this.gallery.list.focus();
  }

  #connectTop() {
    const { commands } = this;
    const actions = {
      undo: () => commands.turn("undo"),
      redo: () => commands.turn("redo"),
      two: () => this.toggleSecond(),
      sign: () => openSigning(this),
      "show-keys": () => this.showKeys(),
      "sample-comment": () => this.#sampleComment(),
      "next-decisive": () => commands.nextDecisive(),
      "show-library": () => this.showLibrary(this.gallery.active),
      blind: async () => (await import("./blind.js")).toggleBlind(this),
      agreement: async () => (await import("./agreement.js")).openAgreement(this),
      "location-test": async () => (await import("./location_test.js")).openLocationTest(this),
    };
    for (const [id, act] of Object.entries(actions)) byId(id).addEventListener("click", act);
    closePopovers();
    giveFocusBack(this);
    connectTheme(byId("theme"));
    connectLogOut();
  }

  async #sampleComment() {
    const written = this.review.comments.get("") ?? [];
    if (written.length && !this.review.open) {
      openDialog("Comments on the sample", [element("ul", {}, written.map(({ text, reader }) => element("li", {}, `“${text}” ${reader}`)))]);
      return;
    }
    const text = await askText("Comment on the sample", written.map(({ text: before, reader }) => `${reader}: ${before}`).join(" · ") || "Comment", { accept: "Write" });
    if (text) this.commands.comment(null, text);
  }

  /** Show state, progress and the sentence on when the review may stop. */
  showTop() {
    const { review } = this;
    const state = byId("state");
    state.textContent = review.reading ? "blind reading" : review.state;
    state.dataset.state = review.reading ? "blind" : review.state;
    byId("undo").disabled = Boolean(review.reading) || (!review.undo?.length && !this.journal.unsaved);
    byId("redo").disabled = Boolean(review.reading) || !review.redo?.length;
    setText(byId("sign"), review.open ? "Sign…" : "Signed…");
    const stop = review.differential?.stop;
    const { reading } = review;
    setText(byId("blind"), "Blind reading");
    for (const id of HIDDEN_WHILE_BLIND) byId(id).disabled = false;
    if (reading) {
      const called = reading.rows.filter((row) => review.cells.now[row]).length;
      setText(byId("progress"), `${called} of ${reading.rows.length} called`);
      setText(byId("stop"), "Blind reading: the calls of the model and of other readers are hidden.");
      setText(byId("blind"), "Finish the blind reading");
      for (const id of HIDDEN_WHILE_BLIND) byId(id).disabled = true;
      byId("next-decisive").hidden = true;
      return;
    }
    const looked = review.cells.looked.reduce((sum, one) => sum + one, 0);
    setText(byId("progress"), `${looked} of ${review.size} looked at`);
    setText(byId("stop"), stop?.sentence ?? "");
    byId("stop").dataset.done = String(stop?.decisive === 0);
    byId("next-decisive").hidden = !stop?.decisive;
  }

  #reloaded() {
    this.images.clear();
    this.#arrangeAll();
    this.showTop();
  }

  /** Show the cells of the blind reading from the first without a call on, or all cells. */
  #arrangeAll() {
    const { reading, cells } = this.review;
    for (const gallery of this.galleries) {
      gallery.arrange({ rows: reading?.rows });
      const first = reading?.rows.findIndex((row) => !cells.now[row]);
      if (reading) gallery.moveTo(Math.max(0, first));
    }
  }
}

/** After a click with the mouse on a control, the keys belong to the gallery again; the Tab key stays where it is. */
function giveFocusBack(page) {
  const back = () => document.querySelector("dialog[open]") || page.gallery.list.focus({ preventScroll: true });
  document.addEventListener("click", (event) => {
    if (event.detail && event.target.closest?.("main button, .top nav button")) setTimeout(back);
  });
  let mouse = false;
  document.addEventListener("pointerdown", (event) => {
    mouse = Boolean(event.target.closest?.("main select, main input[type=checkbox]"));
  });
  document.addEventListener("keydown", () => {
    mouse = false;
  });
  document.addEventListener("change", () => mouse && setTimeout(back));
}

async function main() {
  const page = new Page(document.body.dataset.sample);
  try {
    await page.review.load();
  } catch (error) {
    fill(byId("gallery"), element("p", { class: "empty bad", role: "alert" }, error.message));
    return;
  }
  page.start();
  window.wbcpipeReview = page;
  document.body.dataset.ready = "true";
}

void main();
