// The split of one tokenizer: figures, the tokens in colours, and the token under the pointer or the arrow keys.
import { html, nothing, number } from "../../shared.js";
import { spaced, tokenText } from "./text.js";

const nameOf = ({ name }) => (name === "openai:gpt2" ? "GPT-2" : name);

/** A tokenizer in a list: "hamlet and 2 more · 1,024 tokens" */
export const label = (choice) => {
  const others = choice.runs.length > 1 ? ` and ${choice.runs.length - 1} more` : "";
  return `${nameOf(choice)}${others} · ${number(choice.vocab_size)} tokens`;
};

export function splitPanel(panel, index, asIds, draw) {
  const { choice, split, error } = panel;
  const figure = (name, value) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`;
  return html`
    <section class="card tokenizer-panel" aria-label=${label(choice)}>
      <h2>${nameOf(choice)} ${split ? html`<span class="tag">${split.kind}</span>` : nothing}</h2>
      ${error ? html`<p class="warning">${error.message}</p>` : nothing}
      ${split ? html`
        <dl class="figures">
          ${figure("tokens", number(split.total))}
          ${figure("characters per token", split.characters_per_token.toFixed(2))}
          ${figure("bytes per token", split.bytes_per_token.toFixed(2))}
          ${figure("tokens per word", split.tokens_per_word.toFixed(2))}
        </dl>
        ${split.total ? tokenList(panel, index, asIds, draw) : html`<p class="soft">No text, no tokens.</p>`}` : nothing}
    </section>`;
}

function tokenList(panel, index, asIds, draw) {
  const { split, active } = panel, { tokens } = split;
  const id = `tokens-${index}`;
  const choose = (place) => {
    panel.active = Math.min(Math.max(place, 0), tokens.length - 1);
    draw();
    document.getElementById(`${id}-${panel.active}`)?.scrollIntoView({ block: "nearest" });
  };
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 25, PageUp: -25 };
  const onKey = (event) => {
    if (event.key in steps) choose((active ?? -1) + steps[event.key]);
    else if (event.key === "Home") choose(0);
    else if (event.key === "End") choose(tokens.length - 1);
    else if (event.key === "Escape") { panel.active = null; draw(); }
    else return;
    event.preventDefault();
  };
  const onPoint = (event) => {
    const place = event.target.closest("[data-place]")?.dataset.place;
    if (place !== undefined && Number(place) !== panel.active) { panel.active = Number(place); draw(); }
  };
  const token = (each, place) => html`<span role="option" class="token tint-${place % 5}" id="${id}-${place}" data-place=${place}
    aria-selected=${place === active}>${asIds ? html`<bdi>${each.id}</bdi> ` : tokenText(each, true)}</span>`;
  return html`
    <div class="tokens ${asIds ? "as-ids" : ""}" role="listbox" tabindex="0" dir=${asIds ? "ltr" : "auto"}
      aria-label="Tokens; the arrow keys choose one" aria-activedescendant=${active === null ? nothing : `${id}-${active}`}
      @keydown=${onKey} @mouseover=${onPoint} @click=${onPoint}
      @focus=${(event) => event.target.matches(":focus-visible") && panel.active === null && choose(0)}>${
        grouped(tokens, asIds).map(({ start, end, character }) => character
          ? html`<ruby>${tokens.slice(start, end).map((each, i) => token(each, start + i))}<rt>${character}</rt></ruby>`
          : tokens.slice(start, end).map((each, i) => token(each, start + i)))}</div>
    ${split.total > tokens.length ? html`<p class="soft small">The first ${number(tokens.length)} of
      ${number(split.total)} tokens; the figures count all.</p>` : nothing}
    <p class="token-details small" aria-live="polite">${active === null
      ? html`<span class="soft">Point at a token, or use the arrow keys.</span>`
      : details(tokens[active], active, split)}</p>`;
}

/* Neighbours whose bytes make a character only together stand in one group: 🙂 above its tokens. */
function grouped(tokens, asIds) {
  const groups = [];
  for (let start = 0; start < tokens.length;) {
    const { character } = tokens[start];
    let end = start + 1, bytes = tokens[start].bytes.length;
    const whole = 2 * new TextEncoder().encode(character).length;
    while (character && !asIds && end < tokens.length && bytes < whole) bytes += tokens[end++].bytes.length;
    groups.push({ start, end, character: asIds ? "" : character });
    start = end;
  }
  return groups;
}

const details = (token, place, split) => html`
  <strong>${number(place + 1)} of ${number(split.total)}</strong>
  <span>id <code>${token.id}</code></span>
  <span>text <code><bdi>${JSON.stringify(token.text)}</bdi></code></span>
  <span>bytes <code>${spaced(token.bytes) || "none"}</code></span>
  ${token.character ? html`<span>a part of <bdi>${token.character}</bdi></span>` : nothing}
  <span>${token.count === 1 ? "once" : `${number(token.count)} times`} in this text</span>`;
