// What the viewer draws over a photo. A map has `values` (the place in the legend of each pixel),
// `width`, `height` and `colors` (by place; 0 for background).
const painting = {
  // Every class in its colour, white lines between them.
  classes(canvas, { values, width, height, colors }) {
    const [context, image, pixels] = painting.blank(canvas, width, height);
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        const value = values[at];
        const edge =
          (x + 1 < width && values[at + 1] !== value) || (y + 1 < height && values[at + width] !== value);
        pixels[at] = edge ? 0xffffffff : colors[value];
      }
    }
    context.putImageData(image, 0, 0);
  },

  // All but one class goes dark, and a white line runs round it.
  alone(canvas, { values, width, height }, lit, darkness) {
    const [context, image, pixels] = painting.blank(canvas, width, height);
    const dark = ((Math.round(255 * darkness) << 24) | 0x0c0a08) >>> 0; // ABGR
    const reach = Math.max(1, Math.round(Math.max(width, height) / 640));
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        if (values[at] !== lit) pixels[at] = dark;
        else if (
          (x >= reach && values[at - reach] !== lit) ||
          (x + reach < width && values[at + reach] !== lit) ||
          (y >= reach && values[at - reach * width] !== lit) ||
          (y + reach < height && values[at + reach * width] !== lit)
        ) pixels[at] = 0xffffffff;
      }
    }
    context.putImageData(image, 0, 0);
  },

  // The pixel of a class that is nearest to its middle, in [0, 1] of the image; null without any.
  middle({ values, width, height }, lit) {
    let count = 0, sumX = 0, sumY = 0;
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) if (values[at] === lit) { count++; sumX += x; sumY += y; }
    }
    let best = Infinity, place = null;
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        if (values[at] !== lit) continue;
        const distance = (x - sumX / count) ** 2 + (y - sumY / count) ** 2;
        if (distance < best) { best = distance; place = [(x + 0.5) / width, (y + 0.5) / height]; }
      }
    }
    return place;
  },

  // The place in the legend of what is under a point of a box that shows the map.
  under({ values, width, height }, box, x, y) {
    const inside = (share, size) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
    const row = inside((y - box.top) / box.height, height);
    return values[row * width + inside((x - box.left) / box.width, width)];
  },

  blank(canvas, width, height) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    return [context, image, new Uint32Array(image.data.buffer)];
  },
};
