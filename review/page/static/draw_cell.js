/** Draws one cell from its strip: a modality, the bright fields in colour, or colour with fluorescence over it. */

/** Return the names of the channels that a strip can be shown in, with the key that holds each. */
export function channels(strip) {
  const found = strip.modalities.map((name, index) => ({ name, key: String(4 + index) }));
  if (strip.composite) {
    found.push({ name: "colour", key: "8" });
    if (strip.modalities.includes("fluorescence")) found.push({ name: "blend", key: "9" });
  }
  return found;
}

/**
 * Draw a channel of a strip.
 *
 * Everything is drawn from the strip itself: a canvas between, used again for the next cell, was seen to lend one cell
 * the colours of another in a browser under load.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap} bitmap modalities side by side, each as wide as high, and after them the colour image if there is one
 * @param {{modalities: string[], composite: boolean}} strip what the bitmap shows
 * @param {string} channel see `channels`; an unknown one is the first modality
 */
export function drawCell(canvas, bitmap, strip, channel) {
  const side = bitmap.height;
  if (canvas.width !== side) canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const draw = (panel) => context.drawImage(bitmap, panel * side, 0, side, side, 0, 0, side, side);
  const coloured = strip.composite && (channel === "colour" || channel === "blend");
  context.globalCompositeOperation = "source-over";
  draw(coloured ? strip.modalities.length : Math.max(0, strip.modalities.indexOf(channel)));
  const fluorescence = strip.modalities.indexOf("fluorescence");
  if (!coloured || channel !== "blend" || fluorescence < 0) return;
  context.globalCompositeOperation = "multiply";
  context.fillStyle = "#7f7f7f";
  context.fillRect(0, 0, side, side);
  context.globalCompositeOperation = "lighter";
  draw(fluorescence);
  context.globalCompositeOperation = "source-over";
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
