/** Draws one cell from its strip: a modality, the bright fields in colour, or colour with fluorescence over it. */

const RGB = ["#ff0000", "#00ff00", "#0000ff"];
const FLUORESCENCE = "#40ff70";
let scratch = null;

/** Return the names of the channels that a strip can be shown in, with the key that holds each. */
export function channels(strip) {
  const found = strip.modalities.map((name, index) => ({ name, key: String(4 + index), index }));
  if (composite(strip)) {
    found.push({ name: "colour", key: "8" });
    if (fluorescence(strip) >= 0) found.push({ name: "blend", key: "9" });
  }
  return found;
}

function composite(strip) {
  if (strip.composite) return strip.composite;
  const bright = strip.modalities.flatMap((name, index) => (name.startsWith("fluorescence") ? [] : [index]));
  return bright.length >= 3 ? bright.slice(0, 3) : null;
}

function fluorescence(strip) {
  return strip.modalities.indexOf("fluorescence");
}

/**
 * Draw a channel of a strip.
 *
 * @param {HTMLCanvasElement} canvas its pixels are the tile's
 * @param {ImageBitmap} bitmap modalities side by side, each as wide as high
 * @param {{modalities: string[], composite?: number[]}} strip
 * @param {string} channel see `channels`; an unknown one is the first modality
 */
export function drawCell(canvas, bitmap, strip, channel) {
  const side = bitmap.height;
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 1;
  const planes = composite(strip);
  if (planes && (channel === "colour" || channel === "blend")) {
    drawColour(context, bitmap, side, planes);
    if (channel === "blend" && fluorescence(strip) >= 0) {
      context.globalCompositeOperation = "multiply";
      context.fillStyle = "#7f7f7f";
      context.fillRect(0, 0, side, side);
      context.globalCompositeOperation = "lighter";
      context.drawImage(tinted(bitmap, side, fluorescence(strip), FLUORESCENCE), 0, 0);
    }
    context.globalCompositeOperation = "source-over";
    return;
  }
  const index = Math.max(0, strip.modalities.indexOf(channel));
  context.drawImage(bitmap, index * side, 0, side, side, 0, 0, side, side);
}

function drawColour(context, bitmap, side, planes) {
  planes.forEach((plane, colour) => {
    context.globalCompositeOperation = colour ? "lighter" : "source-over";
    context.drawImage(tinted(bitmap, side, plane, RGB[colour]), 0, 0);
  });
}

/** Return one modality in a colour, on a canvas that the next call uses again. */
function tinted(bitmap, side, index, colour) {
  scratch ??= document.createElement("canvas");
  if (scratch.width !== side) scratch.width = scratch.height = side;
  const context = scratch.getContext("2d");
  context.globalCompositeOperation = "source-over";
  context.drawImage(bitmap, index * side, 0, side, side, 0, 0, side, side);
  context.globalCompositeOperation = "multiply";
  context.fillStyle = colour;
  context.fillRect(0, 0, side, side);
  return scratch;
}

/**
 * Draw the outlines of a cell and its nucleus over its image.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{side_px: number, cell: number[][][], nucleus: number[][][]}} outline contours of (y, x)
 */
export function drawOutline(canvas, outline) {
  const context = canvas.getContext("2d");
  const scale = canvas.width / outline.side_px;
  for (const [contours, colour] of [[outline.cell, "#ffb000"], [outline.nucleus, "#00c8ff"]]) {
    context.strokeStyle = colour;
    context.lineWidth = Math.max(1, canvas.width / 112);
    for (const contour of contours ?? []) {
      context.beginPath();
      contour.forEach(([y, x], index) => context[index ? "lineTo" : "moveTo"](x * scale, y * scale));
      context.closePath();
      context.stroke();
    }
  }
}
