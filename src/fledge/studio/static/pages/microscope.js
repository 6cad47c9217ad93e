// The page Microscope: attention of every head, logit lens and losses of a text, at every checkpoint of a run.
import { render, get, noRuns, number, remember } from "../shared.js";
import { Answers } from "./microscope-answers.js";
import { HeadArcs, HeadGrid, HeadMap, Palette, drawScores } from "./microscope-canvas.js";
import { drawLens, lossText, prediction, reveal } from "./microscope-lens.js";
import { SCORES, aboutHead, attended, view } from "./microscope-view.js";

export const title = "Microscope";

const TYPING = 500, RESTING = 150, PLAYING = 350, REFRESH = 10_000; // milliseconds
const NEIGHBOURS = [1, -1, 2, -2]; // checkpoints that are fetched ahead
const FEWEST = 8; // tokens in sight
const sleep = (time) => new Promise((done) => { setTimeout(done, time); });
const clamp = (value, least, most) => Math.max(least, Math.min(most, value));

export async function open(root, parameters) {
  const runs = await get("runs");
  if (!runs.length) return void render(noRuns("Microscope", "The microscope looks into a trained model."), root);
  const page = new Microscope(root, runs);
  try {
    await page.open(parameters.run ?? "", parameters);
  } catch (error) {
    page.leave();
    throw error;
  }
  return () => page.leave();
}

class Microscope {
  constructor(root, runs) {
    Object.assign(this, { root, runs, palette: new Palette(), turn: 0, mode: "map", measure: "top", playing: false });
    Object.assign(this, { layer: 0, head: 0, chosen: { layer: 0, position: 0 }, hovered: null, over: null, problem: "" });
    this.parts = new WeakMap();
    this.ending = new AbortController();
    const { signal } = this.ending;
    document.addEventListener("theme", () => { this.palette = new Palette(); this.prepare(); this.draw(); }, { signal });
    this.sizes = new ResizeObserver(() => this.paint());
    this.sizes.observe(root);
    this.refreshing = setInterval(() => this.refresh(), REFRESH);
  }
  leave() {
    this.ending.abort();
    this.sizes.disconnect();
    clearInterval(this.refreshing);
    clearTimeout(this.later);
    clearTimeout(this.typing);
    this.playing = false;
    this.turn++;
  }

  // What is shown

  async open(reference, { layer = 0, head = 0, text } = {}) {
    this.info = await get("microscope", { run: reference });
    const { checkpoints, step, layers, heads } = this.info;
    this.index = checkpoints.findIndex((each) => each.step === step);
    Object.assign(this, { layer: clamp(Number(layer) || 0, 0, layers - 1), head: clamp(Number(head) || 0, 0, heads - 1) });
    this.chosen = { layer: layers - 1, position: 0 };
    this.shown = null;
    await this.look(text ?? this.info.text);
  }
  get step() { return this.info.checkpoints[this.index]?.step; }

  /** Look at another text. */
  async look(text) {
    this.text = text;
    this.answers = new Answers(this.info.run, text);
    if (this.index >= 0 && text) await this.show();
    else this.draw();
  }

  /** Show the checkpoint and the head that are chosen, as soon as their numbers are here. */
  async show() {
    const turn = ++this.turn, { answers, step, layer, head } = this;
    clearTimeout(this.later);
    let found = answers.known(step, layer, head);
    if (!found) {
      this.draw();
      try {
        if (this.shown?.step !== step) await sleep(this.sliding ? RESTING / 2 : 0);
        if (turn !== this.turn) return;
        found = await answers.basics(step, layer, head);
      } catch (error) {
        if (turn === this.turn) this.fail(error);
        return;
      }
      if (turn !== this.turn) return;
    }
    const T = found.tokens.tokens.length, sameText = this.shown?.answers === answers;
    this.shown = { ...found, answers, step, layer, head };
    if (!sameText) this.view = { query: 0, key: 0, count: T };
    this.chosen.position = Math.min(this.chosen.position, T - 1);
    Object.assign(this, { problem: "", hovered: sameText ? this.hovered : null });
    this.prepare();
    this.draw();
    remember("microscope", { run: `${this.info.run}@${step}`, layer, head });
    this.later = setTimeout(() => this.complete(turn), RESTING);
  }

  /** The parts that take longer, and then the neighbours of this checkpoint. */
  async complete(turn) {
    const { answers, step, layer, head, info, index } = this, current = () => turn === this.turn;
    try {
      await answers.scores(step).catch((error) => { if (info.context >= 4) throw error; });
      if (current()) this.draw();
      await answers.lens(step);
      if (current()) this.draw();
      for (const offset of NEIGHBOURS) {
        const near = info.checkpoints[index + offset];
        if (near && current()) await answers.basics(near.step, layer, head).catch(() => {});
        if (near && current()) await answers.scores(near.step).catch(() => {});
      }
    } catch (error) {
      if (current()) this.fail(error);
    }
  }
  fail(error) {
    if (error.name === "AbortError") return;
    this.playing = false;
    this.problem = `${error.message[0].toUpperCase()}${error.message.slice(1)}.`;
    this.draw();
  }

  /** A run that is being trained gets new checkpoints, and loses old ones. */
  async refresh() {
    if (document.hidden || this.refreshes || !this.info) return;
    this.refreshes = true;
    const info = await get("microscope", { run: this.info.run }).catch(() => null);
    this.refreshes = false;
    if (!info || info.run !== this.info.run || this.ending.signal.aborted) return;
    const { step } = this, at = info.checkpoints.findIndex((each) => each.step === step);
    if (at < 0 && step !== undefined) this.problem = `The checkpoint of step ${number(step)} is no longer there; choose another.`;
    const first = this.index < 0 && info.checkpoints.length > 0;
    this.info = { ...info, text: this.info.text };
    this.index = at >= 0 ? at : Math.min(this.index, info.checkpoints.length - 1);
    if (first) await this.open(info.run);
    else this.draw();
  }

  // What a person does

  async change(run) {
    this.playing = false;
    this.turn++;
    try {
      await this.open(run, this.typed ? { text: this.text } : {});
    } catch (error) {
      this.fail(error);
    }
  }
  choose(layer, head) {
    if (layer < 0 || head < 0 || layer >= this.info.layers || head >= this.info.heads) return;
    Object.assign(this, { layer, head });
    this.show();
  }
  goTo(index) {
    this.index = clamp(index, 0, this.info.checkpoints.length - 1);
    this.sliding = true;
    return this.show().finally(() => { this.sliding = false; });
  }
  async play() {
    this.playing = !this.playing;
    const last = this.info.checkpoints.length - 1;
    if (this.playing && this.index >= last) this.index = -1;
    while (this.playing && this.index < last) await Promise.all([this.goTo(this.index + 1), sleep(PLAYING)]);
    this.playing = false;
    this.draw();
  }
  type(text) {
    clearTimeout(this.typing);
    this.typed = true;
    this.typing = setTimeout(() => this.look(text), TYPING);
  }
  /** As a heat map, of all tokens; or as arcs, of as many as have room for their words. */
  showAs(mode) {
    Object.assign(this, { mode, hovered: null });
    const T = this.shown.tokens.tokens.length;
    this.view = { query: 0, key: 0, count: T };
    const room = Math.floor(this.root.querySelector("canvas.head").parentElement.clientWidth / 11);
    if (mode === "arcs" && T > room) this.view = { query: clamp(this.chosen.position - room / 2 | 0, 0, T - room), key: 0, count: room };
    this.draw();
  }
  zoom(factor) {
    const { view, hovered } = this, T = this.shown.tokens.tokens.length;
    const count = clamp(Math.round(view.count * factor), Math.min(FEWEST, T), T);
    const middle = (at, from) => clamp(Math.round((at >= 0 ? at : from + view.count / 2) - count / 2), 0, T - count);
    this.view = { query: middle(hovered?.query, view.query), key: middle(hovered?.key, view.key), count };
    this.draw();
  }
  select(chosen) {
    this.chosen = { ...this.chosen, ...chosen };
    this.hovered = { query: this.chosen.position, key: -1 };
    this.draw();
    const scroller = this.root.querySelector(".lens-scroller");
    if (scroller) reveal(scroller, this.chosen.position);
  }
  hover(over) {
    if (over?.layer === this.over?.layer && over?.head === this.over?.head) return;
    this.over = over;
    this.paintGrid();
  }
  point(cell) {
    if (cell?.query === this.hovered?.query && cell?.key === this.hovered?.key) return;
    this.hovered = cell;
    this.paintHead();
  }
  pointLens({ layer, position }) {
    if (layer === this.chosen.layer && position === this.chosen.position) return;
    this.chosen = { layer, position };
    this.paintLens();
  }
  grab(event) {
    if (this.view.count < this.shown.tokens.tokens.length) this.grabbed = { x: event.clientX, y: event.clientY, view: this.view };
  }
  /** Move what is in sight, while a button is held. */
  drag(event) {
    if (!this.grabbed || !event.buttons) return false;
    const { x, y, view } = this.grabbed, cell = event.currentTarget.clientWidth / view.count;
    const columns = Math.round((x - event.clientX) / cell), rows = this.mode === "map" ? Math.round((y - event.clientY) / cell) : columns;
    const most = this.shown.tokens.tokens.length - view.count;
    this.view = { ...view, query: clamp(view.query + rows, 0, most), key: clamp(view.key + columns, 0, most) };
    this.paintHead();
    return true;
  }
  release() { this.grabbed = null; }
  onKey(event) {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const zoom = { "+": 0.5, "=": 0.5, "-": 2 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || (!move && !zoom && !"[]".includes(event.key))) return;
    event.preventDefault();
    if (move) this.choose(this.layer + move[0], this.head + move[1]);
    else if (zoom) this.zoom(zoom);
    else this.goTo(this.index + (event.key === "]" ? 1 : -1));
  }
  onLensKey(event) {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    const { layer, position } = this.chosen, T = this.shown.tokens.tokens.length;
    this.select({ layer: clamp(layer + move[0], 0, this.info.layers - 1), position: clamp(position + move[1], 0, T - 1) });
  }

  // Drawing

  /** The pictures of what is shown; made anew for other numbers, and for another theme. */
  prepare() {
    if (!this.shown) return;
    const { grid, tokens, weights } = this.shown;
    this.grid = new HeadGrid(grid, this.palette);
    this.map = new HeadMap(weights, tokens.tokens, this.palette);
    this.arcs = null;
  }
  get drawing() { return this.mode === "map" ? this.map : (this.arcs ??= new HeadArcs(this.map)); }

  draw() {
    if (this.ending.signal.aborted) return;
    render(view(this), this.root);
    this.paint();
  }
  paint() {
    if (!this.shown || !this.canvas("heads")) return;
    this.paintGrid();
    this.paintHead();
    this.paintScores();
    this.paintLens();
    const choose = (position) => this.select({ position });
    this.part(".losses", [this.shown.tokens, this.chosen.position], () => lossText(this.shown.tokens, this.chosen.position, choose));
    this.root.dataset.step = this.shown.step; // what is painted
  }
  paintGrid() {
    const { shown, over } = this, canvas = this.canvas("heads");
    this.grid.draw(canvas, canvas.parentElement.clientWidth, shown, over);
    this.part(".about-head", [shown, over, shown.answers.value("scores", shown.step)], () => aboutHead(this));
  }
  paintHead() {
    const canvas = this.canvas("head"), { map, mode, hovered } = this;
    this.drawing.draw(canvas, Math.min(canvas.parentElement.clientWidth, 680), this.view, hovered);
    this.part(".attended", [map, mode, hovered], () => attended(this));
  }
  paintScores() {
    const { shown } = this, scores = shown.answers.value("scores", shown.step);
    for (const [name] of scores ? SCORES : []) {
      const canvas = this.canvas(`score-${name}`), most = name === "entropy" ? Math.max(...scores.entropy.flat(), 1e-6) : 1;
      const values = scores[name].map((row) => row.map((value) => value / most));
      this.cell = drawScores(canvas, values, this.palette, shown, canvas.parentElement.clientWidth);
    }
  }
  paintLens() {
    const { shown, chosen } = this, lens = shown.answers.value("lens", shown.step), { tokens } = shown.tokens;
    if (!lens) return;
    drawLens(this.canvas("lens"), this.root.querySelector(".lens-scroller"), lens, tokens, this.palette, this.measure, chosen);
    this.part(".prediction", [lens, chosen.layer, chosen.position], () => prediction(lens, tokens, chosen));
  }
  canvas(name) { return this.root.querySelector(`canvas.${name}`); }

  /** Render a part of the page by itself, and only where what it shows has changed. */
  part(selector, shown, template) {
    const element = this.root.querySelector(selector), before = this.parts.get(element);
    if (before?.every((each, i) => each === shown[i])) return;
    this.parts.set(element, shown);
    render(template(), element);
  }
}
