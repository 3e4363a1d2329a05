/**
 * Orders cells into the sections of a gallery. Pure: the order is made when a reader asks for it, and stays while
 * cells change, so that no cell moves away under the hand.
 */

/** The ways to sort, with what each is called. */
export const SORTS = {
  doubt: "by doubt",
  disagreement: "by head disagreement",
  similar: "by similarity",
  size: "by size",
  field: "by field",
};

/** Filters on what readers did, with what each is called. */
export const WORK = {
  all: "all cells",
  not_looked: "not looked at",
  changed: "changed",
  decisive: "still decisive",
  commented: "with a comment",
};

/**
 * @typedef {Object} OrderOptions
 * @property {string} sort a key of SORTS
 * @property {boolean} grouped one section a class
 * @property {string[]} classes only these; empty for all
 * @property {string} work a key of WORK
 * @property {number} flag bit of a flag, -1 for all cells, -2 for excluded cells, -3 for counted cells
 * @property {number[]} [similar] rows by similarity
 * @property {number[]} [rows] only these rows, in this order (a blind reading)
 */

/** @returns {OrderOptions} */
export function defaultOrder() {
  return { sort: "doubt", grouped: true, classes: [], work: "all", flag: -1 };
}

/**
 * Return the sections of a gallery.
 *
 * @param {import("./review.js").Review} review
 * @param {OrderOptions} options
 * @returns {Array<{name: string, rows: number[]}>}
 */
export function arrange(review, options) {
  if (options.rows) return [{ name: "", rows: options.rows }];
  const kept = select(review, options);
  kept.sort(comparison(review, options));
  if (!options.grouped) return [{ name: "", rows: kept }];
  const groups = new Map(review.answers.map((name) => [name, []]));
  for (const row of kept) {
    const name = review.cells.now[row];
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(row);
  }
  return [...groups].filter(([, rows]) => rows.length).map(([name, rows]) => ({ name, rows }));
}

function select(review, { classes, work, flag }) {
  const { cells } = review;
  const wanted = new Set(classes);
  const decisive = work === "decisive" ? new Set(review.differential?.stop?.next ?? []) : null;
  const rows = [];
  for (let row = 0; row < review.size; row++) {
    if (wanted.size && !wanted.has(cells.now[row])) continue;
    if (work === "not_looked" && cells.looked[row]) continue;
    if (work === "changed" && !review.isChanged(row)) continue;
    if (decisive && !decisive.has(row)) continue;
    if (work === "commented" && !review.comments.get(cells.key[row])?.length) continue;
    if (flag >= 0 && !(cells.flags[row] & (1 << flag))) continue;
    if (flag === -2 && !cells.excluded[row]) continue;
    if (flag === -3 && cells.excluded[row]) continue;
    rows.push(row);
  }
  return rows;
}

function comparison(review, { sort, similar }) {
  const { cells } = review;
  const falling = (values) => (a, b) => values[b] - values[a] || a - b;
  switch (sort) {
    case "disagreement":
      return falling(cells.disagreement);
    case "size":
      return falling(cells.area_um2);
    case "similar": {
      const rank = new Map((similar ?? []).map((row, index) => [row, index]));
      return (a, b) => (rank.get(a) ?? Infinity) - (rank.get(b) ?? Infinity) || a - b;
    }
    case "field":
      return (a, b) => cells.field[a] - cells.field[b] || a - b;
    default: {
      // What the server names next first: its order is that of the journal's end, the column that of the page's load.
      const next = new Map((review.differential?.stop?.next ?? []).map((row, index) => [row, index]));
      const place = (row) => next.get(row) ?? Infinity;
      return (a, b) => {
        if (place(a) !== place(b)) return place(a) - place(b);
        return Boolean(cells.excluded[a]) - Boolean(cells.excluded[b]) || cells.doubt[b] - cells.doubt[a] || a - b;
      };
    }
  }
}
