// The page Origin: where a text stands in the training data, which steps learned it, and what they changed.
import { html, render, nothing, get, post, notice, remember, number, runPicker, noRuns, newestOnText } from "../shared.js";
import { matchDetails } from "./origin-match.js";

export const title = "Origin";

const PAUSE = 300; // milliseconds between two questions about the index that is being built
const MAX_LINK = 2000; // characters of a text that is kept in the address
const TOKENS_PER_SECOND = 2e6; // of a build, roughly
const WORDS = { copied: "Copied", "partly copied": "Partly copied", new: "New", "too short": "Too short to say" };
const KINDS = { copied: "bad", "partly copied": "warn", new: "good", "too short": "" };
let text = ""; // kept while other pages are shown

export async function open(root, parameters) {
  const runs = await get("runs");
  if (!runs.length) return void render(noRuns("Where did this come from?", "A text is looked up in what a run has learned from."), root);
  const page = {
    run: parameters.run ?? newestOnText(runs).run, index: null, refused: null, error: null, result: null, chosen: 0, working: "",
  };
  if (parameters.text) text = parameters.text;
  let open = true;
  const details = matchDetails(() => draw());

  async function choose(name) {
    Object.assign(page, { run: name, index: null, refused: null, error: null, result: null, working: "" });
    remember("origin", { run: name });
    draw();
    try {
      page.index = await get("origin/index", { run: name });
      await wait();
    } catch (error) {
      page.refused = error;
    }
    if (open && page.run === name) draw();
  }

  /** Until the index is built, if it is being built; a studio that was stopped is asked again until it answers. */
  async function wait() {
    const { run } = page;
    while (open && page.run === run && page.index.state === "building") {
      page.working = "indexing";
      draw();
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
      try {
        page.index = await get("origin/index", { run });
      } catch (error) {
        if (error.status) throw error;
      }
    }
    if (page.run !== run) return;
    if (page.index.state === "failed") page.error = new Error(page.index.problem);
    page.working = "";
  }

  async function lookUp() {
    const { run } = page, sent = text.toWellFormed?.() ?? text;
    Object.assign(page, { error: null, result: null, chosen: 0 });
    try {
      if (page.index.state !== "ready") {
        page.index = await (await post("origin/index", { run })).json();
        await wait();
        if (page.run !== run || page.index.state !== "ready") return void draw();
      }
      page.working = "looking";
      draw();
      const result = await (await post("origin/trace", { run, text: sent })).json();
      if (page.run !== run) return;
      page.result = result;
      remember("origin", { run, text: sent.length <= MAX_LINK ? sent : "" });
      details.show(run, result, 0);
    } catch (error) {
      if (page.run !== run) return;
      page.error = error;
    }
    page.working = "";
    draw();
  }

  function select(row) {
    page.chosen = row;
    details.show(page.run, page.result, row);
    draw();
    root.querySelector('.origin-text mark[aria-pressed="true"]')?.scrollIntoView({ block: "nearest" });
  }

  const input = () => html`
    <form class="card origin-input" @submit=${(event) => { event.preventDefault(); lookUp(); }}>
      <div class="row">${runPicker(runs, page.run.split("@")[0], choose, "Training data of")}
        ${page.run.includes("@") ? html`<span class="tag">checkpoint ${page.run.split("@").at(-1)}</span>` : nothing}</div>
      <label class="hidden-label" for="origin-text">Text to look up</label>
      <textarea id="origin-text" rows="5" dir="auto" spellcheck="false" .value=${text}
        placeholder="Paste a text that the model wrote, or hand one over from the Playground"
        @input=${(event) => { const had = Boolean(text.trim()); text = event.target.value; if (had !== Boolean(text.trim())) draw(); }}></textarea>
      <div class="row origin-action">
        <button ?disabled=${!page.index || Boolean(page.working) || !text.trim()}>Look it up</button>
        ${status()}
      </div>
    </form>`;

  function status() {
    if (page.working === "indexing") {
      const percent = Math.round(100 * page.index.share);
      return html`<div class="origin-progress" role="status">
        <progress max="1" .value=${page.index.share} aria-label="Indexing the training text"></progress>
        <span class="soft small">Indexing the training text, once for every later search: ${percent}%</span></div>`;
    }
    if (page.working) return html`<span class="soft small" role="status">Looking it up…</span>`;
    if (page.index?.state === "missing" || page.index?.state === "failed") {
      const seconds = Math.max(1, Math.round(page.index.tokens / TOKENS_PER_SECOND));
      return html`<span class="soft small">The first search indexes ${number(page.index.tokens)} tokens of training text: about
        ${seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`}, and ${size(page.index.bytes)} on disk.</span>`;
    }
    return nothing;
  }

  const answer = ({ verdict, explanation, copied, caveat, matches, tokens, minimum, step }) => html`
    <section class="card origin-verdict ${KINDS[verdict]}" aria-label="Verdict">
      <div class="origin-verdict-head"><h2>${WORDS[verdict]}</h2>
        ${verdict === "too short" ? nothing : html`
          <div class="origin-share" role="img" aria-label="${Math.round(100 * copied)}% copied"><i></i></div>
          <span class="soft small">${Math.round(100 * copied)}% copied</span>`}</div>
      <p>${sentence(explanation)}</p>
      <p class="soft small">${caveat}</p>
    </section>
    <section class="card">
      <h2>The text</h2>
      <p class="soft small origin-legend"><span><i class="mark"></i> copied: ${minimum} or more tokens in a row</span>
        <span><i class="mark ordinary"></i> shorter, as in unseen texts, or not learned yet</span></p>
      <div class="origin-text" dir="auto" tabindex="0" role="group" aria-label="The text, with its matches">${segments(tokens, matches).map(([words, row]) => row < 0 ? words : html`<mark
        role="button" tabindex="0" class=${isCopied(matches[row]) ? "" : "ordinary"} aria-pressed=${row === page.chosen}
        aria-label="Show where this stands: ${words}" @click=${() => select(row)} @keydown=${(event) => {
          if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(row); }
        }}>${words}</mark>`)}</div>
      ${matches.length > 1 ? html`<ol class="origin-matches" aria-label="Matches, the longest first">${matches.map((match, row) => html`
        <li><button class="bare" aria-pressed=${row === page.chosen} @click=${() => select(row)}>
          <bdi class="origin-passage">${match.text.trim() || "white space"}</bdi>
          <span class="soft small">${match.stop - match.first} tokens · ${match.count === 1 ? "once" : `${number(match.count)} times`}
            · ${match.steps.length === 1 ? "1 step" : `${number(match.steps.length)} steps`}</span></button></li>`)}</ol>` : nothing}
    </section>
    ${matches.length ? details.view() : html`<section class="card"><p class="soft">No two tokens of it stand together anywhere in
      the training data up to step ${number(step)}.</p></section>`}`;

  function draw() {
    if (!open) return;
    render(html`
      <h1>Where did this come from?</h1>
      <p class="lead">Look up what a model wrote in the text that it learned from: the passages that stand there word for word,
        their documents, the steps that learned them, and what those steps changed.</p>
      ${input()}
      ${page.refused ? notice("There is no training text to look in", page.refused.message) : nothing}
      ${page.error ? html`<p class="error" role="alert">${page.error.message}</p>` : nothing}
      ${page.result ? answer(page.result) : nothing}`, root);
    const bar = root.querySelector(".origin-share i");
    if (bar) bar.style.width = `${100 * page.result.copied}%`;
    details.draw(root);
  }

  draw();
  await choose(page.run);
  if (text.trim() && parameters.text && page.index?.state === "ready") lookUp();
  const redraw = () => details.redraw(root);
  document.addEventListener("theme", redraw);
  return () => {
    open = false;
    details.close();
    document.removeEventListener("theme", redraw);
  };
}

/** Whether a match counts: long enough, and learned at some step. */
const isCopied = ({ ordinary, steps }) => !ordinary && steps.length > 0;

/** tokens, matches → [[text, match or -1], …]: each token belongs to the longest match that holds it. */
function segments(tokens, matches) {
  const owner = new Array(tokens.length).fill(-1);
  matches.forEach(({ first, stop }, row) => { // the longest first
    for (let at = first; at < stop; at++) if (owner[at] < 0) owner[at] = row;
  });
  const found = [];
  tokens.forEach((token, at) => {
    if (found.length && found.at(-1)[1] === owner[at]) found.at(-1)[0] += token;
    else found.push([token, owner[at]]);
  });
  return found;
}

const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;

const size = (bytes) => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
