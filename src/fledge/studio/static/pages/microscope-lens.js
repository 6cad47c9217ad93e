// The logit lens as a heat map: a row for each layer, a column for each token, in a cell the most likely next token.
import { html, number } from "../shared.js";
import { fit, shorten, visible } from "./microscope-canvas.js";

const CELL = 66, ROW = 25, LEFT = 62, HEAD = 26;
export const MEASURES = {
  top: ["its probability", (lens, layer, position) => lens.top_probabilities[layer][position][0]],
  next: ["probability of the next token in the text", (lens, layer, position) => lens.next_probability[layer][position] ?? 0],
  kl: ["closeness to the last layer", (lens, layer, position) => Math.exp(-lens.kl[layer][position])],
};

/** Draw the part of the lens that is in sight. chosen: { layer, position } */
export function drawLens(canvas, scroller, lens, tokens, palette, measure, chosen) {
  const layers = lens.top_ids.length, width = scroller.clientWidth, height = HEAD + (layers + 1) * ROW + 4;
  scroller.firstElementChild.style.width = `${LEFT + tokens.length * CELL}px`;
  const context = fit(canvas, width, height), from = scroller.scrollLeft, value = MEASURES[measure][1];
  const first = Math.floor(from / CELL), last = Math.min(tokens.length, Math.ceil((from + width) / CELL));
  context.textAlign = "center";
  for (let position = first; position < last; position++) {
    const x = LEFT + position * CELL - from;
    context.fillStyle = position === chosen.position ? palette.accent : palette.ink;
    context.fillText(shorten(visible(tokens[position]), 8), x + CELL / 2, HEAD / 2);
    for (let layer = 0; layer < layers; layer++) {
      const shade = value(lens, layer, position) ** 2, best = lens.top_ids[layer][position][0], y = HEAD + layer * ROW;
      context.fillStyle = palette.fill(shade);
      context.fillRect(x + 1, y + 1, CELL - 2, ROW - 2);
      context.fillStyle = palette.text(shade);
      context.fillText(shorten(visible(lens.labels[best]), 8), x + CELL / 2, y + ROW / 2 + 0.5);
      if (lens.next_rank[layer][position] === 1) context.fillRect(x + 8, y + ROW - 5, CELL - 16, 1.5); // it is the next token
    }
    context.fillStyle = palette.soft;
    if (position + 1 < tokens.length) context.fillText(shorten(visible(tokens[position + 1]), 8), x + CELL / 2, HEAD + layers * ROW + ROW / 2);
  }
  context.strokeStyle = palette.accent;
  context.lineWidth = 2;
  context.strokeRect(LEFT + chosen.position * CELL - from + 1, HEAD + chosen.layer * ROW + 1, CELL - 2, ROW - 2);
  context.fillStyle = palette.surface;
  context.fillRect(0, 0, LEFT, height);
  context.fillStyle = palette.soft;
  context.textAlign = "right";
  for (let layer = 0; layer < layers; layer++) context.fillText(`layer ${layer}`, LEFT - 10, HEAD + layer * ROW + ROW / 2);
  context.fillText("text", LEFT - 10, HEAD + layers * ROW + ROW / 2);
}

export function lensCellAt(scroller, x, y, layers, tokens) {
  const position = Math.floor((x - LEFT + scroller.scrollLeft) / CELL), layer = Math.floor((y - HEAD) / ROW);
  return x >= LEFT && position >= 0 && position < tokens && layer >= 0 && layer < layers ? { layer, position } : null;
}

/** Scroll a column into sight. */
export function reveal(scroller, position) {
  const left = position * CELL, right = LEFT + left + CELL;
  if (left < scroller.scrollLeft) scroller.scrollLeft = left;
  if (right > scroller.scrollLeft + scroller.clientWidth) scroller.scrollLeft = right - scroller.clientWidth;
}

/** What a layer would predict after a token: the most likely ones, and where the real one stands. */
export const prediction = (lens, tokens, { layer, position }) => {
  const next = tokens[position + 1], rank = lens.next_rank[layer][position];
  return html`
    <p class="small">After <b class="mono">${visible(tokens[position])}</b>, layer ${layer} would say</p>
    <ol>${lens.top_ids[layer][position].map((id, i) => html`
      <li class=${lens.labels[id] === next ? "is-next" : ""}>
        <span class="bar" .style=${`width: ${100 * lens.top_probabilities[layer][position][i]}%`}></span>
        <span class="mono">${visible(lens.labels[id])}</span>
        <span class="share">${number(100 * lens.top_probabilities[layer][position][i], 3)}%</span></li>`)}
    </ol>
    <p class="small soft">${next === undefined ? "The text ends here." : html`In the text follows
      <b class="mono">${visible(next)}</b>: rank ${number(rank)}, ${number(100 * lens.next_probability[layer][position], 3)}%`}</p>`;
};

const STEPS = 10, HIGHEST = 6; // shades, and the loss of the darkest, in nats

/** The text, each token coloured by its loss. */
export const lossText = ({ tokens, losses }, chosen, choose) => tokens.map((token, position) => {
  const loss = losses[position], shade = loss === null ? 0 : Math.min(STEPS - 1, Math.floor(loss / HIGHEST * STEPS));
  const words = loss === null ? "the first token: nothing to predict it from"
    : `loss ${number(loss, 3)} nats, probability ${number(100 * Math.exp(-loss), 2)}%`;
  return html`<span class=${`loss-${shade}${position === chosen ? " chosen" : ""}`} title=${`${visible(token)} – ${words}`}
    @click=${() => choose(position)}>${token}</span>`;
});
