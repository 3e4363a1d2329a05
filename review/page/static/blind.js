/**
 * A blind reading: a reader calls cells in random order, without the model's call and without any other reader's.
 *
 * The server hides what the reader must not see; this page shows what it gets.
 */

import { askText, notice, openDialog } from "./dialogs.js";
import { element } from "./dom.js";
import { postJson, sampleUrl } from "./http.js";
import { count } from "./words.js";

const CELLS = 200;

/** Begin a blind reading, or end the one in progress. */
export async function toggleBlind(page) {
  if (page.review.reading) return finish(page);
  return begin(page);
}

function begin(page) {
  const { review } = page;
  const cells = element("input", { id: "blind-cells", type: "number", min: 1, max: review.size, value: Math.min(CELLS, review.size), required: true });
  const problem = element("p", { class: "bad", role: "alert" });
  const form = element(
    "form",
    {
      on: {
        submit: async (event) => {
          event.preventDefault();
          page.commands.writeLooks();
          await page.journal.settled();
          try {
            await postJson(sampleUrl(review.sample, "/readings"), { mode: "blind", cells: Number(cells.value) });
          } catch (error) {
            problem.textContent = error.message;
            return;
          }
          dialog.close();
          await review.reload();
          notice(`The blind reading has begun: ${count(review.reading?.rows.length ?? 0, "cell")} in random order.`);
        },
      },
    },
    element("p", {}, "You call cells in random order. You see neither the model's call nor what another reader did, until you finish. Your calls do not change the differential; they are compared with those of another reader, or with the model's."),
    element("label", { for: "blind-cells" }, "Cells to read"),
    cells,
    problem,
    element("div", { class: "actions" }, element("button", { class: "primary" }, "Begin")),
  );
  const dialog = openDialog("Blind reading", [form]);
}

async function finish(page) {
  const { review } = page;
  const open = review.reading.rows.filter((row) => !review.cells.now[row]).length;
  if (open) {
    const answer = await askText("Finish the blind reading?", `${count(open, "cell")} of ${review.reading.rows.length} without a call. Type "finish" to end it nevertheless.`, { accept: "Finish", multiline: false });
    if (answer === null || answer.trim().toLowerCase() !== "finish") return;
  }
  await page.journal.settled();
  page.journal.record({ action: "reading", event: "finish", reading: review.reading.reading });
  await page.journal.settled();
  await review.reload();
  notice("The blind reading is finished. Agreement of readers shows the comparison.");
}
