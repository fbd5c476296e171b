// Masks of the gallery: decodes run lengths, and draws a picture with errors in colours.
const masks = (() => {
  const data = page.data.gallery;
  if (!data) return null;
  const cases = data.cases.map((each, index) => ({
    ...each, ...data.objects[each.object], index, protocol: data.protocols[each.protocol],
  }));
  const css = getComputedStyle(document.documentElement);
  const color = (name) => css.getPropertyValue(`--${name}`).trim();
  const rgb = (name) => color(name).match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));

  // Compressed run lengths of COCO: groups of 5 bits, and differences to the run before the last.
  const runs = (text) => {
    const found = [];
    for (let at = 0; at < text.length;) {
      let value = 0, shift = 0, bits;
      do {
        bits = text.charCodeAt(at++) - 48;
        value |= (bits & 31) << shift;
        shift += 5;
      } while (bits & 32);
      if (bits & 16) value |= -1 << shift;
      found.push(found.length > 2 ? value + found[found.length - 2] : value);
    }
    return found;
  };

  // Adds a mask to pixels, column by column, as the given bit.
  const add = (pixels, text, bit) => {
    let at = 0;
    runs(text).forEach((length, index) => {
      if (index % 2) for (let i = at; i < at + length; i++) pixels[i] |= bit;
      at += length;
    });
  };

  const TRUTH = 1, MASK = 2;
  const pixelsOf = (each, model) => {
    const [rows, columns] = each.size;
    const pixels = new Uint8Array(rows * columns);
    add(pixels, each.truth, TRUTH);
    const counts = each.masks[model]?.[1];
    if (counts != null) add(pixels, counts, MASK);
    return pixels;
  };

  // Shares of the object: what the mask misses, and what it has too much.
  const errors = (each, model) => {
    const n = [0, 0, 0, 0];
    for (const bits of pixelsOf(each, model)) n[bits] += 1;
    return { missed: n[TRUTH] / (n[1] + n[3]), extra: n[MASK] / (n[1] + n[3]) };
  };

  // The models that have a mask for a prompt of a protocol; others were not asked.
  const asked = new Set(cases.flatMap((each) => each.masks.flatMap(
    (found, model) => (found ? [`${model} ${each.protocol}`] : []),
  )));
  const measured = (model, protocol) => asked.has(`${model} ${protocol}`);

  const layer = (each, model, mode) => {
    const [rows, columns] = each.size;
    const pixels = pixelsOf(each, model);
    const canvas = document.createElement("canvas");
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d");
    const image = context.createImageData(columns, rows);
    const fills = {
      errors: { 1: rgb("missed"), 2: rgb("extra"), 3: rgb("right") },
      mask: { 2: rgb("right"), 3: rgb("right") },
      truth: { 1: rgb("missed"), 3: rgb("missed") },
      picture: {},
    }[mode];
    // Without a mask to compare, nothing is painted as missed.
    const [, counts] = each.masks[model] ?? [];
    if (mode === "errors" && (counts === null || !measured(model, each.protocol))) delete fills[1];
    for (let i = 0; i < pixels.length; i++) {
      const fill = fills[pixels[i]];
      if (!fill) continue;
      const at = 4 * ((i % rows) * columns + Math.floor(i / rows));
      image.data.set(fill, at);
      image.data[at + 3] = mode === "errors" && pixels[i] !== 3 ? 165 : 120;
    }
    context.putImageData(image, 0, 0);
    return { canvas, outline: mode === "errors" ? outline(pixels, rows, TRUTH)
      : mode === "mask" ? outline(pixels, rows, MASK) : new Path2D() };
  };

  // The border of a mask, along the edges of its pixels.
  const outline = (pixels, rows, bit) => {
    const path = new Path2D();
    for (let i = 0; i < pixels.length; i++) {
      const y = i % rows, x = (i - y) / rows, own = pixels[i] & bit;
      if (y > 0 && (pixels[i - 1] & bit) !== own) { path.moveTo(x, y); path.lineTo(x + 1, y); }
      if (x > 0 && (pixels[i - rows] & bit) !== own) { path.moveTo(x, y); path.lineTo(x, y + 1); }
    }
    return path;
  };

  const layers = new Map();
  const layerOf = (each, model, mode) => {
    const key = `${each.index} ${model} ${mode}`;
    if (!layers.has(key)) {
      if (layers.size > 4) layers.clear();
      layers.set(key, layer(each, model, mode));
    }
    return layers.get(key);
  };

  const pictures = new Map();
  const picture = async (id) => {
    if (!pictures.has(id)) {
      const image = new Image();
      image.src = data.images[id].uri;
      pictures.set(id, image.decode().then(() => image));
    }
    return pictures.get(id);
  };

  // Draws the masks of one model, or of two on either side of the share `split`, with the prompt.
  const draw = async (canvas, each, [left, right], options) => {
    const { width, mode, whole, split } = options;
    const [rows, columns] = each.size;
    const [x, y, w, h] = whole ? [0, 0, columns, rows] : each.crop;
    const ratio = Math.min(devicePixelRatio, 2);
    const image = await picture(each.image);
    if (options.stale?.()) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(width * (h / w) * ratio);
    canvas.style.width = `${width}px`;
    const context = canvas.getContext("2d");
    const scale = canvas.width / w;
    context.setTransform(scale, 0, 0, scale, -x * scale, -y * scale);
    context.drawImage(image, 0, 0, columns, rows);
    const at = x + w * (split ?? 1);
    const parts = [[left, x, at], [right, at, x + w]].filter(([, from, to]) => to > from);
    for (const [model, from, to] of parts) {
      const shown = layerOf(each, model, mode);
      context.save();
      context.beginPath();
      context.rect(from, y, to - from, h);
      context.clip();
      context.imageSmoothingEnabled = scale < 1;
      context.drawImage(shown.canvas, 0, 0);
      for (const [style, pixels] of [["#000", 3], ["#fff", 1.5]]) {
        context.strokeStyle = style;
        context.lineWidth = (pixels * ratio) / scale;
        context.stroke(shown.outline);
      }
      context.restore();
    }
    if (split !== undefined) line(context, [[at, y, at, y + h]], "#fff", 2 * ratio / scale);
    prompt(context, each, ratio / scale);
  };

  const line = (context, segments, style, width) => {
    for (const [ink, extra] of [["#000", 1.8], [style, 1]]) {
      context.strokeStyle = ink;
      context.lineWidth = width * extra;
      context.beginPath();
      for (const [x0, y0, x1, y1] of segments) { context.moveTo(x0, y0); context.lineTo(x1, y1); }
      context.stroke();
    }
  };

  const prompt = (context, each, pixel) => {
    if (each.box.length) {
      for (const [ink, width] of [["#000", 4], [color("prompt"), 2]]) {
        context.strokeStyle = ink;
        context.lineWidth = width * pixel;
        context.strokeRect(...each.box);
      }
    }
    for (const [x, y, label] of each.points) {
      for (const [ink, radius] of [["#000", 7], ["#fff", 5.5], [color(label ? "prompt" : "background-prompt"), 4]]) {
        context.fillStyle = ink;
        context.beginPath();
        context.arc(x, y, radius * pixel, 0, 7);
        context.fill();
      }
    }
  };

  const score = (each, model) => {
    const found = each.masks[model];
    if (!found) return measured(model, each.protocol) ? "no answer" : "not measured";
    return `IoU ${found[0].toFixed(3)}${found[1] === null ? ", mask not kept" : ""}`;
  };
  const size = (each) => (each.area < 32 ** 2 ? "small" : each.area < 96 ** 2 ? "medium" : "large");
  const title = (each) => [
    data.images[each.image].name, each.category, `annotation ${each.annotation}`,
    `${Math.round(each.area).toLocaleString("en")} px (${size(each)})`, each.protocol,
  ].filter(Boolean).join(", ");
  // Choosing the model of the other side swaps both.
  const choose = (side, { a, b }, value) => {
    const other = side === "a" ? "b" : "a";
    const old = { a, b };
    return { [side]: value, [other]: old[other] === value ? old[side] : old[other] };
  };
  return { ...data, cases, choose, draw, errors, measured, score, size, title };
})();
