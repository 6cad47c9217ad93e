// A text token by token: each coloured by its probability, with its rivals. Every character is visible: white space as
// faint marks, control characters and halves of characters as codes, so that no text can rearrange the page.
import { html, nothing } from "../../shared.js";
import { pieces, probability } from "./tree.js";

const BANDS = [0.8, 0.5, 0.2, 0.05, 0.01]; // a token at or above the first is not coloured
const PLAIN = /^[\p{L}\p{N}.,;:!?'"()-]+$/u;
// Control characters, directions, and characters without width; ZWJ and variation selectors only where they stand alone.
const CODES = "\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u115f\\u180e\\u200b\\u200c\\u200e\\u200f"
  + "\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}";
const PARTS = new RegExp(`( )|(\\n)|(\\t)|([${CODES}])|((?:(?![ \\n\\t${CODES}]).)+)`, "gsu");
const ALONE = /^[\p{M}\u200d\ufe00-\ufe0f]+$/u;
const code = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** Text as it can be shown anywhere: [strings and small elements]. marks: whether white space is marked. */
export function visible(text, marks = true) {
  if (PLAIN.test(text)) return text;
  return [...text.matchAll(PARTS)].map(([part, space, newline, tab, control]) => {
    if (!marks && (space || newline || tab)) return part;
    if (space) return html`<span class="space"> </span>`;
    if (newline) return html`<span class="newline"></span>${"\n"}`;
    if (tab) return html`<span class="tab">${"\t"}</span>`;
    if (control || ALONE.test(part)) return [...part].map((each) => html`<span class="code">${code(each)}</span>`);
    return part;
  });
}

let toReveal = false; // a list of rivals has just been opened

const hex = (bytes) => bytes.toUpperCase().match(/../g).join(" ");

/** A token by itself, where nothing before it is known. */
export function visibleToken(token) {
  if (token.special) return html`<span class="code special">${token.text}</span>`;
  if (token.bytes) return html`<span class="code">${hex(token.bytes)}</span>`;
  return visible(token.text);
}

/** The same in one line of plain text, for labels. */
export const nameOf = (token) => token.bytes ? `bytes ${hex(token.bytes)}` : spelled(token.text) || "nothing";

const CODE = new RegExp(`[${CODES}]`, "gu");
const spelled = (text) => text.replace(/\n/g, "↵").replace(CODE, code);

export function percent(p) {
  if (p < 0.0001) return "< 0.01%";
  return `${(100 * p).toFixed(p < 0.00995 ? 2 : p < 0.0995 ? 1 : 0)}%`;
}

const band = (p) => BANDS.findIndex((least) => p >= least) === -1 ? BANDS.length : BANDS.findIndex((least) => p >= least);

export const legend = () => html`
  <p class="legend small soft"><span>Probability</span>
    ${["over 80%", "50", "20", "5", "1", "under 1%"].map((label, index) => html`
      <span class="token p${index}">${label}</span>`)}</p>`;

/** view: { tree, branch, shared (tokens to show faintly), fork(branch, index, rival), draw() } */
export function tokenText({ tree, branch, shared = 0, fork, draw }) {
  const shown = pieces(branch.tokens);
  const open = tree.open?.branch === branch ? tree.open : null;
  const cursor = tree.selected === branch ? Math.min(tree.cursor, branch.tokens.length - 1) : 0;
  const classes = (token, index) => [
    "token",
    token.logprob === undefined ? "" : `p${band(probability(token.logprob))}`,
    index < branch.prompt ? "prompt" : "",
    index < shared ? "shared" : "",
    token.rival ? "rival-taken" : "",
    open?.index === index ? "open" : "",
  ].filter(Boolean).join(" ");
  const completed = (index) => shown[index].replaceAll("\ufffd", ""); // the character that ends with these bytes
  const label = (token, index) => (token.bytes ? hex(token.bytes) + spelled(completed(index)) : nameOf(token))
    + (token.logprob === undefined ? ", first token" : `, ${percent(probability(token.logprob))}`);
  const content = (token, index) => token.bytes
    ? html`${visibleToken(token)}${visible(completed(index))}` : visibleToken(token);
  return html`
    <div class="token-box">
      <div class="tokens" role="group" aria-label="Tokens of the text"
        @click=${(event) => show(event, tree, branch, draw)} @keydown=${(event) => move(event, tree, branch, fork, draw)}
        >${branch.tokens.map((token, index) => html`<span class=${classes(token, index)} role="button"
          tabindex=${index === cursor ? 0 : -1} data-index=${index} aria-label=${label(token, index)}
          aria-expanded=${open?.index === index}>${content(token, index)}</span>`)}${
        branch.state === "running" ? html`<span class="caret" aria-hidden="true"></span>` : nothing}</div>
      ${open ? rivals(tree, branch, open, fork, draw) : nothing}
    </div>`;
}

function show(event, tree, branch, draw) {
  const token = event.target.closest("[data-index]");
  if (!token || String(getSelection())) return; // text is being selected
  const index = Number(token.dataset.index);
  const again = tree.open?.branch === branch && tree.open.index === index;
  openToken(tree, again ? null : branch, index, draw);
}

function openToken(tree, branch, index, draw) {
  tree.open = branch && { branch, index, choice: -1 };
  toReveal = Boolean(branch);
  tree.cursor = index;
  draw();
}

function move(event, tree, branch, fork, draw) {
  const token = event.target.closest("[data-index]");
  if (!token || event.ctrlKey || event.metaKey || event.altKey) return;
  const index = Number(token.dataset.index), last = branch.tokens.length - 1;
  const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: last }[event.key];
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const open = tree.open?.branch === branch && tree.open.index === index ? tree.open : null;
  if (to !== undefined) {
    const target = Math.max(0, Math.min(last, to));
    event.currentTarget.querySelector(`[data-index="${target}"]`).focus();
    openToken(tree, branch, target, draw);
  } else if (step) {
    if (!open) openToken(tree, branch, index, draw);
    const count = branch.tokens[index].top?.length ?? 0;
    if (count) tree.open.choice = Math.max(0, Math.min(count - 1, tree.open.choice + step));
    draw();
  } else if (event.key === "Enter" || event.key === " ") {
    const rival = open && branch.tokens[index].top?.[open.choice];
    if (rival) fork(branch, index, rival);
    else openToken(tree, open ? null : branch, index, draw);
  } else if (event.key === "Escape") openToken(tree, null, index, draw);
  else return;
  event.preventDefault();
}

function rivals(tree, branch, { index, choice }, fork, draw) {
  const token = branch.tokens[index], top = token.top ?? [];
  const rank = top.findIndex(([each]) => each.id === token.id);
  const close = () => openToken(tree, null, index, draw);
  const chosen = top[choice];
  return html`
    <div class="rivals" role="group" aria-label="Alternatives of token ${index + 1}"
      @keydown=${(event) => event.key === "Escape" && close()}>
      <div class="rivals-head"><strong class="mono">${visibleToken(token)}</strong>
        <span class="soft small">token ${index + 1} · id ${token.id}${rank > 0 ? ` · rank ${rank + 1}` : ""}</span>
        <button class="quiet close" aria-label="Close" @click=${close}>×</button></div>
      ${token.logprob === undefined
        ? html`<p class="small soft">Nothing comes before the first token, so it has no probability.</p>`
        : html`<p class="small soft">${rank === -1 ? html`${percent(probability(token.logprob))}, not among the
            ${top.length} most likely. ` : nothing}Choose another token: the text branches here.</p>
          <ol>${top.map(([rival, logprob], place) => html`<li>
            <button class="rival ${rival.id === token.id ? "taken" : ""} ${place === choice ? "chosen" : ""}"
              aria-label="Branch with ${nameOf(rival)}, ${percent(probability(logprob))}"
              @click=${() => fork(branch, index, [rival, logprob])}>
              <span class="mono name">${visibleToken(rival)}</span>
              <progress aria-hidden="true" max="1" .value=${probability(logprob)}></progress>
              <span class="percent">${percent(probability(logprob))}</span></button></li>`)}</ol>
          <p class="keys small soft">← → tokens · ↑ ↓ alternatives · Enter: branch</p>`}
      <span class="quiet-status" role="status">${chosen ? `${nameOf(chosen[0])}, ${percent(probability(chosen[1]))}` : ""}</span>
    </div>`;
}

/** Put each open list of rivals below its token. Called when the page has been drawn. */
export function placeRivals(root) {
  for (const list of root.querySelectorAll(".rivals")) {
    const box = list.parentElement, token = box.querySelector(".token.open");
    if (!token) continue;
    const outer = box.getBoundingClientRect(), line = [...token.getClientRects()].at(-1);
    if (!line) continue;
    const room = Math.max(0, outer.width - list.offsetWidth);
    list.style.left = `${Math.max(0, Math.min(room, line.left - outer.left - 8))}px`;
    list.style.top = `${line.bottom - outer.top + 6}px`;
    if (toReveal) list.scrollIntoView({ block: "nearest" });
    toReveal = false;
  }
}
