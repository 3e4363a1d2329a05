/** The table of keys. */

import { openDialog } from "./dialogs.js";
import { element } from "./dom.js";
import { KEYS } from "./keyboard.js";
import { NO_CLASS, spoken } from "./words.js";

/** Show every key: those of the classes, which the laboratory sets, and those of the page. */
export function showKeys({ review }) {
  const answers = review.answers.map((name) => {
    const extra = review.extraClasses.find((one) => one.name === name);
    return [review.keyOf(name) || "no key", NO_CLASS[name] ?? extra?.meaning ?? spoken(name)];
  });
  openDialog(
    "Keys",
    [
      element(
        "div",
        { class: "keys" },
        element("section", {}, element("h3", {}, "Assign a class and move on"), table(answers)),
        element("section", {}, element("h3", {}, "Everything else"), table(KEYS)),
      ),
      element("p", { class: "soft" }, "Class keys act on the chosen cells, else on the cell under the mouse, else on the cell at the cursor. The laboratory's file sets them."),
    ],
    { wide: true },
  );
}

function table(rows) {
  return element(
    "table",
    {},
    element("tbody", {}, rows.map(([key, words]) => element("tr", {}, element("th", { scope: "row" }, element("kbd", {}, key)), element("td", {}, words)))),
  );
}
