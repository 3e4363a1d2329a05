/** Dialogs, notices, and what a screen reader is told. */

import { button, byId, element, fill } from "./dom.js";

/**
 * Open a dialog; closing it removes it, and the focus goes back to where it was.
 *
 * @param {string} title
 * @param {Node[]} content
 * @param {{wide?: boolean, onClose?: function}} [options]
 * @returns {HTMLDialogElement}
 */
export function openDialog(title, content, { wide = false, onClose } = {}) {
  const before = document.activeElement;
  const close = button("×", () => dialog.close(), { class: "close", "aria-label": "Close" });
  const heading = element("h2", { id: "dialog-title" }, title);
  const dialog = element(
    "dialog",
    { "aria-labelledby": "dialog-title", class: wide ? "wide" : null },
    element("header", {}, heading, close),
    element("div", { class: "content", tabindex: "0" }, content),
  );
  dialog.addEventListener("close", () => {
    dialog.remove();
    before?.focus?.({ preventScroll: true });
    onClose?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * Ask for a text.
 *
 * @param {string} title
 * @param {string} label of the field
 * @param {{accept: string, required?: boolean, multiline?: boolean}} options
 * @returns {Promise<string|null>} null where the reader gave up
 */
export function askText(title, label, { accept, required = true, multiline = true }) {
  return new Promise((resolve) => {
    let answer = null;
    const field = element(multiline ? "textarea" : "input", { id: "dialog-field", required, rows: multiline ? 3 : null, maxlength: 2000 });
    const form = element(
      "form",
      {
        method: "dialog",
        on: {
          submit: () => {
            answer = field.value;
          },
          keydown: (event) => {
            if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
          },
        },
      },
      element("label", { for: "dialog-field" }, label),
      field,
      element("div", { class: "actions" }, element("button", { class: "primary" }, accept)),
    );
    openDialog(title, [form], { onClose: () => resolve(answer) });
    field.focus();
  });
}

/** Close an open popover after a choice in a menu, a click elsewhere, and Esc. */
export function closePopovers() {
  const close = (but = null) => document.querySelectorAll(".popover[open]").forEach((one) => one !== but && one.removeAttribute("open"));
  document.addEventListener("click", (event) => {
    const inside = event.target.closest?.(".popover");
    close(inside?.classList.contains("menu") && event.target.closest("button") ? null : inside);
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && close());
}

/** Tell a screen reader, and with `visible` the eye. */
export function announce(text, { visible = false } = {}) {
  const live = byId("announcements");
  live.textContent = text;
  if (visible) notice(text);
}

/**
 * Show a notice at the lower edge.
 *
 * @param {string} text
 * @param {{kind?: string, details?: string[], actions?: Array<[string, function]>, stays?: boolean, name?: string}} [options]
 *     a notice replaces the one of its name
 */
export function notice(text, { kind = "info", details = [], actions = [], stays = false, name = "" } = {}) {
  const host = byId("notices");
  if (name) dismiss(name);
  const box = element("div", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : null, dataset: { name } });
  fill(
    box,
    element("p", {}, text),
    details.length ? element("ul", {}, details.map((line) => element("li", {}, line))) : null,
    element(
      "div",
      { class: "actions" },
      actions.map(([label, act]) =>
        button(label, () => {
          box.remove();
          act();
        }),
      ),
      button("Close", () => box.remove(), { class: "quiet" }),
    ),
  );
  host.append(box);
  if (!stays) setTimeout(() => box.remove(), 6000);
  return box;
}

/** Remove the notice of a name. */
export function dismiss(name) {
  byId("notices").querySelector(`[data-name="${CSS.escape(name)}"]`)?.remove();
}
