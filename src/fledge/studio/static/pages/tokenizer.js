// The page Tokenizer: a text split by two tokenizers, its merges one by one, and the vocabulary.
import { html, render, nothing, get, post, remember, noRuns } from "../shared.js";
import { mergesCard } from "./tokenizer/merges.js";
import { label, splitPanel } from "./tokenizer/split.js";
import { vocabularyCard } from "./tokenizer/vocabulary.js";

export const title = "Tokenizer";

const PAUSE = 200; // milliseconds after the last key
const EXAMPLES = [
  ["Story", "Once upon a time there was a small bird that learned to write."],
  ["Code", "def area(r):\n    return 3.14159 * r ** 2  # πr²\n"],
  ["Numbers", "In 2026, 1,234,567 + 89 = 1234656, and 0.1 + 0.2 = 0.30000000000000004"],
  ["Languages", "Straße, naïve, 東京タワー, Привет, مرحبا بالعالم, שלום עולם"],
  ["Emoji", "Hatched 🐣, fledged 🪶, flown 🕊️ — a family: 👩‍👩‍👧"],
];
let text = EXAMPLES[0][1]; // kept while other pages are shown

export async function open(root, parameters) {
  const run = parameters.run?.split("@")[0]; // several runs may have one tokenizer: it is called as the chosen run
  const known = (await get("tokenizer")).map((each) => (each.runs.includes(run) ? { ...each, name: run } : each));
  if (!known.length) return void render(noRuns("Tokenizer", "A tokenizer comes with every run."), root);
  const find = (wanted) => known.find(({ name, runs }) => name === wanted || runs.includes(wanted));
  const first = find(run) ?? known[0];
  const other = parameters.other === "none" ? null : find(parameters.other) ?? known.find((each) => each !== first) ?? null;
  const page = {
    asIds: false,
    panels: [first, other].filter(Boolean).map((choice) => ({ choice, split: null, error: null, active: null })),
  };
  let request = new AbortController(), timer = 0;
  const merges = mergesCard(() => draw()), vocabulary = vocabularyCard(() => draw());

  async function splitAll() {
    request.abort();
    request = new AbortController();
    const { signal } = request, sent = text.toWellFormed?.() ?? text;
    await Promise.all(page.panels.map(async (panel) => {
      try {
        const body = { tokenizer: panel.choice.name, text: sent };
        panel.split = await (await post("tokenizer/split", body, { signal })).json();
        panel.error = null;
      } catch (error) {
        if (error.name === "AbortError") return;
        Object.assign(panel, { split: null, error });
      }
      panel.active = null;
      draw();
    }));
    const able = page.panels.filter((panel) => panel.split?.merges);
    if (!signal.aborted) await merges.show(able.map(({ choice }) => ({ name: choice.name, label: label(choice) })), sent, signal);
  }

  function choose(place, name) {
    if (name) page.panels[place] = { choice: known.find((each) => each.name === name), split: null, error: null, active: null };
    else page.panels.length = 1;
    remember("tokenizer", { run: page.panels[0].choice.name, other: page.panels[1]?.choice.name ?? "none" });
    vocabulary.show(page.panels.map(({ choice }) => choice));
    draw();
    splitAll();
  }

  function type(event) {
    text = event.target.value;
    clearTimeout(timer);
    timer = setTimeout(splitAll, PAUSE);
  }

  const picker = (place, name) => html`
    <label class="field">${name}
      <select @change=${(event) => choose(place, event.target.value)}>
        ${place ? html`<option value="" ?selected=${!page.panels[1]}>nothing</option>` : nothing}
        ${known.map((each) => html`
          <option value=${each.name} ?selected=${page.panels[place]?.choice === each}>${label(each)}</option>`)}
      </select></label>`;

  const input = () => html`
    <section class="card tokenizer-input">
      <div class="row">${picker(0, "Tokenizer")}${picker(1, "Compared with")}
        <fieldset class="choice"><legend class="hidden-label">Show tokens as</legend>
          ${["Text", "Ids"].map((word, i) => html`<label><input type="radio" name="shown" .checked=${page.asIds === Boolean(i)}
            @change=${() => { page.asIds = Boolean(i); draw(); }}><span>${word}</span></label>`)}
        </fieldset>
      </div>
      <label class="hidden-label" for="tokenizer-text">Text to split</label>
      <textarea id="tokenizer-text" rows="4" dir="auto" spellcheck="false" placeholder="Type or paste a text"
        .value=${text} @input=${type}></textarea>
      <div class="row examples"><span class="soft small">Try:</span>
        ${EXAMPLES.map(([name, example]) => html`
          <button class="quiet small" @click=${() => { text = example; draw(); splitAll(); }}>${name}</button>`)}
      </div>
    </section>`;

  const draw = () => render(html`
    <h1>Tokenizer</h1>
    <p class="lead">A model reads and writes tokens, not letters. See where a tokenizer cuts, how its merges make the pieces,
      and what its vocabulary holds.</p>
    ${input()}
    <div class="tokenizer-panels">${page.panels.map((panel, i) => splitPanel(panel, i, page.asIds, draw))}</div>
    ${merges.view()}
    ${vocabulary.view()}`, root);

  draw();
  await Promise.all([splitAll(), vocabulary.show(page.panels.map(({ choice }) => choice))]);
  return () => {
    clearTimeout(timer);
    request.abort();
    merges.leave();
    vocabulary.leave();
  };
}
