/** The worklist: every sample, how far it has come, and what stands in the way of its signature. */

import { byId, element, fill } from "./dom.js";
import { getJson } from "./http.js";
import { connectLogOut, connectTheme } from "./session.js";
import { localTime } from "./words.js";

const STATES = ["all", "ordered", "scanned", "preliminary", "verified", "corrected"];
const COLUMNS = [
  { name: "sample", label: "Sample" },
  { name: "state", label: "State" },
  { name: "counted", label: "Counted", number: true },
  { name: "unidentified", label: "Unidentified", number: true },
  { name: "looked", label: "Looked at", number: true },
  { name: "changed", label: "Changed", number: true },
  { name: "gates", label: "Quality gates" },
  { name: "verified", label: "Verified" },
];
const REFRESH_MS = 5000;

class Worklist {
  constructor() {
    this.state = "all";
    this.sort = { name: "sample", rising: true };
    this.samples = [];
    this.find = byId("find");
    this.find.addEventListener("input", () => this.draw());
    connectTheme(byId("theme"));
    connectLogOut();
    this.#heads();
    void this.load();
    setInterval(() => document.hidden || this.load(), REFRESH_MS);
  }

  async load() {
    try {
      const found = await getJson("/api/samples");
      const text = JSON.stringify(found);
      if (text === this.text) return;
      this.text = text;
      this.samples = found;
      this.draw();
    } catch (error) {
      fill(byId("shown"), error.message);
    }
  }

  #heads() {
    const row = element("tr", {});
    for (const { name, label, number } of COLUMNS) {
      const sortable = element("button", { type: "button", class: "quiet", on: { click: () => this.#sortBy(name) } }, label);
      row.append(element("th", { scope: "col", class: number ? "n" : null, dataset: { name } }, sortable));
    }
    fill(document.querySelector("#samples thead"), row);
  }

  #sortBy(name) {
    this.sort = { name, rising: this.sort.name === name ? !this.sort.rising : true };
    this.draw();
  }

  draw() {
    const words = this.find.value.trim().toLowerCase();
    const matching = this.samples.filter(
      (one) => !words || one.sample.toLowerCase().includes(words) || (one.verified_by ?? "").toLowerCase().includes(words),
    );
    this.#states(matching);
    const rows = matching.filter((one) => this.state === "all" || one.state === this.state).sort((a, b) => this.#compare(a, b));
    document.querySelectorAll("#samples th").forEach((head) => {
      const sorted = head.dataset.name === this.sort.name;
      head.setAttribute("aria-sort", sorted ? (this.sort.rising ? "ascending" : "descending") : "none");
    });
    fill(document.querySelector("#samples tbody"), rows.map(line));
    fill(byId("shown"), rows.length ? `${rows.length} of ${this.samples.length} samples` : "No sample matches.");
  }

  #states(matching) {
    const known = [...STATES, ...matching.map((one) => one.state).filter((state) => !STATES.includes(state))];
    fill(
      byId("states"),
      [...new Set(known)].map((state) => {
        const number = state === "all" ? matching.length : matching.filter((one) => one.state === state).length;
        const act = () => {
          this.state = state;
          this.draw();
          document.querySelector(`#states [data-state="${state}"]`)?.focus();
        };
        return element(
          "button",
          { type: "button", "aria-pressed": String(this.state === state), dataset: { state }, on: { click: act } },
          `${state} `,
          element("span", { class: "soft" }, number),
        );
      }),
    );
  }

  #compare(a, b) {
    const value = (one) => (this.sort.name === "gates" ? (one.gates_failed?.length ?? 0) : one[this.sort.name]) ?? "";
    const [left, right] = [value(a), value(b)];
    const order = typeof left === "number" && typeof right === "number" ? left - right : String(left).localeCompare(String(right), undefined, { numeric: true });
    return (this.sort.rising ? order : -order) || a.sample.localeCompare(b.sample);
  }
}

function line(one) {
  const opened = one.state !== "ordered" && one.state !== "scanned" && one.state !== "damaged";
  const name = opened ? element("a", { href: `/samples/${encodeURIComponent(one.sample)}` }, one.sample) : one.sample;
  const gates = one.gates_failed ?? [];
  const number = (value) => element("td", { class: "n" }, value ?? "–");
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, name, one.problem ? element("p", { class: "bad small" }, one.problem) : null),
    element("td", {}, element("span", { class: "badge", dataset: { state: one.state } }, one.state)),
    number(one.counted),
    number(one.unidentified),
    element("td", { class: "n" }, one.cells ? `${one.looked} of ${one.cells}` : "–"),
    number(one.cells ? one.changed : null),
    element("td", { class: gates.length ? "bad" : "soft" }, gates.length ? `${gates.length} failed: ${gates.join("; ")}` : one.cells ? "passed" : "–"),
    element("td", {}, one.verified_by ? `${one.verified_by}, ${localTime(one.verified)}` : "–"),
  );
}

new Worklist();
