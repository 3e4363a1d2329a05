/** Where each tile of a gallery lies. Pure arithmetic on sections of tiles of one size. */

export const HEADING_PX = 36;
export const CAPTION_PX = 22;
const GAP_PX = 6;

export class GalleryLayout {
  /**
   * @param {Array<{name: string, rows: number[]}>} sections
   * @param {number} width of the gallery in CSS pixels
   * @param {number} tile side of a tile's image in CSS pixels, at least
   */
  constructor(sections, width, tile) {
    this.columns = Math.max(1, Math.floor((width - GAP_PX) / (tile + GAP_PX)));
    /** Side of a tile that fills the width: at least what was asked for. */
    this.tile = Math.max(tile, Math.floor((width - GAP_PX) / this.columns) - GAP_PX);
    this.pitch = { x: this.tile + GAP_PX, y: this.tile + CAPTION_PX + GAP_PX };
    this.rows = sections.flatMap((section) => section.rows);
    this.positions = new Map(this.rows.map((row, index) => [row, index]));
    this.sections = [];
    let top = 0;
    let first = 0;
    for (const { name, rows } of sections) {
      const heading = name ? HEADING_PX : GAP_PX;
      const lines = Math.ceil(rows.length / this.columns);
      this.sections.push({ name, first, length: rows.length, top, body: top + heading, lines });
      top += heading + lines * this.pitch.y;
      first += rows.length;
    }
    this.height = top + GAP_PX;
  }

  get length() {
    return this.rows.length;
  }

  /** Return the section of a position. */
  sectionOf(position) {
    return this.sections.findLast((section) => section.first <= position && section.length) ?? this.sections[0];
  }

  /** Return the left and top of a position in CSS pixels. */
  place(position) {
    const section = this.sectionOf(position);
    const within = position - section.first;
    return {
      left: GAP_PX + (within % this.columns) * this.pitch.x,
      top: section.body + Math.floor(within / this.columns) * this.pitch.y,
    };
  }

  /** Return the first and last position (exclusive) that show between two heights. */
  between(top, bottom) {
    let first = this.length;
    let last = 0;
    for (const section of this.sections) {
      const from = Math.max(0, Math.floor((top - section.body) / this.pitch.y));
      const to = Math.min(section.lines, Math.ceil((bottom - section.body) / this.pitch.y));
      if (to <= from) continue;
      first = Math.min(first, section.first + from * this.columns);
      last = Math.max(last, Math.min(section.first + section.length, section.first + to * this.columns));
    }
    return [Math.min(first, last), last];
  }

  /** Return the position one line above (-1) or below (+1), in the same column where there is one. */
  vertical(position, step) {
    const section = this.sectionOf(position);
    const within = position - section.first;
    const column = within % this.columns;
    const line = Math.floor(within / this.columns) + step;
    if (line >= 0 && line < section.lines) {
      return section.first + Math.min(section.length - 1, line * this.columns + column);
    }
    const index = this.sections.indexOf(section) + step;
    const next = this.sections[index];
    if (!next) return position;
    const target = step > 0 ? 0 : next.lines - 1;
    return next.first + Math.min(next.length - 1, target * this.columns + column);
  }

  /** Return the first position of the next (+1) or previous (-1) section. */
  sectionStep(position, step) {
    const index = this.sections.indexOf(this.sectionOf(position)) + step;
    return this.sections[Math.max(0, Math.min(this.sections.length - 1, index))].first;
  }
}
