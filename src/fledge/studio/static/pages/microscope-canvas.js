// What the canvases of the microscope draw: heat maps in tiles, arcs, a grid of small pictures, a table.
import { color } from "../shared.js";

export const visible = (token) => token.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "→");

/** Give a canvas its size in CSS pixels, sharp on any screen, and clear it. */
export function fit(canvas, width, height) {
  const ratio = devicePixelRatio || 1, w = Math.round(width * ratio), h = Math.round(height * ratio);
  if (canvas.width !== w || canvas.height !== h) {
    Object.assign(canvas, { width: w, height: h });
    Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
  context.textBaseline = "middle";
  return context;
}

/** Colours from nothing (0) to everything (255), of the theme. Square roots, so that small weights can be seen. */
export class Palette {
  constructor() {
    const parse = (name) => [1, 3, 5].map((at) => parseInt(color(name).slice(at, at + 2), 16));
    const from = parse("--heat-0"), to = parse("--heat-1");
    this.rgb = Array.from({ length: 256 }, (_, i) => from.map((a, c) => Math.round(a + (to[c] - a) * Math.sqrt(i / 255))));
    this.packed = new Uint32Array(this.rgb.map(([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0));
    this.css = this.rgb.map((rgb) => `rgb(${rgb.join(" ")})`);
    for (const name of ["ink", "soft", "line", "accent", "surface", "sunken"]) this[name] = color(`--${name}`);
    this.arc = color("--series-1");
    this.into = color("--series-2");
  }
  level(value) { return Math.max(0, Math.min(255, Math.round(value * 255))); }
  fill(value) { return this.css[this.level(value)]; }
  /** The colour of text on `fill(value)`. */
  text(value) {
    const [r, g, b] = this.rgb[this.level(value)];
    return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#14171a" : "#ffffff";
  }
}

function picture(width, height, level, palette) {
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d");
  const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = palette.packed[level(i)];
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The small pictures of all heads: grid is { data: Uint8Array, shape: [layers, heads, side, side] }. */
export class HeadGrid {
  constructor(grid, palette) {
    const [layers, heads, side] = grid.shape;
    Object.assign(this, { layers, heads, side, palette });
    this.atlas = picture(side, layers * heads * side, (i) => grid.data[i], palette);
  }
  draw(canvas, width, chosen, hovered) {
    const { layers, heads, side, palette } = this, left = 24, top = 20, gap = heads > 8 ? 3 : 6;
    const tile = Math.max(6, Math.min(132, Math.floor((width - left) / heads) - gap));
    this.place = { left, top, step: tile + gap, tile };
    const context = fit(canvas, left + heads * (tile + gap), top + layers * (tile + gap));
    context.imageSmoothingEnabled = tile < side;
    context.textAlign = "center";
    context.fillStyle = palette.soft;
    for (let head = 0; head < heads; head++) context.fillText(head, left + head * (tile + gap) + tile / 2, 9);
    for (let layer = 0; layer < layers; layer++) context.fillText(layer, 10, top + layer * (tile + gap) + tile / 2);
    for (let layer = 0; layer < layers; layer++) {
      for (let head = 0; head < heads; head++) {
        const x = left + head * (tile + gap), y = top + layer * (tile + gap), at = layer * heads + head;
        context.drawImage(this.atlas, 0, at * side, side, side, x, y, tile, tile);
        const isChosen = layer === chosen.layer && head === chosen.head, isHovered = hovered?.layer === layer && hovered?.head === head;
        context.strokeStyle = isChosen ? palette.accent : isHovered ? palette.ink : palette.line;
        context.lineWidth = isChosen ? 2.5 : 1;
        context.strokeRect(x - 0.5, y - 0.5, tile + 1, tile + 1);
      }
    }
  }
  at(x, y) {
    const head = Math.floor((x - this.place.left) / this.place.step), layer = Math.floor((y - this.place.top) / this.place.step);
    return head >= 0 && layer >= 0 && head < this.heads && layer < this.layers ? { layer, head } : null;
  }
}

const TILE = 256; // a heat map is painted in tiles of so many tokens, when they come into view

/** One head: weights Float32Array [T, T]. `view` is { query, key, count }: the tokens that are in sight. */
export class HeadMap {
  constructor(weights, tokens, palette) {
    Object.assign(this, { weights, tokens, palette, T: tokens.length, tiles: new Map() });
    this.labels = tokens.map(visible);
  }
  weight(query, key) { return this.weights[query * this.T + key]; }
  /** The keys that a query attends to most: [[key, weight], …] */
  strongest(query, count) {
    const row = Array.from({ length: query + 1 }, (_, key) => [key, this.weight(query, key)]);
    return row.sort((a, b) => b[1] - a[1]).slice(0, count).filter(([, weight]) => weight > 0.005);
  }
  tile(row, column) {
    const name = `${row},${column}`;
    if (!this.tiles.has(name)) {
      const { T, weights, palette } = this, top = row * TILE, left = column * TILE;
      const height = Math.min(TILE, T - top), width = Math.min(TILE, T - left);
      const level = (i) => palette.level(weights[(top + Math.floor(i / width)) * T + left + i % width]);
      this.tiles.set(name, picture(width, height, level, palette));
    }
    return this.tiles.get(name);
  }
  draw(canvas, width, view, hovered) {
    const { palette } = this, rough = width / view.count, margin = rough >= 12 ? 74 : 4;
    const cell = (width - margin - 4) / view.count, size = cell * view.count;
    this.place = { margin, cell };
    const context = fit(canvas, width, width);
    context.save();
    context.beginPath();
    context.rect(margin, margin, size, size);
    context.clip();
    context.imageSmoothingEnabled = cell * (devicePixelRatio || 1) < 1;
    const last = (from) => Math.floor((Math.min(from + view.count, this.T) - 1) / TILE);
    for (let row = Math.floor(view.query / TILE); row <= last(view.query); row++) {
      for (let column = Math.floor(view.key / TILE); column <= Math.min(row, last(view.key)); column++) {
        const tile = this.tile(row, column), x = margin + (column * TILE - view.key) * cell, y = margin + (row * TILE - view.query) * cell;
        context.drawImage(tile, x, y, tile.width * cell, tile.height * cell);
      }
    }
    context.restore();
    context.strokeStyle = palette.line;
    context.strokeRect(margin - 0.5, margin - 0.5, size + 1, size + 1);
    if (margin > 10) this.drawLabels(context, view, hovered);
    if (hovered) this.drawCross(context, view, hovered, size);
  }
  drawLabels(context, view, hovered) {
    const { margin, cell } = this.place, { palette } = this;
    for (let i = 0; i < view.count; i++) {
      const at = margin + (i + 0.5) * cell;
      context.textAlign = "right";
      context.fillStyle = hovered?.query === view.query + i ? palette.accent : palette.soft;
      context.fillText(shorten(this.labels[view.query + i], 9), margin - 6, at);
      context.save();
      context.translate(at, margin - 6);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillStyle = hovered?.key === view.key + i ? palette.accent : palette.soft;
      context.fillText(shorten(this.labels[view.key + i], 9), 0, 0);
      context.restore();
    }
  }
  drawCross(context, view, { query, key }, size) {
    const { margin, cell } = this.place, y = margin + (query - view.query) * cell, x = margin + (key - view.key) * cell;
    context.strokeStyle = this.palette.accent;
    context.lineWidth = 1;
    if (y >= margin && y < margin + size) context.strokeRect(margin, y, size, Math.max(cell, 1));
    if (key >= 0 && x >= margin && x < margin + size) context.strokeRect(x, margin, Math.max(cell, 1), size);
  }
  at(x, y, view) {
    const { margin, cell } = this.place, query = view.query + Math.floor((y - margin) / cell), key = view.key + Math.floor((x - margin) / cell);
    const inside = x >= margin && y >= margin && query < view.query + view.count && key < view.key + view.count;
    return inside ? { query, key } : null;
  }
}

const LEVELS = 8, MIN_WEIGHT = 0.04, MANY = 4096;

/** The same head as arcs: from each token back to those that it attends to. */
export class HeadArcs {
  constructor(map) {
    this.map = map;
    const arcs = [];
    for (let query = 0; query < map.T; query++) {
      for (let key = 0; key < query; key++) {
        const weight = map.weight(query, key);
        if (weight >= MIN_WEIGHT) arcs.push([query, key, weight]);
      }
    }
    this.arcs = arcs.length > MANY ? arcs.sort((a, b) => b[2] - a[2]).slice(0, MANY) : arcs;
  }
  draw(canvas, width, view, hovered) {
    const { palette, labels } = this.map, spacing = width / view.count, labelled = spacing >= 10;
    const height = Math.round(width * 0.8), base = height - (labelled ? 84 : 14), x = (token) => (token - view.query + 0.5) * spacing;
    this.place = { spacing };
    const context = fit(canvas, width, height), token = hovered?.query;
    const highest = Math.max(base - 10, 1), inSight = ([query, key]) => query >= view.query && key < view.query + view.count;
    const whole = ([query, key]) => key >= view.query && query < view.query + view.count;
    const longest = this.arcs.reduce((most, each) => (whole(each) ? Math.max(most, each[0] - each[1]) : most), 8);
    const paths = Array.from({ length: LEVELS }, () => new Path2D());
    const into = [], from = token === undefined ? [] : this.map.strongest(token, 24).map(([key, weight]) => [token, key, weight]);
    const arc = (path, query, key) => {
      const radius = (x(query) - x(key)) / 2, middle = x(key) + radius;
      path.moveTo(x(query), base);
      path.ellipse(middle, base, radius, highest * Math.min(1, Math.sqrt((query - key) / longest)), 0, 0, Math.PI, true);
    };
    for (const [query, key, weight] of this.arcs.filter(inSight)) {
      if (query === token) continue; // in `from`, with its weaker ones
      if (key === token) into.push([query, key, weight]);
      else arc(paths[Math.min(LEVELS - 1, Math.floor(weight * LEVELS))], query, key);
    }
    context.strokeStyle = palette.arc;
    paths.forEach((path, level) => {
      context.globalAlpha = ((level + 0.6) / LEVELS) * (token === undefined ? 1 : 0.18);
      context.lineWidth = 0.6 + 1.6 * level / LEVELS;
      context.stroke(path);
    });
    for (const [list, colour] of [[into, palette.into], [from, palette.accent]]) {
      context.strokeStyle = colour;
      for (const [query, key, weight] of list) {
        const path = new Path2D();
        arc(path, query, key);
        context.globalAlpha = 0.25 + 0.75 * weight;
        context.lineWidth = 1 + 2.5 * weight;
        context.stroke(path);
      }
    }
    context.globalAlpha = 1;
    context.strokeStyle = palette.line;
    context.beginPath();
    context.moveTo(0, base + 0.5);
    context.lineTo(width, base + 0.5);
    context.stroke();
    for (let i = view.query; i < view.query + view.count; i++) {
      context.fillStyle = i === token ? palette.accent : palette.soft;
      if (labelled) {
        context.save();
        context.translate(x(i), base + 6);
        context.rotate(Math.PI / 2);
        context.textAlign = "left";
        context.fillText(shorten(labels[i], 11), 0, 0);
        context.restore();
      } else if (i === token) context.fillRect(x(i) - 1, base, Math.max(2, spacing), 7);
    }
  }
  at(x, _y, view) {
    const query = view.query + Math.floor(x / this.place.spacing);
    return query >= view.query && query < view.query + view.count ? { query, key: -1 } : null;
  }
}

/** A small table of numbers between 0 and 1: rows are layers, columns heads. */
export function drawScores(canvas, values, palette, chosen, width) {
  const layers = values.length, heads = values[0].length, cell = Math.max(6, Math.min(26, Math.floor(width / heads)));
  const context = fit(canvas, heads * cell + 2, layers * cell + 2);
  for (let layer = 0; layer < layers; layer++) {
    for (let head = 0; head < heads; head++) {
      context.fillStyle = palette.fill(values[layer][head] ** 2); // the palette takes the root again
      context.fillRect(1 + head * cell, 1 + layer * cell, cell - 1, cell - 1);
      context.strokeStyle = palette.sunken;
      context.strokeRect(0.5 + head * cell, 0.5 + layer * cell, cell, cell);
    }
  }
  context.strokeStyle = palette.accent;
  context.lineWidth = 2;
  context.strokeRect(1 + chosen.head * cell, 1 + chosen.layer * cell, cell - 1, cell - 1);
  return cell;
}

export const shorten = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
