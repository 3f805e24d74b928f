// Pictures of numbers: cues, heat maps of fast weights, hidden activity, and rates.
"use strict";

globalThis.Drawing = (() => {
  const TRANSITION = 350; // milliseconds from one picture of a canvas to the next
  const GAMMA = 0.8; // below 1, small numbers are visible beside large ones

  // Colours follow the scheme of the page. They are read once for each scheme.
  let colours = null;
  const shown = new WeakMap(); // the numbers that a canvas shows, and those that it will show

  function readColours(element) {
    const style = getComputedStyle(element);
    const colour = (name) => {
      const [, hex] = style.getPropertyValue(name).match(/#([0-9a-f]{6})/i);
      return [0, 2, 4].map((start) => parseInt(hex.slice(start, start + 2), 16));
    };
    colours = { negative: colour("--negative"), zero: colour("--zero"), positive: colour("--positive") };
  }

  // The colour of a number in [-1, 1].
  function diverging(value) {
    const end = value < 0 ? colours.negative : colours.positive;
    const share = Math.min(Math.abs(value), 1) ** GAMMA;
    return colours.zero.map((start, i) => start + share * (end[i] - start));
  }

  function paint(canvas, { rows, width, limit }) {
    const height = rows.length / width;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    rows.forEach((value, i) => image.data.set([...diverging(value / limit), 255], 4 * i));
    context.putImageData(image, 0, 0);
  }

  // Show a matrix as a heat map, one pixel for a number, from -limit to limit. The picture changes gradually.
  function heatMap(canvas, matrix, limit) {
    const target = { rows: matrix.flat(), width: matrix[0].length, limit: Math.max(limit, 1e-9) };
    const before = shown.get(canvas)?.now;
    const isComparable = before && before.rows.length === target.rows.length && before.width === target.width;
    if (!isComparable || matchMedia("(prefers-reduced-motion: reduce)").matches) {
      shown.set(canvas, { now: target, target });
      paint(canvas, target);
      return;
    }
    const started = performance.now();
    shown.set(canvas, { now: before, target });
    const advance = (time) => {
      if (shown.get(canvas).target !== target) return; // a later picture replaces this one
      const share = Math.min(Math.max((time - started) / TRANSITION, 0), 1);
      const between = (from, to) => from + share * (to - from);
      const now = {
        rows: target.rows.map((value, i) => between(before.rows[i], value)),
        width: target.width,
        limit: between(before.limit, target.limit),
      };
      shown.set(canvas, { now, target });
      paint(canvas, now);
      if (share < 1) requestAnimationFrame(advance);
    };
    requestAnimationFrame(advance);
  }

  // Show a cue as a square of grey pixels, from 0 (black) to 1 (white).
  function cue(canvas, values) {
    const side = Math.sqrt(values.length);
    Object.assign(canvas, { width: side, height: side });
    const context = canvas.getContext("2d");
    const image = context.createImageData(side, side);
    values.forEach((value, i) => image.data.set([...new Array(3).fill(255 * value), 255], 4 * i));
    context.putImageData(image, 0, 0);
  }

  // Draw all heat maps again in the colours of the present scheme.
  function repaint(root) {
    readColours(root);
    root.querySelectorAll("canvas").forEach((canvas) => shown.has(canvas) && paint(canvas, shown.get(canvas).target));
  }

  return { readColours, heatMap, cue, repaint };
})();
