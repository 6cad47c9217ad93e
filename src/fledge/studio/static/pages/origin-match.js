// One match on the page Origin: its places in the training data, its steps, and the loss at every checkpoint.
import { html, nothing, get, link, number, color } from "../shared.js";
import uPlot from "../lib/uPlot.js";

const STEPS = 24; // that are listed
const ROWS = 6; // of the table of losses

/** A view of one match at a time; `changed` draws the page. */
export function matchDetails(changed) {
  let run = "", result = null, match = null, place = 0, losses = null, error = null, plot = null, request = new AbortController();

  async function load() {
    request.abort();
    request = new AbortController();
    losses = error = null;
    const { position } = match.occurrences[place];
    try {
      const query = { run, position, length: match.stop - match.first, until: result.step };
      losses = await get("origin/losses", query, { signal: request.signal });
    } catch (caught) {
      if (caught.name === "AbortError") return;
      error = caught;
    }
    changed();
  }

  function show(ofRun, origin, row) {
    [run, result, match, place] = [ofRun, origin, origin.matches[row], 0];
    if (match) load();
  }

  function step(by) {
    place += by;
    changed();
    load();
  }

  const name = () => run.split("@")[0];
  const documentLink = (at) => link("data", { run: name(), view: "documents", document: at.document, offset: at.offset });

  function view() {
    if (!match) return nothing;
    const at = match.occurrences[place], shown = match.occurrences.length;
    return html`<section class="card origin-place" aria-label="The chosen match">
      <div class="origin-place-head">
        <h2>Where it stands</h2>
        ${shown > 1 ? html`<div class="origin-pager">
          <button class="quiet small" aria-label="The place before" ?disabled=${!place} @click=${() => step(-1)}>‹</button>
          <span class="small">place ${place + 1} of ${match.count > shown ? `${shown}, out of ${number(match.count)}` : shown}</span>
          <button class="quiet small" aria-label="The next place" ?disabled=${place === shown - 1} @click=${() => step(1)}>›</button>
        </div>` : nothing}
      </div>
      <p class="soft small">${match.count === 1 ? "Once in the training data" : `${number(match.count)} times in the training data`}, here in
        <a href=${documentLink(at)}>document ${number(at.document)}, token ${number(at.offset)}</a></p>
      <blockquote dir="auto" tabindex="0"><span class="soft">${at.before}</span><mark>${at.text}</mark><span class="soft">${at.after}</span></blockquote>
      <h3>When it was learned</h3>
      ${steps(at)}
      ${chart(at)}
    </section>`;
  }

  function steps(at) {
    if (!match.steps.length) return html`<p class="soft">No step up to ${number(result.step)} has read this passage.</p>`;
    const here = new Set(at.exposures.map((each) => each.step)), listed = match.steps.slice(0, STEPS);
    const elsewhere = listed.some((each) => !here.has(each));
    return html`<p class="small soft">${match.steps.length === 1 ? "One step" : `${number(match.steps.length)} steps`} learned these words${
        match.count > 100 ? ", at 100 of their places" : ""}.
        ${elsewhere ? "Those in colour learned them here." : nothing} Open ${match.steps.length === 1 ? "it" : "one"} to see its whole batch.</p>
      <p class="origin-steps">${listed.map((each) => html`<a class="tag ${here.has(each) ? "good" : ""}"
        href=${link("data", { run: name(), view: "batch", step: each })}>${number(each)}</a>`)}
        ${match.steps.length > STEPS ? html`<span class="soft small">… up to ${number(match.steps.at(-1))}</span>` : nothing}</p>`;
  }

  function chart(at) {
    if (error) return html`<p class="error">${error.message}</p>`;
    if (!losses) return html`<p class="soft small" role="status">Reading the passage with every checkpoint…</p>`;
    if (!losses.length) return html`<p class="soft small">No checkpoint is left that could say how well the model knew this passage.</p>`;
    const rows = at.exposures.slice(0, ROWS).map((each) => ({ ...each, ...around(each.step) }));
    return html`<h3>What it changed</h3>
      <p class="small soft">Loss on the passage in its document, in nats per token, at each checkpoint. ${rows.length
        ? "The vertical lines are the steps that learned it here. Between two checkpoints all other steps count, too."
        : "Other passages changed it."}</p>
      <div class="origin-chart" role="img" aria-label=${spoken(at)}></div>
      ${rows.length ? html`<div class="scroll"><table><thead><tr><th class="number">Step</th><th class="number">Tokens learned</th>
        <th class="number">Loss before</th><th class="number">Loss after</th><th class="number">Change</th></tr></thead>
        <tbody>${rows.map(({ step, tokens, before, after }) => html`<tr><td class="number">${number(step)}</td>
          <td class="number">${tokens} of ${match.stop - match.first}</td><td class="number">${loss(before)}</td>
          <td class="number">${loss(after)}</td><td class="number">${before && after ? signed(after.loss - before.loss) : "–"}</td>
        </tr>`)}</tbody></table></div>` : nothing}
      ${at.exposures.length > ROWS ? html`<p class="soft small">The first ${ROWS} of ${number(at.exposures.length)} steps.</p>` : nothing}`;
  }

  const around = (step) => ({
    before: losses.findLast((each) => each.step < step), after: losses.find((each) => each.step >= step),
  });
  const loss = (each) => each ? html`${each.loss.toFixed(3)} <span class="soft">at step ${number(each.step)}</span>` : html`<span class="soft">no checkpoint</span>`;
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
  const spoken = (at) => `Loss from ${losses[0].loss.toFixed(2)} at step ${losses[0].step} to ${losses.at(-1).loss.toFixed(2)} at step ${
    losses.at(-1).step}; learned at ${at.exposures.length} steps`;

  /** Draw the curve into the page that `view` has made. */
  function draw(root) {
    const target = root.querySelector(".origin-chart");
    if (!target || !losses?.length) return void close();
    if (plot?.root.parentNode === target && plot.losses === losses) return;
    close();
    const width = Math.max(240, target.clientWidth), axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 },
      ticks: { stroke: color("--line"), width: 1 }, font: "12px sans-serif" };
    const lines = match.occurrences[place].exposures.map((each) => each.step);
    plot = new uPlot({
      width, height: 210, legend: { show: false }, cursor: { show: false },
      scales: { x: { time: false, distr: 3, range: (_, low, high) => [Math.min(low, ...lines) * 0.9, Math.max(high, ...lines) * 1.1] } },
      axes: [{ ...axis, grid: { show: false }, label: "step", labelSize: 18, size: 36, values: (_, splits) => splits.map((each) => each === null ? "" : number(each)) },
        { ...axis, label: "nats per token", labelSize: 18, size: 46 }],
      series: [{}, { stroke: color("--series-1"), width: 2, points: { show: true, size: 6, fill: color("--series-1") } }],
      hooks: { drawClear: [(u) => drawSteps(u, lines)] },
    }, [losses.map((each) => each.step), losses.map((each) => each.loss)], target);
    plot.losses = losses;
  }

  function drawSteps(u, lines) {
    const { ctx, bbox: { top, height } } = u;
    ctx.save();
    ctx.strokeStyle = color("--series-2");
    ctx.lineWidth = 1.5 * devicePixelRatio;
    for (const step of lines) {
      const x = Math.round(u.valToPos(step, "x", true));
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
    }
    ctx.restore();
  }

  function close() {
    plot?.destroy();
    plot = null;
  }

  return { show, view, draw, close: () => { request.abort(); close(); }, redraw: (root) => { close(); draw(root); } };
}
