/** The mouse in a gallery: hover, click, Ctrl and Shift click, double click for the field, and drag onto a class. */

/** What a drag carries, besides nothing that another page could read. */
export const DRAG_TYPE = "application/x-wbcpipe-cells";

/**
 * Connect the mouse to a gallery.
 *
 * @param {import("./gallery.js").Gallery} gallery
 * @param {{activate: function, openField: function}} actions
 */
export function connectPointer(gallery, { activate, openField }) {
  const { list } = gallery;
  let last = { x: -1, y: -1 };

  const positionOf = (event) => {
    const tile = event.target.closest?.(".tile");
    return tile ? Number(tile.dataset.position) : null;
  };
  list.addEventListener("pointermove", (event) => {
    // Scrolling under a resting mouse moves no cell under the hand of a reader who uses the keys.
    if (event.clientX === last.x && event.clientY === last.y) return;
    last = { x: event.clientX, y: event.clientY };
    const position = positionOf(event);
    const row = position === null ? null : gallery.layout.rows[position];
    if (event.pointerType !== "mouse" || row === gallery.hovered) return;
    gallery.hovered = row;
    gallery.dispatchEvent(new Event("cursor"));
  });
  list.addEventListener("pointerleave", () => {
    if (gallery.hovered === null) return;
    gallery.hovered = null;
    gallery.dispatchEvent(new Event("cursor"));
  });
  list.addEventListener("focusin", activate);
  list.addEventListener("click", (event) => {
    const position = positionOf(event);
    if (position === null) return;
    if (event.ctrlKey || event.metaKey) gallery.toggle(position);
    else gallery.moveTo(position, { extend: event.shiftKey });
    list.focus({ preventScroll: true });
  });
  list.addEventListener("dblclick", (event) => {
    if (positionOf(event) !== null) openField(gallery.active);
  });
  list.addEventListener("dragstart", (event) => {
    const position = positionOf(event);
    if (position === null) return;
    const row = gallery.layout.rows[position];
    if (!gallery.selection.chosen.has(row)) gallery.moveTo(position);
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData(DRAG_TYPE, gallery.targets.join(","));
  });
}

/**
 * Let elements with `data-answer` below a node take dragged cells.
 *
 * @param {HTMLElement} node
 * @param {function(number[], string)} assign
 */
export function acceptDrops(node, assign) {
  const target = (event) =>
    event.dataTransfer.types.includes(DRAG_TYPE) ? event.target.closest?.("[data-answer]") : null;
  const highlight = (found) => {
    node.querySelectorAll(".drop").forEach((other) => other !== found && other.classList.remove("drop"));
    found?.classList.add("drop");
  };
  node.addEventListener("dragover", (event) => {
    const found = target(event);
    highlight(found);
    if (found) event.preventDefault();
  });
  node.addEventListener("dragleave", (event) => {
    if (!node.contains(event.relatedTarget)) highlight(null);
  });
  node.addEventListener("drop", (event) => {
    const found = target(event);
    highlight(null);
    if (!found) return;
    event.preventDefault();
    const rows = event.dataTransfer.getData(DRAG_TYPE).split(",").map(Number);
    assign(rows, found.dataset.answer);
  });
}
