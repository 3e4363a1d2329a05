/** Names and numbers as people read and hear them. */

/** The three answers that are no class of cell. */
export const NO_CLASS = {
  unidentified: "unidentified: a question, still part of the sample",
  not_classed: "not classed: excluded from the count",
  artefact: "artefact: not a cell",
};

const SPOKEN = {
  NEU: "neutrophil",
  LYM: "lymphocyte",
  EOS: "eosinophil",
  MO: "monocyte",
  MON: "monocyte",
  BAS: "basophil",
  unidentified: "unidentified",
  not_classed: "not classed",
  artefact: "artefact",
};

/** The bits of `qc_flags`, lowest first. */
export const FLAGS = ["border", "blurred", "saturated", "doublet", "unregistered", "missing modality", "debris", "clump"];

/** Return the words of a class: "neutrophil" for NEU; an unknown name stays as it is. */
export function spoken(name) {
  return SPOKEN[name] ?? name.replaceAll("_", " ");
}

/** Return a short name for a tile or a table: "not classed" for not_classed. */
export function shortName(name) {
  return name.replaceAll("_", " ");
}

/** Return the names of the flags in a cell's bits. */
export function flagNames(bits) {
  return FLAGS.filter((_, bit) => bits & (1 << bit));
}

/** Return a percentage with one decimal, without the sign; a dash where there is none. */
export function percent(value) {
  return value === null || value === undefined ? "–" : value.toFixed(1);
}

/** Return "1 cell", "2 cells". */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** Return the modality in words: "AO" for fluorescence, "bright field 1" for color1. */
export function modalityName(name) {
  if (name.startsWith("fluorescence")) return name === "fluorescence" ? "AO" : `AO ${name.slice(13)}`;
  return name.replace(/^color(\d+)$/, "bright field $1");
}

/** Return the modality as a label: "BF 1" for color1. */
export function modalityLabel(name) {
  return modalityName(name).replace("bright field", "BF");
}

/** Return "a", "a and b", "a, b and c". */
export function listed(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

/** Return a local date and time of an ISO time, to the minute. */
export function localTime(iso) {
  const date = new Date(iso);
  return Number.isNaN(date.getTime())
    ? iso
    : date.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
}
