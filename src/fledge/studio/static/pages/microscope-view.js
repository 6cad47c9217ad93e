// The parts of the page Microscope, as HTML. `page` is the Microscope of microscope.js, which draws the canvases.
import { html, notice, nothing, number, runPicker } from "../shared.js";
import { visible } from "./microscope-canvas.js";
import { MEASURES, lensCellAt } from "./microscope-lens.js";

export const SCORES = [
  ["induction", "Induction", "what followed the same token before"],
  ["previous_token", "Previous token", "one token back"],
  ["entropy", "Spread", "its entropy: how many tokens it looks at"],
];
const STRONGEST = 5;

export const view = (page) => html`
  <h1>Microscope</h1>
  <p class="lead">What each head attends to in a text, and what the model would say after each layer. The slider goes
    through the checkpoints of the run: watch it form.</p>
  ${input(page)}
  ${page.shown ? html`
    <div class="heads-and-head">${allHeads(page)}${oneHead(page)}</div>
    <div class="scores-and-losses">${scores(page)}${losses(page)}</div>
    ${lens(page)}` : waiting(page)}`;

const waiting = (page) => {
  if (page.problem) return nothing;
  if (!page.info.checkpoints.length) return notice("There is no checkpoint yet", "It appears here as soon as the run has saved one.");
  return page.text ? html`<p class="soft" role="status">Reading the text…</p>` : notice("Type a text to look at");
};

const input = (page) => html`
  <section class="card microscope-input">
    <div class="row">
      ${runPicker(page.runs, page.info.run, (run) => page.change(run))}
      <label class="field text">Text
        <textarea rows="3" dir="auto" spellcheck="false" placeholder="Type or paste a text" .value=${page.text}
          @input=${(event) => page.type(event.target.value)}></textarea></label>
    </div>
    ${page.info.checkpoints.length ? slider(page) : nothing}
    ${page.problem ? html`<p class="warning" role="alert">${page.problem}
      ${page.shown ? html` What you see is step ${number(page.shown.step)}.` : ""}</p>` : nothing}
    ${page.shown?.tokens.left_out ? html`<p class="small soft">The first ${number(page.shown.tokens.tokens.length)} tokens are
      shown; ${number(page.shown.tokens.left_out)} more do not fit.</p>` : nothing}
  </section>`;

const slider = (page) => {
  const { checkpoints } = page.info, now = checkpoints[page.index], last = checkpoints.length - 1;
  const words = `step ${number(now.step)}${now.val_loss === null ? "" : `, validation loss ${number(now.val_loss)}`}`;
  return html`
    <div class="checkpoints">
      <button class="quiet play" ?disabled=${!last} @click=${() => page.play()}>${page.playing ? "Stop" : "Play"}</button>
      <input type="range" aria-label="Checkpoint" min="0" max=${last} .value=${String(page.index)} aria-valuetext=${words}
        ?disabled=${!last} @input=${(event) => { page.playing = false; page.goTo(Number(event.target.value)); }}>
      <output><b>Step ${number(now.step)}</b><span class="soft">${now.val_loss === null ? `${page.index + 1} of ${last + 1}`
        : `validation loss ${number(now.val_loss)}`}</span></output>
    </div>`;
};

const place = (event) => {
  const box = event.currentTarget.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

const named = ({ layer, head }) => `Layer ${layer} · head ${head}`;

/** The head under the pointer, or the one that is chosen, and its scores. */
export const aboutHead = ({ shown, over: pointed }) => {
  const over = pointed ?? shown, found = shown.answers.value("scores", shown.step);
  const about = found && SCORES.map(([key, name]) => `${name.toLowerCase()} ${found[key][over.layer][over.head].toFixed(2)}`).join(" · ");
  return html`<b>${named(over)}</b> <span class="soft">${about ?? ""}</span>`;
};

const allHeads = (page) => {
  const at = (event) => page.grid.at(...place(event));
  return html`
    <section class="card">
      <h2>All heads</h2>
      <p class="small soft">A row for each layer, a column for each head. In a square, each row is a token, and the marks are
        what it attends to.</p>
      <div class="frame"><canvas class="heads" tabindex="0" role="application"
        aria-label=${`All heads. The arrow keys choose a head; square brackets another checkpoint. ${named(page.shown)} is chosen.`}
        @keydown=${(event) => page.onKey(event)}
        @pointermove=${(event) => page.hover(at(event))}
        @pointerleave=${() => page.hover(null)}
        @click=${(event) => { const head = at(event); if (head) page.choose(head.layer, head.head); }}></canvas></div>
      <p class="small line about-head"></p>
    </section>`;
};

const oneHead = (page) => {
  const { shown, mode, view: { count } } = page, T = shown.tokens.tokens.length;
  const at = (event) => page.drawing.at(...place(event), page.view);
  const modes = [["map", "Heat map"], ["arcs", "Arcs"]];
  return html`
    <section class="card">
      <div class="row head-title">
        <h2>${named(shown)}</h2>
        <fieldset class="segments"><legend class="hidden-label">Show the head as</legend>
          ${modes.map(([name, label]) => html`<label><input type="radio" name="mode" .checked=${mode === name}
            @change=${() => page.showAs(name)}><span>${label}</span></label>`)}
        </fieldset>
        <span class="zoom">
          <button class="quiet" aria-label="Fewer tokens, larger" ?disabled=${count <= Math.min(8, T)} @click=${() => page.zoom(0.5)}>+</button>
          <button class="quiet" aria-label="More tokens, smaller" ?disabled=${count >= T} @click=${() => page.zoom(2)}>−</button>
        </span>
      </div>
      <div class="frame"><canvas class=${`head ${count < T ? "can-pan" : ""}`} tabindex="0" role="application"
        aria-label=${`${named(shown)} as ${mode === "map" ? "a heat map" : "arcs"}. The arrow keys choose a head, plus and minus zoom.`}
        @keydown=${(event) => page.onKey(event)}
        @pointerdown=${(event) => page.grab(event)}
        @pointermove=${(event) => page.drag(event) || page.point(at(event))}
        @pointerup=${() => page.release()}
        @pointerleave=${() => page.point(null)}
        @click=${(event) => { const cell = at(event); if (cell) page.select({ position: cell.query }); }}></canvas></div>
      <p class="small line attended" aria-live="polite"></p>
    </section>`;
};

/** What the token under the pointer attends to. */
export const attended = ({ map, hovered, mode, shown }) => {
  if (!hovered) return html`<span class="soft">Point at ${mode === "map" ? "a cell: its row is a token, its column the token that it attends to"
    : "a token: to the left, what it attends to; from the right, what attends to it"}.</span>`;
  const { query, key } = hovered, tokens = shown.tokens.tokens, name = (at) => html`<b class="mono">${visible(tokens[at])}</b>`;
  if (key > query) return html`<span class="soft">${name(query)} does not see ${name(key)}, which comes later.</span>`;
  if (key >= 0) return html`${name(query)} → ${name(key)} <b>${number(map.weight(query, key), 3)}</b>
    <span class="soft">position ${query} → ${key}</span>`;
  return html`${name(query)} <span class="soft">(${query}) attends to</span> ${map.strongest(query, STRONGEST).map(([other, weight]) => html`
    <span class="pair">${name(other)} ${number(weight, 2)}</span> `)}`;
};

const scores = (page) => {
  const { shown } = page, found = shown.answers.value("scores", shown.step);
  const cell = (event) => {
    const [x, y] = place(event);
    page.choose(Math.floor((y - 1) / page.cell), Math.floor((x - 1) / page.cell));
  };
  return html`
    <section class="card">
      <h2>Kinds of heads</h2>
      <p class="small soft">Measured on random tokens that are repeated once. The head that is chosen has a frame.</p>
      ${found ? html`<div class="scores">${SCORES.map(([key, name, words]) => html`
        <figure><figcaption><b>${name}</b> <span class="soft">${words}</span></figcaption>
          <div class="frame"><canvas class=${`score-${key}`} role="img" @click=${cell}
            aria-label=${`${name}: ${best(found[key]).map(([layer, head, value]) => `${named({ layer, head })} ${value.toFixed(2)}`).join(", ")}`}></canvas></div>
          <p class="small best">${best(found[key]).map(([layer, head, value]) => html`
            <button class="bare small" @click=${() => page.choose(layer, head)}>L${layer} H${head} <span>${value.toFixed(2)}</span></button>`)}</p>
        </figure>`)}</div>` : html`<p class="small soft">Measuring…</p>`}
    </section>`;
};

const best = (table) => table.flatMap((row, layer) => row.map((value, head) => [layer, head, value])).sort((a, b) => b[2] - a[2]).slice(0, 3);

const losses = (page) => {
  const { losses: all } = page.shown.tokens, known = all.filter((loss) => loss !== null);
  const mean = known.reduce((sum, loss) => sum + loss, 0) / Math.max(1, known.length);
  return html`
    <section class="card">
      <h2>Loss of each token</h2>
      <p class="small soft">The stronger the colour, the less the model expected it.${known.length ? html` Mean <b>${number(mean)}</b> nats.` : ""}</p>
      <div class="losses" dir="auto" tabindex="0" role="group" aria-label="The text, coloured by loss"></div>
    </section>`;
};

const lens = (page) => {
  const { shown, measure } = page, found = shown.answers.value("lens", shown.step), tokens = shown.tokens.tokens;
  const cell = (event) => lensCellAt(event.currentTarget.closest(".lens-scroller"), ...place(event), page.info.layers, tokens.length);
  return html`
    <section class="card">
      <div class="row head-title">
        <h2>Logit lens</h2>
        <label class="field inline">Shade
          <select @change=${(event) => { page.measure = event.target.value; page.paintLens(); }}>
            ${Object.entries(MEASURES).map(([name, [label]]) => html`<option value=${name} ?selected=${name === measure}>${label}</option>`)}
          </select></label>
      </div>
      <p class="small soft">The most likely next token after each layer; the last layer is the model’s answer. A line under a
        word: it is the token that follows in the text.</p>
      ${found ? html`<div class="lens">
        <div class="lens-scroller" tabindex="0" role="application" aria-label="Logit lens. The arrow keys choose a token and a layer."
          @scroll=${() => page.paintLens()} @keydown=${(event) => page.onLensKey(event)}>
          <div class="lens-room"></div>
          <canvas class="lens"
            @pointermove=${(event) => { const at = cell(event); if (at) page.pointLens(at); }}
            @click=${(event) => { const at = cell(event); if (at) page.select(at); }}></canvas>
        </div>
        <div class="prediction" aria-live="polite"></div>
      </div>` : html`<p class="small soft">Computing…</p>`}
    </section>`;
};
