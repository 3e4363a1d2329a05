/**
 * The keys of the page. Letters belong to the classes of the laboratory; digits, punctuation and arrows to the page.
 */

import { channels } from "./draw_cell.js";

/** The table of keys for people: key, what it does. The class keys come before it. */
export const KEYS = [
  ["1 2 3", "take the most, second and third most likely class, and move on"],
  ["Space", "looked at, agreed: move on"],
  ["← → ↑ ↓, Home, End, Page Up, Page Down", "move the cursor"],
  [", and Shift + ,", "next and previous class"],
  [".", "next cell that can still change the result"],
  ["Shift + arrows or click", "extend the choice"],
  ["Ctrl + click or Ctrl + Space", "add a cell to the choice, or remove it"],
  ["Ctrl + A", "choose all cells of the class"],
  ["Esc", "give up the choice"],
  ["Ctrl + Z, Ctrl + Shift + Z or Ctrl + Y", "undo, redo"],
  ["Delete", "back to the model's call"],
  ["hold 4 5 6 7", "show one modality while the key is held"],
  ["hold 8, 9", "show bright field in colour; with fluorescence over it"],
  ["0", "masks: outlines of cell and nucleus"],
  ["+ −", "larger and smaller tiles"],
  ["Enter", "the field around the cell, and the slide map; Esc goes back"],
  ["=", "hold the cell for comparison beside the next ones"],
  ["/", "comment on the cell"],
  ["F2", "sort again: cells that changed go to their class"],
  ["?", "this table"],
];

/**
 * Connect the keyboard.
 *
 * @param {Object} page the parts of the page
 */
export function connectKeyboard(page) {
  const { view } = page;
  const held = new Map(channels(page.review.strip).map(({ name, key }) => [key, name]));

  const pressed = (event) => {
    if (event.defaultPrevented || typing(event.target) || document.querySelector("dialog[open]")) return;
    if (event.ctrlKey || event.metaKey) {
      if (withControl(page, event)) event.preventDefault();
      return;
    }
    if (event.altKey) return;
    if (isOfControl(event)) return;
    if (move(page, event) || act(page, event, held)) event.preventDefault();
  };
  document.addEventListener("keydown", pressed);
  document.addEventListener("keyup", (event) => {
    const channel = held.get(keyOf(event));
    if (channel && view.held === channel) view.hold(null);
  });
  addEventListener("blur", () => view.hold(null));
}

function typing(target) {
  return target.closest?.("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]");
}

/** Whether a key belongs to the control that has the focus: Enter and space press it, arrows move a slider. */
function isOfControl({ key, target }) {
  if (key === "Enter" || key === " ") return Boolean(target.closest?.("button, a, summary, input"));
  return key.startsWith("Arrow") && Boolean(target.closest?.("input"));
}

/** The key, by its place for digits: on some keyboards they need Shift. */
function keyOf({ key, code, shiftKey }) {
  return code.startsWith("Digit") && !shiftKey && !/^[0-9]$/.test(key) ? code.slice(5) : key;
}

function withControl({ commands, gallery }, event) {
  const key = event.key.toLowerCase();
  if (key === "z") void commands.turn(event.shiftKey ? "redo" : "undo");
  else if (key === "y") void commands.turn("redo");
  else if (key === "a") gallery.selectSection();
  else if (key === " ") gallery.toggle(gallery.selection.cursor);
  else return false;
  return true;
}

/** Move the cursor. @returns {boolean} whether the key is one that moves it */
function move({ gallery }, event) {
  const { layout, selection } = gallery;
  const from = selection.cursor;
  const targets = {
    ArrowLeft: () => from - 1,
    ArrowRight: () => from + 1,
    ArrowUp: () => layout.vertical(from, -1),
    ArrowDown: () => layout.vertical(from, 1),
    Home: () => 0,
    End: () => layout.length - 1,
    PageUp: () => from - gallery.pageLength,
    PageDown: () => from + gallery.pageLength,
  };
  if (event.key in targets && layout.length) {
    gallery.moveTo(targets[event.key](), { extend: event.shiftKey });
    return true;
  }
  const step = { ",": 1, "<": -1, ";": -1 }[event.key]; // Shift and the comma, on two kinds of keyboards
  if (step && layout.length) {
    gallery.moveTo(layout.sectionStep(from, step));
    return true;
  }
  return false;
}

/** Do what a key without Ctrl stands for. @returns {boolean} whether it stands for something */
function act(page, event, held) {
  const { commands, gallery, review, view } = page;
  const key = keyOf(event);
  const answer = review.keys[key] ?? review.keys[key.toLowerCase()];
  if (answer) {
    if (!event.repeat) commands.assign(gallery.targets, answer, { via: "key", moveOn: true });
    return true;
  }
  if (held.has(key)) {
    view.hold(held.get(key));
    return true;
  }
  const actions = {
    1: () => commands.assignCandidate(0),
    2: () => commands.assignCandidate(1),
    3: () => commands.assignCandidate(2),
    0: () => view.set({ outlines: !view.outlines }),
    " ": () => commands.agree(),
    ".": () => commands.nextDecisive(),
    "+": () => view.zoom(1),
    "-": () => view.zoom(-1),
    Escape: () => gallery.clear(),
    Delete: () => commands.assign(gallery.targets, "", { via: "key", moveOn: true }),
    Enter: () => page.openField(gallery.active),
    "=": () => page.pin(gallery.active),
    "/": () => page.writeComment(),
    F2: () => gallery.arrange(),
    "?": () => page.showKeys(),
  };
  if (!(key in actions)) return false;
  if (!(event.repeat && /^[0-3]$/.test(key))) actions[key]();
  return true;
}
