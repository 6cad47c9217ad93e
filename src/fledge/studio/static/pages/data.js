// The page Data: what a run learned from. Its documents, a search in them, and the batch of any step.
import { html, render, nothing, get, notice, remember, number, runPicker, noRuns, newestOnText } from "../shared.js";
import { documentsView } from "./data-documents.js";
import { searchView } from "./data-search.js";
import { batchView } from "./data-batch.js";

export const title = "Data";

const VIEWS = [["documents", "Documents", documentsView], ["search", "Search", searchView], ["batch", "Batch of a step", batchView]];

export async function open(root, parameters) {
  const runs = await get("runs");
  if (!runs.length) return void render(noRuns("Data", "The text that a run learned from is shown here, by document and by step."), root);
  const page = { run: parameters.run?.split("@")[0] ?? newestOnText(runs).run, info: null, error: null };
  let open = true, known = { ...parameters }, view = null, shown = "";

  /** What the address says: the parameters of the view that is shown. */
  function keep(changes) {
    known = { ...known, ...changes };
    remember("data", { ...known, run: page.run, view: shown });
  }

  function show(name, parameters = {}) {
    shown = name;
    known = parameters;
    view = VIEWS.find(([each]) => each === name)[2]({ run: page.run, info: page.info, parameters, keep, draw, show });
    keep({});
    draw();
    view.start();
  }

  async function choose(run, parameters = {}) {
    Object.assign(page, { run, info: null, error: null });
    view = null;
    draw();
    try {
      page.info = await get("data", { run });
    } catch (error) {
      page.error = error;
    }
    if (!open || page.run !== run) return;
    if (page.info) show(VIEWS.some(([name]) => name === parameters.view) ? parameters.view : "documents", parameters);
    else draw();
  }

  const facts = ({ splits, description, tokenizer, vocab_size, context, batch, trained }) => html`
    <dl class="data-facts">
      ${splits.map(({ name, tokens, documents, bytes }) => html`<div><dt>${SPLITS[name] ?? name}</dt>
        <dd>${number(tokens)} tokens <span class="soft small">${number(documents)} ${documents === 1 ? "document" : "documents"}${
          bytes ? `, ${size(bytes)}` : ""}</span></dd></div>`)}
      <div><dt>tokenizer</dt><dd>${tokenizer} <span class="soft small">${number(vocab_size)} tokens</span></dd></div>
      <div><dt>a step reads</dt><dd>${number(batch * context)} tokens <span class="soft small">${batch} × ${number(context)}</span></dd></div>
      <div><dt>trained</dt><dd>${number(trained)} steps <span class="soft small">${passes(splits, batch * context * trained)}</span></dd></div>
    </dl>
    <p class="soft small data-source">${description}</p>`;

  const tabs = () => html`<div class="data-tabs" role="tablist" aria-label="What to look at" @keydown=${arrows}>
    ${VIEWS.map(([name, words]) => html`<button role="tab" class="bare" id="tab-${name}" aria-selected=${name === shown}
      aria-controls="data-view" tabindex=${name === shown ? 0 : -1} @click=${() => { if (name !== shown) show(name); }}>${words}</button>`)}
    </div>`;

  function arrows(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const at = (VIEWS.findIndex(([name]) => name === shown) + by + VIEWS.length) % VIEWS.length;
    show(VIEWS[at][0]);
    root.querySelector(`#tab-${VIEWS[at][0]}`).focus();
  }

  function draw() {
    if (!open) return;
    render(html`
      <h1>Data</h1>
      <p class="lead">The text that a model learned from: its documents, a search in them, and the batch of any step, as the order
        of the data can be computed again.</p>
      <section class="card">
        <div class="row">${runPicker(runs, page.run, (run) => choose(run))}</div>
        ${page.info ? facts(page.info) : nothing}
      </section>
      ${page.error ? notice("There is no text to show", page.error.message) : nothing}
      ${view ? html`${tabs()}<div id="data-view" role="tabpanel" aria-labelledby="tab-${shown}">${view.view()}</div>` : nothing}`, root);
  }

  await choose(page.run, parameters);
  return () => { open = false; };
}

const SPLITS = { train: "training", val: "validation", test: "test" };

const size = (bytes) => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} KB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;

function passes(splits, tokens) {
  const train = splits.find(({ name }) => name === "train");
  return train && tokens ? `${number(tokens / train.tokens, 2)} passes over the text` : "";
}
