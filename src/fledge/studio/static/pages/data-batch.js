// Page Data, batch: what a step learned from, divided over processes and micro-batches.
import { html, nothing, get, link, number } from "../shared.js";
import { tokenSpans, pager } from "./data-tokens.js";

const SAMPLES = 8; // at a time
const PAUSE = 150; // milliseconds after the slider has moved

export function batchView({ run, info, parameters, keep, draw }) {
  const last = info.trained || info.steps;
  const state = { step: Number(parameters.step ?? 1), ranks: Number(parameters.ranks ?? 1), first: 0, batch: null, error: null };
  let request = new AbortController(), timer = 0;

  async function load(first = 0) {
    request.abort();
    request = new AbortController();
    try {
      const query = { run, step: state.step, ranks: state.ranks, first, count: SAMPLES };
      state.batch = await get("data/batch", query, { signal: request.signal });
      Object.assign(state, { first, error: null });
      keep({ step: state.step, ranks: state.ranks > 1 ? state.ranks : null });
    } catch (error) {
      if (error.name === "AbortError") return;
      Object.assign(state, { error, batch: null });
    }
    draw();
  }

  function move(step) {
    if (!Number.isFinite(step)) return;
    state.step = Math.round(step);
    draw();
    clearTimeout(timer);
    timer = setTimeout(load, PAUSE);
  }

  const sample = (each) => {
    const first = each.documents[0], end = each.documents.at(-1);
    return html`<article class="data-sample">
      <p class="small soft">sample ${number(each.number)}, from
        <a href=${link("data", { run, view: "documents", document: first })}>${first === end ? `document ${number(first)}`
          : `documents ${number(first)} to ${number(end)}`}</a>
        ${state.ranks > 1 ? html`<span class="tag">rank ${each.rank}</span>` : nothing}
        ${each.micro_batch === null ? nothing : html`<span class="tag">micro-batch ${each.micro_batch}</span>`}</p>
      ${tokenSpans(each.tokens, { first: each.start, documents: each.documents })}</article>`;
  };

  return {
    start: () => load(),
    view: () => html`<section class="card">
      <div class="data-bar">
        <label class="field">Step<input type="number" min="1" max=${info.steps} .value=${String(state.step)}
          @change=${(event) => move(Number(event.target.value))}></label>
        <label class="field data-grow">Steps 1 to ${number(last)}<input type="range" min="1" max=${last} .value=${String(state.step)}
          @input=${(event) => move(Number(event.target.value))}></label>
        ${state.batch && state.batch.ranks.length > 1 ? html`<label class="field">Divided over
          <select @change=${(event) => { state.ranks = Number(event.target.value); load(); }}>${state.batch.ranks.map((count) => html`
            <option value=${count} ?selected=${count === state.ranks}>${count} ${count === 1 ? "process" : "processes"}</option>`)}</select></label>` : nothing}
        ${state.batch ? pager(state.first, SAMPLES, state.batch.batch, "samples", load) : nothing}
      </div>
      ${state.step > last ? html`<p class="warning">Step ${number(state.step)} has not been trained yet: this is what it will read.</p>` : nothing}
      ${state.error ? html`<p class="error" role="alert">${state.error.message}</p>` : nothing}
      ${state.batch ? state.batch.samples.map(sample) : state.error ? nothing : html`<p class="soft" role="status">Loading…</p>`}
    </section>`,
  };
}
