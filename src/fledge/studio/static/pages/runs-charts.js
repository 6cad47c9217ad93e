// Which panels there are: a large one of the losses, then one for each metric, by the part of its name before the "/".
import { html, render } from "../shared.js";
import { Chart } from "./runs-chart.js";

const LOSSES = ["train/loss", "val/loss", "val_whole/loss", "test/loss"];
const NOT_CURVES = new Set(["train/tokens", "train/epoch", "val/tokens", "val/fraction", "val/seconds"]);
const NAMES = {
  loss: "Loss", lr: "Learning rate", grad_norm: "Gradient norm", step_seconds: "Seconds per step", tokens_per_second: "Tokens per second",
  bits_per_byte: "Bits per byte", perplexity: "Perplexity", accuracy: "Accuracy", kl: "KL divergence from the reference", mfu: "Share of the machine’s peak (MFU)", forward_backward: "Forward and backward",
};
const GROUPS = { train: "Training", val: "Evaluation", val_whole: "Evaluation of the whole split", stats: "Statistics of the layers", time: "Where the time goes" };
const SERIES = 8, CLOSED_ABOVE = 9;

const titled = (name) => NAMES[name] ?? name.replaceAll("_", " ").replace(/^./, (first) => first.toUpperCase());

/** Names → [{ group, panels: [{ title, metrics }] }], in the order in which they occur. */
export function panelsOf(names) {
  const groups = new Map();
  for (const name of names) {
    const parts = name.split("/"), [group] = parts;
    if (LOSSES.includes(name) || NOT_CURVES.has(name) || name.endsWith("_margin") || group === "val_best") continue;
    if (group === "val_whole") continue; // one point at the end: it is in the panel of `val`
    const of = parts.length > 2 ? parts.slice(1, -1).join("/") : parts.slice(1).join("/") || name;
    if (!groups.has(group)) groups.set(group, new Map());
    const panels = groups.get(group);
    if (!panels.has(of)) panels.set(of, []);
    panels.get(of).push(name);
    const whole = `val_whole/${parts[1]}`;
    if (group === "val" && names.includes(whole)) panels.get(of).push(whole);
  }
  const order = ["train", "", "val", "stats", "time"]; // "": all others
  const rank = (group) => order.indexOf(order.includes(group) ? group : "");
  return [...groups].sort(([a], [b]) => rank(a) - rank(b)).map(([group, panels]) => ({
    group, title: GROUPS[group] ?? titled(group), panels: [...panels].map(([of, metrics]) => ({ title: titled(of), metrics })),
  }));
}

export class Charts {
  /** runs(): the RunData objects shown; view(): what Chart.show takes; marks(): of the first run. */
  constructor(root, { runs, view, marks, changed }) {
    Object.assign(this, { root, runs, view, marks, changed, charts: new Map(), opened: new Set(), closed: new Set(), timer: 0 });
    this.hero = document.createElement("div");
    this.sections = document.createElement("div");
    root.replaceChildren(this.hero, this.sections);
    this.loss = new Chart(this.hero, { title: "Loss", tall: true });
  }

  get names() {
    return [...new Set(this.runs().flatMap((run) => run.names))];
  }

  isOpen({ group, panels }) {
    if (this.opened.has(group)) return true;
    return !this.closed.has(group) && group !== "stats" && panels.length <= CLOSED_ABOVE;
  }

  /** The metrics that are on the page. */
  wanted() {
    const open = panelsOf(this.names).filter((section) => this.isOpen(section));
    return [...LOSSES.filter((name) => this.names.includes(name)), ...open.flatMap(({ panels }) => panels.flatMap(({ metrics }) => metrics))];
  }

  async load(options) {
    const wanted = this.wanted();
    await Promise.all(this.runs().map((run) => run.load(wanted.filter((name) => run.names.includes(name)), options)));
  }

  /** Draw soon: many rows may arrive at once. */
  soon() {
    this.timer ||= setTimeout(() => this.draw(), 120);
  }

  draw() {
    clearTimeout(this.timer);
    this.timer = 0;
    const view = this.view(), marks = this.marks(), losses = LOSSES.filter((name) => this.names.includes(name));
    this.hero.hidden = !losses.length;
    if (losses.length) this.loss.show(this.series(losses), marks, view);
    const sections = panelsOf(this.names), used = new Set();
    render(sections.map((section) => html`<details class="group" ?open=${this.isOpen(section)} @toggle=${(event) => this.toggle(section, event.target.open)}>
      <summary><h2>${section.title}</h2> <span class="soft small">${section.panels.length === 1 ? "1 panel" : `${section.panels.length} panels`}</span></summary>
      <div class="charts" data-group=${section.group}></div></details>`), this.sections);
    for (const section of sections.filter((each) => this.isOpen(each))) {
      const place = [...this.sections.querySelectorAll(".charts")].find((each) => each.dataset.group === section.group);
      for (const { title, metrics } of section.panels) {
        const key = `${section.group}/${title}`;
        used.add(key);
        if (!this.charts.has(key)) {
          const root = document.createElement("div");
          place.append(root);
          this.charts.set(key, new Chart(root, { title }));
        }
        const chart = this.charts.get(key);
        if (chart.root.parentNode !== place) place.append(chart.root);
        chart.show(this.series(metrics), marks, view);
      }
    }
    for (const [key, chart] of this.charts) {
      if (used.has(key)) continue;
      chart.destroy();
      this.charts.delete(key);
    }
  }

  toggle(section, open) {
    if (open === this.isOpen(section)) return;
    this[open ? "opened" : "closed"].add(section.group);
    this[open ? "closed" : "opened"].delete(section.group);
    this.changed();
  }

  series(metrics) {
    const runs = this.runs(), { axis, unit } = this.view(), found = [];
    runs.forEach((run, number) => {
      const own = metrics.filter((name) => run.curves.has(name)), toX = run.toX(axis, unit), layered = own.length > 3;
      own.forEach((name, place) => {
        const parts = name.split("/"), last = parts.length > 2 ? parts.at(-1) : parts[0].replace("val_whole", "val, whole split");
        const label = [runs.length > 1 ? run.name : "", own.length > 1 || runs.length === 1 ? last : ""].filter(Boolean).join(" · ");
        const evaluated = !name.startsWith("train/") && parts.length === 2;
        found.push({
          label: label || last, run, toX, curve: () => run.curve(name), share: layered && runs.length === 1 ? place / (own.length - 1) : undefined,
          color: `--series-${((runs.length > 1 ? number : name === "val_whole/loss" ? 2 : evaluated && parts[0] !== "time" ? 1 : place) % SERIES) + 1}`,
          exact: name.endsWith("/lr"), points: parts[0].startsWith("val") || parts[0] === "test", dash: runs.length > 1 && name.startsWith("train/") && metrics.length > 1 ? [4, 3] : undefined,
        });
      });
    });
    return found;
  }

  destroy() {
    clearTimeout(this.timer);
    this.loss.destroy();
    for (const chart of this.charts.values()) chart.destroy();
  }
}

