// One panel of curves: uPlot with a tooltip, zoom, marks of events, and keys.
import { html, render, number, color } from "../shared.js";
import uPlot from "../lib/uPlot.js";
import { search, smoothed } from "./runs-data.js";

const HEIGHT = 220, MOST_DOTS = 120; // of a curve that is drawn with dots
const whole = (_, low, high) => [low, high]; // as it was set, and not rounded to powers of ten
const few = (plot, series, first, last) => {
  let count = 0;
  for (let place = first; place <= last && count <= MOST_DOTS; place++) count += plot.data[series][place] != null;
  return count <= MOST_DOTS;
};
const MARKS = { bad: "--bad", warn: "--warn", soft: "--soft" };
export const sync = uPlot.sync("runs");

const short = (value) => {
  if (value == null) return "";
  const size = Math.abs(value);
  if (size >= 1e9) return `${+(value / 1e9).toPrecision(3)}G`;
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size && size < 1e-3) return (+value.toPrecision(3)).toExponential().replace("e-", "e−");
  return `${+value.toPrecision(4)}`;
};

const exact = (value, digits) =>
  (value && Math.abs(value) < 1e-3 ? value.toExponential(2).replace("e-", "e−") : number(value, digits));

/** A colour between two, for the layers of a model. */
function between(first, second, share) {
  const parts = [first, second].map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return `rgb(${parts[0].map((value, at) => Math.round(value + share * (parts[1][at] - value))).join(" ")})`;
}

/** Series are { label, run, curve: () => {steps, values}, toX, color, points, faint }. */
export class Chart {
  constructor(root, { title, about = "", tall = false }) {
    Object.assign(this, { root, title, about, tall, series: [], marks: [], view: {}, visible: true });
    root.className = `card chart${tall ? " tall" : ""}`;
    this.head = document.createElement("div");
    this.plotRoot = document.createElement("div");
    this.plotRoot.className = "plot";
    this.plotRoot.tabIndex = 0;
    this.plotRoot.setAttribute("role", "group");
    this.plotRoot.addEventListener("keydown", (event) => this.key(event));
    this.plotRoot.addEventListener("blur", () => this.hideTip());
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.setAttribute("role", "status");
    this.tip.hidden = true;
    root.replaceChildren(this.head, this.plotRoot);
    this.resize = new ResizeObserver(() => this.plot?.setSize(this.size()));
    this.resize.observe(this.plotRoot);
    this.seen = new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      if (this.visible && this.stale) this.draw();
    }, { rootMargin: "1200px" });
    this.seen.observe(root);
  }

  size() {
    return { width: Math.max(this.plotRoot.clientWidth, 120), height: this.tall ? HEIGHT + 80 : HEIGHT };
  }

  /** view: { axis, logX, logY, smoothing, range: [x, x] | null, zoom(low, high), axisLabel } */
  show(series, marks, view) {
    const same = this.plot && series.length === this.series.length && view.logX === this.view.logX
      && view.logY === this.view.logY && view.axisLabel === this.view.axisLabel && view.theme === this.view.theme;
    Object.assign(this, { series, marks, view });
    if (!same) {
      this.plot?.destroy();
      this.plot = null;
    }
    this.draw();
  }

  draw() {
    if (!this.visible) {
      this.stale = true;
      return;
    }
    this.stale = false;
    const lines = this.lines();
    const data = lines.length ? uPlot.join(lines.map(({ x, y }) => [x, y])) : [[]];
    if (this.plot && this.plot.series.length !== lines.length + 1) {
      this.plot.destroy();
      this.plot = null;
    }
    if (this.plot) {
      this.plot.batch(() => {
        this.plot.setData(data, false);
        this.setScales(data);
      });
    } else {
      this.plot = new uPlot(this.options(lines), data, this.plotRoot);
      this.plotRoot.append(this.tip);
      this.setScales(data);
    }
    this.drawn = lines;
    this.root.dataset.points = lines.reduce((sum, { x, raw }) => sum + (raw ? 0 : x.length), 0);
    this.showHead();
  }

  /** What is drawn: a line for each series, and a smooth one above it where there are many points. */
  lines() {
    const { logX, logY, smoothing, range } = this.view, lines = [];
    this.series.forEach((each, number) => {
      const curve = each.curve();
      let x = [], y = [];
      (curve?.steps ?? []).forEach((step, place) => {
        const at = each.toX(step), value = curve.values[place];
        if (at === null || (logX && at <= 0)) return;
        x.push(at);
        y.push(logY && value !== null && value <= 0 ? null : value);
      });
      if (range) {
        const low = Math.max(search(x, range[0]) - 1, 0), high = search(x, range[1]) + 1;
        [x, y] = [x.slice(low, high), y.slice(low, high)];
      }
      const smooth = smoothing > 0 && x.length > 30 && !each.exact;
      lines.push({ x, y, number, raw: smooth });
      if (smooth) lines.push({ x, y: smoothed(logX ? x.map(Math.log) : x, y, smoothing), number, raw: false });
    });
    return lines;
  }

  setScales([x, ...ys]) {
    if (!x.length) return;
    const range = this.view.range ?? [x[0], x.at(-1)];
    this.plot.setScale("x", { min: range[0], max: range[1] > range[0] ? range[1] : range[0] + 1 });
    let low = Infinity, high = -Infinity;
    for (const values of ys) {
      values.forEach((value, place) => {
        if (value == null || x[place] < range[0] || x[place] > range[1]) return;
        if (value < low) low = value;
        if (value > high) high = value;
      });
    }
    if (low > high) [low, high] = [0, 1];
    if (this.tall && !this.view.logY) high = this.cut(x, ys, range, low, high);
    const pad = this.view.logY ? 0 : (high - low || Math.abs(high) || 1) * 0.06;
    const [least, most] = this.view.logY && low === high ? [low / 2, high * 2] : [low - pad, high + pad];
    this.plot.setScale("y", { min: this.view.logY ? least : low >= 0 && least < 0 ? 0 : least, max: most });
  }

  /** The first steps of a loss would squash all others: where they alone are high, the top is cut. */
  cut(x, ys, range, low, high) {
    const late = range[0] + 0.05 * (range[1] - range[0]);
    let highest = -Infinity;
    for (const values of ys) {
      values.forEach((value, place) => {
        if (value != null && x[place] >= late && x[place] <= range[1] && value > highest) highest = value;
      });
    }
    return highest > low && high > highest + 0.4 * (highest - low) ? highest + 0.15 * (highest - low) : high;
  }

  options(lines) {
    const ink = color("--soft"), grid = color("--line"), { logX, logY, axisLabel } = this.view;
    const axis = { stroke: ink, font: `12px ${color("--sans")}`, grid: { stroke: grid, width: 1 }, ticks: { show: false } };
    return {
      ...this.size(),
      padding: [8, 12, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: sync.key, setSeries: false, scales: ["x", null] },
        drag: { x: true, y: false, setScale: false },
        points: { show: false },
        y: false,
      },
      scales: { x: { time: false, distr: logX ? 3 : 1, auto: false, range: whole }, y: { distr: logY ? 3 : 1, auto: false, range: whole } },
      series: [{}, ...lines.map(({ number, raw }) => this.style(this.series[number], raw))],
      axes: [
        { ...axis, size: 34, space: 70, values: (_, ticks) => ticks.map(short), label: this.tall ? axisLabel : undefined,
          labelSize: 22, labelFont: axis.font },
        { ...axis, size: 52, space: 34, values: (_, ticks) => ticks.map(short) },
      ],
      hooks: {
        setSelect: [(plot) => this.select(plot)],
        setCursor: [(plot) => this.showTip(plot)],
        drawClear: [(plot) => this.drawMarks(plot)],
        ready: [(plot) => plot.over.addEventListener("dblclick", () => this.view.zoom(null))],
      },
    };
  }

  style({ color: stroke, share, points, dash }, raw) {
    let ink = share === undefined ? color(stroke) : between(color("--series-1"), color("--series-2"), share);
    if (raw) ink += "55";
    if (raw && share !== undefined) ink = ink.replace("rgb(", "rgb(").replace(/55$/, "").replace(")", " / 30%)");
    return { stroke: ink, width: raw ? 1 : 1.6, dash, points: { show: points && !raw && few, size: 5, fill: ink }, spanGaps: false };
  }

  select(plot) {
    if (plot.select.width < 6) return;
    const low = plot.posToVal(plot.select.left, "x"), high = plot.posToVal(plot.select.left + plot.select.width, "x");
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.view.zoom([low, high]);
  }

  drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    for (const mark of this.marks) {
      if (mark.x === null || (this.view.logX && mark.x <= 0)) continue;
      const at = Math.round(plot.valToPos(mark.x, "x", true));
      if (at < bbox.left || at > bbox.left + bbox.width) continue;
      ctx.strokeStyle = ctx.fillStyle = color(MARKS[mark.kind]);
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
      ctx.beginPath();
      ctx.arc(at, bbox.top + 4 * devicePixelRatio, 3 * devicePixelRatio, 0, 7);
      ctx.fill();
    }
    ctx.restore();
  }

  /** The values nearest to the cursor. */
  valuesAt(x) {
    const found = [];
    this.drawn.forEach(({ x: xs, y: ys, number, raw }) => {
      if (raw || !xs.length) return;
      let place = search(xs, x);
      if (place === xs.length || (place && x - xs[place - 1] < xs[place] - x)) place--;
      found.push({ ...this.series[number], x: xs[place], value: ys[place], number });
    });
    return found;
  }

  showTip(plot) {
    const { left } = plot.cursor;
    if (left == null || left < 0 || !this.drawn?.length) return this.hideTip();
    const x = plot.posToVal(left, "x"), found = this.valuesAt(x);
    if (!found.length) return this.hideTip();
    const nearest = found.reduce((best, each) => (Math.abs(each.x - x) < Math.abs(best.x - x) ? each : best));
    const marks = this.marks.filter((mark) => mark.x !== null && Math.abs(plot.valToPos(mark.x, "x") - left) < 6);
    const shown = found.length > 10 ? [...found.slice(0, 5), ...found.slice(-4)] : found;
    render(html`
      <div class="soft">${this.view.axisLabel} ${number(+nearest.x.toPrecision(7), 7)}</div>
      ${shown.map((each) => html`<div class="line"><i class="swatch" data-number=${each.number}></i>
        <span>${each.label}</span><b>${each.value == null ? "not a number" : exact(each.value, 5)}</b></div>`)}
      ${found.length > shown.length ? html`<div class="soft">and ${found.length - shown.length} more</div>` : ""}
      ${marks.slice(0, 3).map((mark) => html`<div class=${`mark ${mark.kind}`}>${mark.text}</div>`)}`, this.tip);
    this.paintSwatches(this.tip);
    this.tip.hidden = false;
    const box = plot.over.getBoundingClientRect(), around = this.plotRoot.getBoundingClientRect();
    const at = box.left - around.left + left, width = this.tip.offsetWidth;
    this.tip.style.left = `${at + 14 + width > around.width ? Math.max(at - width - 14, 0) : at + 14}px`;
    this.tip.style.top = `${box.top - around.top + 8}px`;
  }

  hideTip() {
    this.tip.hidden = true;
  }

  paintSwatches(root) {
    for (const swatch of root.querySelectorAll("[data-number]")) {
      const style = this.style(this.series[swatch.dataset.number], false);
      swatch.style.background = style.stroke;
    }
  }

  showHead() {
    const last = (each) => {
      const values = each.curve()?.values ?? [];
      return values.length ? values.at(-1) : undefined;
    };
    const several = new Set(this.series.map((each) => each.run)).size > 1, many = this.series.length > 8 && !several;
    const main = (each) => this.series.find((other) => other.run === each.run && !other.dash) === each;
    const labels = many ? [this.series[0], this.series.at(-1)] : several ? this.series.filter(main) : this.series;
    render(html`<div class="chart-head"><h3>${this.title}</h3>
      <div class="legend">${labels.map((each) => html`<span><i class="swatch" data-number=${this.series.indexOf(each)}></i>
        ${several ? each.run.name : each.label}${last(each) === undefined ? "" : html` <b>${last(each) === null ? "NaN" : exact(last(each), 4)}</b>`}</span>`)}
        ${many ? html`<span class="soft">${this.series.length} curves</span>` : ""}
        ${this.series.some((each) => each.dash) ? html`<span class="soft">dashed: training</span>` : ""}</div></div>`, this.head);
    this.paintSwatches(this.head);
    const said = labels.map((each) => `${each.label}: ${last(each) == null ? "no value" : number(last(each), 4)}`);
    this.plotRoot.setAttribute("aria-label",
      `${this.title}. Last values: ${said.join(", ")}. Arrow keys move along the curve, plus and minus zoom, Escape shows all.`);
  }

  key(event) {
    const { plot } = this;
    if (!plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const [low, high] = [plot.scales.x.min, plot.scales.x.max], width = plot.over.clientWidth;
    const at = plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : high;
    const zoom = (factor) => this.view.zoom([at - (at - low) * factor, at + (high - at) * factor]);
    const pan = (share) => this.view.zoom([low + share * (high - low), high + share * (high - low)]);
    const move = (pixels) => {
      const left = Math.min(Math.max((plot.cursor.left >= 0 ? plot.cursor.left : width) + pixels, 0), width - 1);
      plot.setCursor({ left, top: 1 });
    };
    const actions = {
      ArrowLeft: () => (event.shiftKey ? pan(-0.25) : move(-8)),
      ArrowRight: () => (event.shiftKey ? pan(0.25) : move(8)),
      Home: () => move(-width), End: () => move(width),
      "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), Escape: () => this.view.zoom(null),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  destroy() {
    this.plot?.destroy();
    this.resize.disconnect();
    this.seen.disconnect();
    this.root.remove();
  }
}
