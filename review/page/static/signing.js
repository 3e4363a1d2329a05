/** The dialogs for signing, withdrawing a signature, and amending. */

import { askText, notice, openDialog } from "./dialogs.js";
import { element } from "./dom.js";
import { postJson, sampleUrl } from "./http.js";
import { count, percent } from "./words.js";

/** Open the dialog that the state of the sample asks for. */
export async function openSigning(page) {
  page.commands.writeLooks();
  await page.journal.settled();
  if (page.journal.unsaved) {
    notice("Edits wait to be saved; the sample cannot be signed until they are.", { kind: "bad" });
    return;
  }
  if (page.review.open) signDialog(page);
  else signedDialog(page);
}

function signDialog(page) {
  const { review } = page;
  const failed = review.checks.filter((check) => !check.passed && check.hard);
  const doubts = review.checks.filter((check) => !check.passed && !check.hard);
  const field = element("textarea", { id: "sign-comment", rows: 2, maxlength: 2000 });
  const problem = element("p", { class: "bad", role: "alert" });
  const sign = element("button", { type: "submit", class: "primary", disabled: failed.length > 0 }, "Sign");
  const form = element(
    "form",
    {
      on: {
        submit: async (event) => {
          event.preventDefault();
          sign.disabled = true;
          problem.textContent = await post(page, "sign", { comment: field.value.trim() });
          sign.disabled = failed.length > 0;
          if (!problem.textContent) dialog.close();
        },
      },
    },
    checkList(review.checks),
    failed.length ? element("p", { class: "bad" }, "The laboratory requires the checks marked ✗ before signing.") : null,
    doubts.length ? element("p", { class: "warn" }, "You can sign although the checks marked ! did not pass; the report names them.") : null,
    element("h3", {}, "What you sign"),
    resultTable(review.differential),
    element("label", { for: "sign-comment" }, "Comment (may be empty)"),
    field,
    problem,
    element("p", { class: "soft small" }, `Signed as ${review.reader}. Research software: not for diagnostic use.`),
    element("div", { class: "actions" }, sign),
  );
  const dialog = openDialog(`Sign ${review.sample}`, [form]);
}

function checkList(checks) {
  return element(
    "ul",
    { class: "checks" },
    checks.map((check) => {
      const mark = check.passed ? "✓" : check.hard ? "✗" : "!";
      const kind = check.passed ? "good" : check.hard ? "bad" : "warn";
      const word = check.passed ? "passed" : check.hard ? "not passed, required" : "not passed, a warning";
      return element(
        "li",
        { class: kind },
        element("span", { class: "mark", role: "img", "aria-label": word }, mark),
        element("span", {}, check.text || check.name.replaceAll("_", " ")),
      );
    }),
  );
}

function resultTable(differential) {
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ["Class", "Count", "%", "95 % interval"].map((word, column) => element("th", { scope: "col", class: column ? "n" : null }, word)))),
    element(
      "tbody",
      {},
      differential.after.map((entry) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, entry.name),
          element("td", { class: "n" }, entry.count),
          element("td", { class: "n" }, percent(entry.percent)),
          element("td", { class: "n" }, entry.interval_percent ? entry.interval_percent.map(percent).join("–") : "–"),
        ),
      ),
    ),
  );
}

function signedDialog(page) {
  const { review } = page;
  const act = (action, title, accept) => async () => {
    dialog.close();
    const why = await askText(title, "Reason", { accept });
    if (why === null) return;
    const problem = await post(page, action, { why: why.trim() });
    if (problem) notice(problem, { kind: "bad", stays: true });
  };
  const choice = (label, text, action, title, accept) =>
    element(
      "div",
      { class: "choice" },
      element("p", {}, text),
      element("button", { type: "button", on: { click: act(action, title, accept) } }, label),
    );
  const dialog = openDialog(`${review.sample} is ${review.state}`, [
    element("p", {}, `${count(review.differential.counted, "cell")} counted. Nobody can change a cell until the sample is open again.`),
    resultTable(review.differential),
    choice("Amend", "The report is out and something in it is wrong: correct it and sign again. The next report says corrected.", "amend", "Amend the signed result", "Amend"),
    choice("Withdraw", "The signature was a mistake: take it back. The sample is preliminary again.", "unsign", "Withdraw the signature", "Withdraw"),
  ]);
}

/** Post an action of signing. @returns {Promise<string>} what is wrong, or "" */
async function post(page, action, fields) {
  const { review } = page;
  try {
    const body = await postJson(sampleUrl(review.sample, `/${action}`), { base: review.head, ...fields });
    review.takeSummary(body);
    await page.journal.poll(true);
    page.announce(`The sample is ${review.state}.`, { visible: true });
    return "";
  } catch (error) {
    await page.journal.poll(true);
    const failed = (error.body.failed ?? []).map((check) => check.text || check.name.replaceAll("_", " "));
    return [error.message, ...failed].join(" ");
  }
}
