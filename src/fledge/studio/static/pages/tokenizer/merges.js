// Merges one by one: a slider from the bytes of some words to their tokens.
import { html, nothing, post, number } from "../../shared.js";
import { piece, tokenText } from "./text.js";

/** draw: shows the page anew. `show` asks for the merges of a text, `view` is the card. */
export function mergesCard(draw) {
  const state = { able: [], name: "", text: "", word: null, answer: null, error: null, step: 0 };
  let request = new AbortController();

  async function ask(signal = new AbortController().signal) {
    request.abort();
    request = new AbortController();
    if (!state.name || !state.text) { state.answer = null; return draw(); }
    const body = { tokenizer: state.name, text: state.text.slice(0, 4000), word: state.word };
    try {
      const response = await post("tokenizer/merges", body, { signal: AbortSignal.any([signal, request.signal]) });
      state.answer = await response.json();
      Object.assign(state, { error: null, step: state.answer.merges.length });
    } catch (error) {
      if (error.name === "AbortError") return;
      Object.assign(state, { answer: null, error });
    }
    draw();
  }

  async function show(able, text, signal) {
    if (!able.some(({ name }) => name === state.name)) state.name = able[0]?.name ?? "";
    if (text !== state.text) state.word = null;
    Object.assign(state, { able, text });
    await ask(signal);
  }

  const go = (step) => {
    state.step = Math.min(Math.max(step, 0), state.answer.merges.length);
    draw();
    document.querySelector(".merge-list [aria-current='step']")?.scrollIntoView({ block: "nearest" });
  };

  const view = () => !state.able.length || !state.text ? nothing : html`
    <section class="card tokenizer-merges">
      <h2>Merges, one by one</h2>
      <p class="soft">Byte-level BPE starts from single bytes, and joins the neighbours that were learned first, until no pair is
        left. Move the slider to watch it.</p>
      <div class="row">
        ${state.able.length > 1 ? html`<label class="field">Tokenizer
          <select @change=${(event) => { state.name = event.target.value; state.word = null; ask(); }}>
            ${state.able.map(({ name, label }) => html`<option value=${name} ?selected=${name === state.name}>${label}</option>`)}
          </select></label>` : nothing}
        ${state.answer ? html`<label class="field">Words
          <select @change=${(event) => { state.word = event.target.value === "" ? null : Number(event.target.value); ask(); }}>
            <option value="" ?selected=${state.word === null}>the first ${number(state.answer.words.length && state.word === null
              ? state.answer.start.length : "few")} words</option>
            ${state.answer.words.map((word, i) => html`<option value=${i} ?selected=${state.word === i}>${i + 1}: ${
              word.replaceAll(" ", "·").replaceAll("\n", "⏎").slice(0, 40)}</option>`)}
          </select></label>` : nothing}
      </div>
      ${state.error ? html`<p class="error">${state.error.message}</p>` : nothing}
      ${state.answer ? stepper(state, go) : nothing}
    </section>`;
  return { show, view, leave: () => request.abort() };
}

/* The ids of each word after so many merges, and which token the last merge made. */
function after({ start, merges, made }, steps) {
  const words = start.map((word) => [...word]);
  for (const { word, position, token } of merges.slice(0, steps)) words[word].splice(position, 2, made[token]);
  return words;
}

function stepper(state, go) {
  const { answer, step } = state, { merges, made } = answer, last = merges[step - 1], next = merges[step];
  const tokens = after(answer, step);
  const mark = (word, place) =>
    last && last.word === word && last.position === place ? "new"
      : next && next.word === word && (next.position === place || next.position === place - 1) ? "next" : "";
  const parts = (i) => {
    const { word, position } = merges[i], before = after(answer, i)[word];
    return [before[position], before[position + 1]];
  };
  const said = last
    ? html`Step ${step} of ${merges.length}: ${parts(step - 1).map(piece).reduce((a, b) => html`${a} + ${b}`)} → ${piece(made[last.token])}
        <span class="soft">merge ${number(last.rank + 1)} of ${number(answer.total)}</span>`
    : html`${merges.length ? `Step 0 of ${merges.length}: the single bytes` : "Nothing to merge: these are tokens already"}`;
  return html`
    <div class="merge-words" dir="ltr">${tokens.map((word, i) => html`<span class="word">${word.map((token, place) =>
      html`<span class="byte ${mark(i, place)}">${tokenText(token)}</span>`)}</span>`)}</div>
    <p class="merge-said" aria-live="polite">${said}</p>
    <div class="row merge-steps">
      <button class="quiet" ?disabled=${!step} @click=${() => go(0)}>Start</button>
      <button class="quiet" ?disabled=${!step} @click=${() => go(step - 1)}>Back</button>
      <label class="slider"><span class="hidden-label">Step</span><input type="range" min="0" max=${merges.length}
        .value=${String(step)} @input=${(event) => go(Number(event.target.value))}></label>
      <button class="quiet" ?disabled=${!next} @click=${() => go(step + 1)}>Next</button>
      <button class="quiet" ?disabled=${!next} @click=${() => go(merges.length)}>End</button>
    </div>
    ${merges.length ? html`<ol class="merge-list" tabindex="0" aria-label="All merges">${merges.map((merge, i) => html`
      <li aria-current=${i === step - 1 ? "step" : "false"} class=${i < step ? "" : "ahead"} @click=${() => go(i + 1)}>
        <span class="soft">${number(merge.rank + 1)}</span> ${piece(made[merge.token])}</li>`)}</ol>` : nothing}`;
}
