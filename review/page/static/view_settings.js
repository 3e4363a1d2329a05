/** How cells are shown: modality, contrast, outlines, size. Kept in this browser; never part of the count. */

const STORED = "wbcpipe review view";
const DEFAULTS = { channel: "colour", brightness: 100, contrast: 100, outlines: false, tile: 96 };
const TILE_PX = [64, 80, 96, 112, 144, 192, 256];

/**
 * Events: `change`.
 *
 * A channel is the name of a modality, "colour" (the bright fields as one colour image) or "blend" (with fluorescence).
 */
export class ViewSettings extends EventTarget {
  constructor() {
    super();
    Object.assign(this, DEFAULTS, stored());
    /** The channel shown while a key is held; null when none is. */
    this.held = null;
  }

  /** The channel on the screen now. */
  get shown() {
    return this.held ?? this.channel;
  }

  /** Change settings. @param {Object} settings */
  set(settings) {
    Object.assign(this, settings);
    const { channel, brightness, contrast, outlines, tile } = this;
    try {
      localStorage.setItem(STORED, JSON.stringify({ channel, brightness, contrast, outlines, tile }));
    } catch {
      // A browser without storage forgets them with the page.
    }
    this.dispatchEvent(new Event("change"));
  }

  /** Show a channel as long as its key is held. */
  hold(channel) {
    if (this.held === channel) return;
    this.held = channel;
    this.dispatchEvent(new Event("change"));
  }

  resetContrast() {
    this.set({ brightness: DEFAULTS.brightness, contrast: DEFAULTS.contrast });
  }

  /** Make tiles larger (+1) or smaller (-1). */
  zoom(step) {
    const index = TILE_PX.findIndex((size) => size >= this.tile);
    this.set({ tile: TILE_PX[Math.max(0, Math.min(TILE_PX.length - 1, index + step))] });
  }
}

function stored() {
  try {
    const found = JSON.parse(localStorage.getItem(STORED) ?? "{}");
    return Object.fromEntries(
      Object.entries(found).filter(([name, value]) => name in DEFAULTS && typeof value === typeof DEFAULTS[name]),
    );
  } catch {
    return {};
  }
}
