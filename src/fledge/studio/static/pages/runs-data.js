// The curves of one run as the page holds them: loaded from the server in few points, continued by live rows.
import { get } from "../shared.js";

const MOST_POINTS = 6000; // of a curve that live rows have made longer; then it is loaded again

/** The place of the first element that is not below `x`. */
export function search(sorted, x) {
  let low = 0, high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Linear interpolation; beyond the ends it goes on as between the last two points. */
export function interpolate(xs, ys, x) {
  if (xs.length < 2) return xs.length ? ys[0] : x;
  const right = Math.min(Math.max(search(xs, x), 1), xs.length - 1), left = right - 1;
  const share = (x - xs[left]) / (xs[right] - xs[left] || 1);
  return ys[left] + share * (ys[right] - ys[left]);
}

function put(curve, step, value) {
  const { steps, values } = curve, last = steps.length - 1;
  if (last < 0 || step > steps[last]) {
    steps.push(step);
    values.push(value);
    return;
  }
  const place = search(steps, step);
  if (steps[place] === step) values[place] = value; // the same row again, or more of it
  else {
    steps.splice(place, 0, step);
    values.splice(place, 0, value);
  }
}

export class RunData {
  constructor(name) {
    Object.assign(this, { name, names: [], curves: new Map(), zoomed: new Map(), range: null, clock: {}, cursor: "" });
    Object.assign(this, { events: [], entry: null, job: null, details: null, rows: 0, generation: 0 });
  }

  /** Load these metrics, of all steps and, where the page is zoomed in, of those that are seen. */
  async load(metrics, options = {}) {
    const generation = this.generation;
    const wanted = metrics.filter((name) => !this.curves.has(name));
    const found = await get("runs/curves", { run: this.name, metric: wanted, log: options.log || null }, options.fetch);
    if (generation !== this.generation) return;
    this.names = found.names;
    this.rows = found.rows;
    this.clock = found.clock;
    this.cursor ||= found.cursor; // the oldest of all requests: rows that are sent twice are drawn once
    for (const [name, curve] of Object.entries(found.curves)) this.curves.set(name, curve);
    if (this.range && wanted.length) await this.zoom(this.range, options);
  }

  /** Forget all curves: the run was rolled back, or the axis is another. */
  forget() {
    this.generation++;
    this.curves.clear();
    this.zoomed.clear();
    this.cursor = "";
  }

  showAll() {
    this.range = null;
    this.zoomed.clear();
  }

  /** Load the loaded metrics between two steps in more detail; null: all steps are seen. */
  async zoom(range, options = {}) {
    this.range = range;
    this.zoomed.clear();
    const long = [...this.curves].filter(([, curve]) => curve.steps.length >= 700).map(([name]) => name);
    if (!range || !long.length) return;
    const [low, high] = range, generation = this.generation;
    const parameters = { run: this.name, metric: long, low, high, log: options.log || null };
    const found = await get("runs/curves", parameters, options.fetch);
    if (generation !== this.generation || this.range !== range) return;
    for (const [name, curve] of Object.entries(found.curves)) this.zoomed.set(name, curve);
  }

  /** What is drawn of a metric. */
  curve(name) {
    return this.zoomed.get(name) ?? this.curves.get(name);
  }

  /** New rows; returns whether a metric occurs for the first time. */
  add(rows) {
    let fresh = false;
    for (const { step, values } of rows) {
      this.rows++;
      if (values["train/tokens"] != null) put(this.clock.tokens ??= { steps: [], values: [] }, step, values["train/tokens"]);
      if (values["train/step_seconds"] != null) {
        const clock = this.clock.seconds ??= { steps: [0], values: [0] }, last = clock.steps.length - 1;
        const passed = step - clock.steps[last];
        if (passed > 0) put(clock, step, clock.values[last] + passed * values["train/step_seconds"]);
      }
      for (const [name, value] of Object.entries(values)) {
        if (!this.names.includes(name)) {
          this.names.push(name);
          this.curves.set(name, { steps: [], values: [] });
          fresh = true;
        }
        if (this.curves.has(name)) put(this.curves.get(name), step, value);
        const seen = this.zoomed.get(name);
        if (seen && step >= this.range[0] && step <= this.range[1]) put(seen, step, value);
      }
    }
    return fresh;
  }

  get isLong() {
    return [...this.curves.values()].some((curve) => curve.steps.length > MOST_POINTS);
  }

  /** The last value of a metric, or null. */
  last(name) {
    return this.curves.get(name)?.values.at(-1) ?? null;
  }

  get lastStep() {
    return Math.max(this.entry?.summary?.step ?? 0, ...[...this.curves.values()].map((curve) => curve.steps.at(-1) ?? 0));
  }

  /** Step → place on the axis: steps, tokens, or the time of training in units of so many seconds. */
  toX(axis, seconds) {
    if (axis === "step") return (step) => step;
    const clock = this.clock[axis === "tokens" ? "tokens" : "seconds"], unit = axis === "time" ? seconds : 1;
    if (!clock?.steps.length) return () => null;
    const steps = clock.steps[0] > 0 ? [0, ...clock.steps] : clock.steps;
    const values = clock.steps[0] > 0 ? [0, ...clock.values] : clock.values;
    return (step) => interpolate(steps, values, step) / unit;
  }

  /** The inverse of `toX`. */
  toStep(axis, seconds) {
    if (axis === "step") return (x) => x;
    const clock = this.clock[axis === "tokens" ? "tokens" : "seconds"], unit = axis === "time" ? seconds : 1;
    if (!clock?.steps.length) return (x) => x;
    return (x) => interpolate([0, ...clock.values], [0, ...clock.steps], x * unit);
  }
}

/** Seconds in the unit of a time axis: an hour where a run is longer than two, else a minute. */
export const timeUnit = (runs) => (runs.some((run) => (run.clock.seconds?.values.at(-1) ?? 0) > 7200) ? 3600 : 60);

/** Exponential average over the axis; `strength` 0 to 1. The first values do not lean towards zero. */
export function smoothed(xs, ys, strength) {
  const width = strength ** 2 * 0.15 * (xs.at(-1) - xs[0]);
  if (!(width > 0)) return ys;
  let sum = 0, weight = 0, before = xs[0];
  return ys.map((value, place) => {
    if (value === null || !Number.isFinite(value)) return null;
    const fade = Math.exp(-(xs[place] - before) / width);
    before = xs[place];
    sum = sum * fade + value;
    weight = weight * fade + 1;
    return sum / weight;
  });
}
