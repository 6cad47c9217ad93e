// Page Data, documents: their list, and one of them token by token.
import { html, nothing, get, link, number } from "../shared.js";
import { tokenSpans, pager } from "./data-tokens.js";

const ROWS = 25;
const TOKENS = 1500; // of a document at a time

export function documentsView({ run, info, parameters, keep, draw }) {
  const state = { split: parameters.split ?? "train", first: Number(parameters.first ?? 0), list: null, document: null, error: null };

  async function load(work) {
    try {
      state.error = null;
      await work();
    } catch (error) {
      state.error = error;
    }
    draw();
  }

  const list = (first) => load(async () => {
    state.list = await get("data/documents", { run, split: state.split, first, count: ROWS });
    Object.assign(state, { first, document: null });
    keep({ split: state.split, first, document: null, offset: null });
  });

  const read = (number, offset = 0, mark = -1) => load(async () => {
    const page = Math.max(0, Math.floor(offset / TOKENS) * TOKENS);
    state.document = await get("data/document", { run, split: state.split, number, offset: page, count: TOKENS });
    state.document.mark = mark;
    keep({ split: state.split, document: number, offset: mark >= 0 ? mark : page });
    if (mark >= 0) requestAnimationFrame(() => document.querySelector(".data-tokens .here")?.scrollIntoView({ block: "center" }));
  });

  const picker = () => html`<label class="field">Split
    <select @change=${(event) => { state.split = event.target.value; list(0); }}>${info.splits.map(({ name }) => html`
      <option value=${name} ?selected=${name === state.split}>${name}</option>`)}</select></label>`;

  const table = ({ total, documents }) => html`
    <div class="data-bar">${picker()}
      ${pager(state.first, ROWS, total, "documents", list)}</div>
    <div class="scroll"><table class="data-table"><thead><tr><th class="number">Number</th><th class="number">Tokens</th><th>Begins with</th></tr></thead>
      <tbody>${documents.map((each) => html`<tr><td class="number">${number(each.number)}</td><td class="number">${number(each.tokens)}</td>
        <td><a href=${link("data", { run, view: "documents", split: state.split, document: each.number })}
          @click=${(event) => { event.preventDefault(); read(each.number); }}><bdi>${each.beginning.trim() || "white space"}</bdi></a></td></tr>`)}
      </tbody></table></div>`;

  const reading = (page) => html`
    <div class="data-bar"><button class="quiet" @click=${() => list(state.first)}>‹ All documents</button>
      <h2>Document ${number(page.number)} <span class="soft small">of the ${state.split} split, ${number(page.total)} tokens</span></h2>
      ${page.total > TOKENS ? pager(page.offset, TOKENS, page.total, "tokens", (offset) => read(page.number, offset)) : nothing}</div>
    ${tokenSpans(page.tokens, { first: page.offset, mark: page.mark - page.offset })}`;

  return {
    start: () => parameters.document == null ? list(state.first)
      : read(Number(parameters.document), Number(parameters.offset ?? 0), parameters.offset == null ? -1 : Number(parameters.offset)),
    view: () => html`<section class="card">
      ${state.error ? html`<p class="error" role="alert">${state.error.message}</p>` : nothing}
      ${state.document ? reading(state.document) : state.list ? table(state.list)
        : state.error ? nothing : html`<p class="soft" role="status">Loading…</p>`}</section>`,
  };
}
