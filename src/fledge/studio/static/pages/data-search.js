// Page Data, search: where an exact text stands in the training split.
import { html, nothing, get, link, number } from "../shared.js";

export function searchView({ run, info, parameters, keep, draw }) {
  const state = { text: parameters.text ?? "", split: parameters.split ?? "train", result: null, error: null, working: false };
  let request = new AbortController();

  async function search() {
    if (!state.text) return;
    request.abort();
    request = new AbortController();
    Object.assign(state, { result: null, error: null, working: true });
    draw();
    try {
      const text = state.text.toWellFormed?.() ?? state.text;
      state.result = await get("data/search", { run, text, split: state.split }, { signal: request.signal });
      keep({ text: state.text, split: state.split });
    } catch (error) {
      if (error.name === "AbortError") return;
      state.error = error;
    }
    state.working = false;
    draw();
  }

  function said({ count, hits, searched, by_index }) {
    const times = count === 1 ? "Once" : count ? `${number(count)} times` : "Not found";
    const where = searched < 1 ? `in the first ${Math.round(100 * searched)}% of the ${state.split} split; then time was up`
      : `in the ${state.split} split`;
    const shown = count > hits.length ? `; the first ${hits.length} are shown` : "";
    const how = by_index ? "found by the index"
      : searched < 1 ? html`an index finds it at once: build it on the page <a href=${link("origin", { run, text: state.text })}>Origin</a>`
      : "all of it was read";
    return html`<p role="status">${times} ${where}${shown} <span class="soft small">(${how})</span></p>`;
  }

  const hit = (each) => html`<li><a class="small" href=${link("data", { run, view: "documents", split: state.split, document: each.document,
      offset: each.offset })}>document ${number(each.document)}, token ${number(each.offset)}</a>
    <blockquote dir="auto" tabindex="0"><span class="soft">${each.before}</span><mark>${each.text}</mark><span class="soft">${each.after}</span></blockquote></li>`;

  return {
    start: search,
    view: () => html`<section class="card">
      <form class="data-bar" @submit=${(event) => { event.preventDefault(); search(); }}>
        <label class="field data-grow">Exact text
          <input type="search" .value=${state.text} dir="auto" spellcheck="false" placeholder="Words as they stand in the text"
            @input=${(event) => { state.text = event.target.value; }}></label>
        <label class="field">Split<select @change=${(event) => { state.split = event.target.value; search(); }}>
          ${info.splits.map(({ name }) => html`<option value=${name} ?selected=${name === state.split}>${name}</option>`)}</select></label>
        <button ?disabled=${state.working}>Search</button>
      </form>
      ${state.error ? html`<p class="error" role="alert">${state.error.message}</p>` : nothing}
      ${state.working ? html`<p class="soft" role="status">Searching…</p>` : nothing}
      ${state.result ? html`${said(state.result)}<ol class="data-hits">${state.result.hits.map(hit)}</ol>` : nothing}
      ${!state.result && !state.working && !state.error ? html`<p class="soft">Upper and lower case, spaces and line ends count. A text that
        a model wrote is better looked up on the page <a href=${link("origin", { run })}>Origin</a>, which finds its parts.</p>` : nothing}
    </section>`,
  };
}
