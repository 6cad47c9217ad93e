// The vocabulary of a tokenizer, with its search.
import { html, nothing, get, notice, number } from "../../shared.js";
import { label } from "./split.js";
import { piece, spaced } from "./text.js";

const PAUSE = 120; // milliseconds after the last key
const ROWS = 100; // at a time

/** draw: shows the page anew. `show` takes the tokenizers to choose from, `view` is the card. */
export function vocabularyCard(draw) {
  const state = { choices: [], of: null, search: "", page: null, error: null };
  let request = new AbortController(), timer = 0;

  async function ask(more = false) {
    request.abort();
    request = new AbortController();
    const had = more ? state.page.entries : [];
    const query = { tokenizer: state.of.name, search: state.search, offset: had.length, limit: ROWS };
    try {
      const answer = await get("tokenizer/vocabulary", query, { signal: request.signal });
      Object.assign(state, { page: { ...answer, entries: [...had, ...answer.entries] }, error: null });
    } catch (error) {
      if (error.name === "AbortError") return;
      Object.assign(state, { page: null, error });
    }
    draw();
  }

  async function show(choices) {
    state.choices = choices;
    if (choices.includes(state.of)) return;
    state.of = choices[0];
    await ask();
  }

  const look = (event) => {
    state.search = event.target.value;
    clearTimeout(timer);
    timer = setTimeout(ask, PAUSE);
  };

  const view = () => html`
    <section class="card tokenizer-vocabulary">
      <h2>Vocabulary</h2>
      <div class="row">
        ${state.choices.length > 1 ? html`<label class="field">Tokenizer
          <select @change=${(event) => { state.of = state.choices[event.target.selectedIndex]; ask(); }}>
            ${state.choices.map((choice) => html`<option ?selected=${choice === state.of}>${label(choice)}</option>`)}
          </select></label>` : nothing}
        <label class="field">Search
          <input type="search" placeholder="text or id" spellcheck="false" .value=${state.search} @input=${look}></label>
        <p class="soft small" role="status">${state.page
          ? `${number(state.page.found)} of ${number(state.page.total)} tokens` : ""}</p>
      </div>
      ${state.error ? html`<p class="error">${state.error.message}</p>` : nothing}
      ${state.page?.entries.length ? table(state.page.entries)
        : state.page ? notice("No such token", "No token of this vocabulary has that text in it, or that id.") : nothing}
      ${state.page && state.page.entries.length < state.page.found ? html`
        <button class="quiet" @click=${() => ask(true)}>Show more</button>` : nothing}
    </section>`;
  const leave = () => { clearTimeout(timer); request.abort(); };
  return { show, view, leave };
}

const table = (entries) => html`
  <div class="scroll tall" tabindex="0" role="region" aria-label="Vocabulary"><table>
    <thead><tr><th class="number">id</th><th>token</th><th>bytes</th><th>made of</th></tr></thead>
    <tbody>${entries.map((entry) => html`
      <tr><td class="number">${entry.id}</td><td>${piece(entry)}</td>
        <td><code class="soft">${spaced(entry.bytes)}</code></td><td>${madeOf(entry)}</td></tr>`)}</tbody>
  </table></div>`;

function madeOf({ special, left, right, rank }) {
  if (special) return html`<span class="soft">special token</span>`;
  if (rank === null) return html`<span class="soft">–</span>`;
  const part = (text) => piece({ text, bytes: "" });
  return html`${part(left)} + ${part(right)} <span class="soft">merge ${number(rank + 1)}</span>`;
}
