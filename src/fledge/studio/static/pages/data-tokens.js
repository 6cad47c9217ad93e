// Tokens with alternating tints, and a bar to move through long lists. Shared by the views of the page Data.
import { html, nothing, number } from "../shared.js";

/** One span a token. first: the number of the first one; mark: the row of one to point out; documents: of each token. */
export function tokenSpans(tokens, { first = 0, mark = -1, documents = null } = {}) {
  return html`<div class="data-tokens" dir="auto" tabindex="0" role="group" aria-label="Text, token by token">${tokens.map((token, at) => {
    const begins = documents && at > 0 && documents[at] !== documents[at - 1];
    const shade = documents ? (documents[at] - documents[0]) % 2 : 0;
    return html`${begins ? html`<span class="data-boundary">document ${number(documents[at])}</span>` : nothing}<span
      class="t${(first + at) % 2} d${shade} ${at === mark ? "here" : ""}" title="token ${number(first + at)}">${token}</span>`;
  })}</div>`;
}

/** ‹ 26 – 50 of 450 documents › */
export const pager = (first, step, total, what, go) => html`<div class="data-pager">
  <button class="quiet small" aria-label="Back" ?disabled=${first <= 0} @click=${() => go(Math.max(0, first - step))}>‹</button>
  <span class="small">${total ? `${number(first + 1)} – ${number(Math.min(total, first + step))} of ${number(total)}` : "no"} ${total === 1 ? what.replace(/s$/, "") : what}</span>
  <button class="quiet small" aria-label="Further" ?disabled=${first + step >= total} @click=${() => go(first + step)}>›</button></div>`;
