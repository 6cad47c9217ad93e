// The playground: a model continues a text or answers, token by token, and any rival of a token begins a new branch.
// playground/tree.js holds the texts, tokens.js and branches.js show them, chat.js and episodes.js are the other tabs.
import { get, html, link, noRuns, nothing, remember, render } from "../shared.js";
import { texts } from "./playground/branches.js";
import { Chat, chatView } from "./playground/chat.js";
import { Episodes, drawCurve, episodesView } from "./playground/episodes.js";
import { ModelChoice, modelPicker } from "./playground/model.js";
import { renewSeed, sampling, settingsPanel } from "./playground/settings.js";
import { legend, placeRivals } from "./playground/tokens.js";
import { Tree, sharedLength } from "./playground/tree.js";

export const title = "Playground";
const TABS = [["text", "Text"], ["chat", "Chat"], ["episodes", "Episodes"]];

// What was written stays while other pages are looked at.
const draw = () => {
  if (drawing || !root) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; show(); });
};
const newSide = () => ({ model: new ModelChoice(draw), tree: new Tree(draw) });
let root = null, drawing = false, runs = [], prompt = null, tab = "text";
let sides = [newSide()];
const chat = new Chat(draw), episodes = new Episodes(draw);
let curve = { key: "", remove() {} };

export async function open(element, parameters) {
  root = element;
  runs = await get("runs");
  if (!runs.length) {
    render(noRuns("Playground"), root);
    return () => { root = null; };
  }
  const newest = [...runs].reverse().find((run) => run.method !== "reward") ?? runs.at(-1);
  const wanted = parameters.run || sides[0].model.reference || newest.run;
  sides[0].model.choose(wanted).then(() => { prompt ??= sides[0].model.about?.prompt ?? ""; draw(); });
  if (parameters.run2) compareWith(parameters.run2);
  prompt = parameters.prompt ?? parameters.text ?? prompt;
  if (TABS.some(([name]) => name === parameters.tab)) tab = parameters.tab;
  document.addEventListener("theme", redrawCurve);
  addEventListener("resize", draw);
  show();
  return () => {
    stop();
    document.removeEventListener("theme", redrawCurve);
    removeEventListener("resize", draw);
    curve.remove();
    curve = { key: "", remove() {} };
    root = null;
  };
}

function redrawCurve() {
  curve.key = "";
  draw();
}

function compareWith(reference) {
  if (sides.length < 2) sides.push(newSide());
  sides[1].model.choose(reference);
  draw();
}

function generate(tokens) {
  renewSeed();
  const body = { ...sampling(), prompt: prompt ?? "", score_prompt: true, ...tokens };
  for (const { model, tree } of sides) if (!model.error) tree.begin({ ...body, run: model.reference });
}

function stop() {
  for (const { tree } of sides) tree.stop();
  chat.stop();
}

function show() {
  if (!root) return;
  const [{ model }] = sides;
  rememberChoice();
  render(html`
    <div class="row spread"><h1>Playground</h1>
      <div class="tabs" role="group" aria-label="What to do">${TABS.map(([name, label]) => html`
        <button class="quiet" aria-pressed=${tab === name} @click=${() => { tab = name; draw(); }}>${label}</button>`)}</div></div>
    <div class="models card">
      ${modelPicker(model, runs, "Run")}
      ${tab !== "text" ? nothing : sides.length === 2
        ? modelPicker(sides[1].model, runs, "Beside it", () => { sides.pop().tree.stop(); draw(); })
        : html`<button class="quiet small" @click=${() => compareWith(other(model))}>Compare with another checkpoint</button>`}
      ${model.error ? html`<p class="error" role="alert">${model.error}</p>` : nothing}
    </div>
    ${tab === "text" ? textView() : tab === "chat" ? html`<div class="desk">
      <div class="work">${chatView(chat, model, draw)}${chat.turns.length ? legend() : nothing}</div>${settingsPanel(draw)}</div>`
      : episodesView(episodes, model)}`, root);
  placeRivals(root);
  if (tab === "episodes" && model.run) episodes.load(model.run);
  const key = tab === "episodes" && episodes.found ? `${episodes.run} ${episodes.curve}` : "";
  if (key !== curve.key) {
    curve.remove();
    curve = { key, remove: drawCurve(root, episodes) };
  }
}

/** The first checkpoint of the run that is not the chosen one: the most different. */
function other({ run, selector, reference, about }) {
  const steps = about?.steps ?? [];
  const chosen = { best: about?.best_step, latest: steps.at(-1) }[selector] ?? Number(selector);
  const step = steps.find((each) => each !== chosen);
  return step === undefined ? reference : `${run}@${step}`;
}

function rememberChoice() { // browsers allow few changes of the address
  const parameters = { run: sides[0].model.reference, run2: sides[1]?.model.reference, tab: tab === "text" ? "" : tab };
  if (link("playground", parameters) !== location.hash) remember("playground", parameters);
}

function textView() {
  const running = sides.some(({ tree }) => tree.running), written = sides.some(({ tree }) => tree.branches.length);
  const submit = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) generate();
  };
  return html`
    <div class="desk">
      <div class="work">
        <section class="card">
          <label class="field" for="prompt">Prompt</label>
          <textarea id="prompt" rows="3" dir="auto" placeholder="Text for the model to continue" .value=${prompt ?? ""}
            @keydown=${submit} @input=${(event) => { prompt = event.target.value; }}></textarea>
          <div class="row actions">
            ${running ? html`<button class="danger" @click=${stop}>Stop</button>`
              : html`<button ?disabled=${sides.every(({ model }) => model.error)} @click=${() => generate()}>Generate</button>`}
            <button class="quiet" ?disabled=${running} @click=${() => generate({ tokens: 0 })}>Only score this text</button>
            ${written ? html`<button class="quiet" @click=${() => {
              stop();
              for (const side of sides) side.tree = new Tree(draw);
              draw();
            }}>Clear</button>` : nothing}
            <span class="small soft keys">Ctrl+Enter generates</span>
          </div>
        </section>
        ${written ? legend() : nothing}
        ${sides.length === 2 && written ? agreement() : nothing}
        <div class=${sides.length === 2 ? "two sides" : "sides"}>${sides.map(sideView)}</div>
      </div>
      ${settingsPanel(draw)}
    </div>`;
}

/** Where two texts part, as far as their tokens can be compared. */
function agreement() {
  const [a, b] = sides.map(({ tree }) => tree.selected);
  if (!a || !b || a.tokens.length <= a.prompt || b.tokens.length <= b.prompt) return nothing;
  const shared = sharedLength(a, b), all = Math.min(a.tokens.length, b.tokens.length);
  return html`<p class="small soft">${shared === all ? "Both texts are the same."
    : shared > a.prompt ? `The texts part after ${shared - a.prompt} ${shared - a.prompt === 1 ? "token" : "tokens"}.` : "The texts differ from the first token on."}</p>`;
}

function sideView({ model, tree }, index) {
  const fork = (branch, place, rival) => tree.fork(branch, place, rival, sampling());
  const name = tree.selected?.run ? `${tree.selected.run}, step ${tree.selected.step.toLocaleString("en")}` : model.reference;
  if (!tree.branches.length && !tree.error && !(index && model.error)) {
    return sides.length === 2 ? nothing : html`<p class="soft empty">Every token is shown with its probability. Click one,
      or move with the arrow keys, to see its rivals; choose a rival, and the text branches there.</p>`;
  }
  return html`
    <section class="card side" aria-label="Text of ${name}">
      <h2 class="mono">${name}</h2>
      ${index && model.error ? html`<p class="error" role="alert">${model.error}</p>` : nothing}
      ${tree.error ? html`<p class="error" role="alert">${tree.error}</p>` : nothing}
      ${texts({ tree, fork, draw })}
      <span class="quiet-status" role="status">${tree.running ? "writing" : tree.selected ? "ready" : ""}</span>
    </section>`;
}
