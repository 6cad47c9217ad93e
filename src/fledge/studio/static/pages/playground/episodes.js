// The answers of an alignment run through training, and their rewards.
import uPlot from "../../lib/uPlot.js";
import { color, get, html, link, nothing, number } from "../../shared.js";
import { visible } from "./tokens.js";

export class Episodes {
  found = null; // of /api/playground/episodes
  run = null;
  error = "";
  place = 0; // of the sample that is shown
  curve = ""; // the metric that is shown

  constructor(changed) { this.changed = changed; }

  async load(run) {
    if (this.run === run) return;
    Object.assign(this, { run, found: null, error: "" });
    try {
      const found = await get("playground/episodes", { run });
      if (this.run !== run) return;
      this.place = found.samples.length - 1;
      this.curve = ["val/reward", "rollout/reward"].find((name) => found.curves[name]) ?? Object.keys(found.curves)[0] ?? "";
      this.found = found;
    } catch (error) {
      this.error = error.message;
    }
    this.changed();
  }

  show(place) {
    this.place = Math.max(0, Math.min(this.found.samples.length - 1, place));
    this.changed();
  }
}

const STEPS = [1, 2, 5].flatMap((n) => [1, 10, 100, 1e3, 1e4, 1e5].map((power) => n * power)).sort((a, b) => a - b);
const METHODS = ["ppo", "grpo", "reinforce", "dpo", "sft", "reward"];

export function episodesView(episodes, model) {
  const { found } = episodes;
  if (episodes.error) return html`<p class="error" role="alert">${episodes.error}</p>`;
  if (!found) return html`<p class="soft">Reading the run…</p>`;
  const rewarded = found.samples.some((sample) => sample.reward != null) || Object.keys(found.curves).some((name) => name.includes("reward"));
  if (!METHODS.includes(found.method) && !rewarded) {
    return html`<section class="notice"><h2>No rewards in this run</h2>
      <p>Answers and their rewards are recorded where a model is aligned. Choose such a run, or make one:</p>
      <pre class="command">fledge demo --align</pre></section>`;
  }
  const names = Object.keys(found.curves);
  return html`
    ${names.length ? html`<section class="card">
      <div class="row spread"><h2>${episodes.curve}</h2>
        <label class="field">Curve<select @change=${(event) => { episodes.curve = event.target.value; episodes.changed(); }}>
          ${names.map((name) => html`<option .selected=${name === episodes.curve}>${name}</option>`)}</select></label></div>
      <div id="reward-curve" class="curve" role="img" aria-label="${episodes.curve} by step"></div>
    </section>` : nothing}
    ${found.samples.length ? samplesView(episodes, model)
      : html`<p class="soft">This run has recorded no answers yet: one is written at each evaluation.</p>`}`;
}

function samplesView(episodes, model) {
  const { samples } = episodes.found, sample = samples[episodes.place], first = samples[0];
  const keep = sample === first ? [first] : [first, sample];
  return html`
    <section class="card">
      <div class="row spread"><h2>Answers through training</h2>
        <a href=${link("playground", { run: `${model.run}@${sample.step}`, tab: "chat" })}>Talk to step ${number(sample.step)}</a></div>
      <label class="field">Step ${number(sample.step)} (sample ${episodes.place + 1} of ${samples.length})
        <input type="range" min="0" max=${samples.length - 1} .value=${String(episodes.place)}
          @input=${(event) => episodes.show(Number(event.target.value))}></label>
      <p class="lines mono question">${visible(sample.prompt, false)}</p>
      <div class="two">${keep.map((each) => html`
        <div class="half episode"><h3>step ${number(each.step)}
          ${each.reward == null ? nothing : html`<span class="tag ${each.reward > first.reward ? "good" : ""}">reward
            ${number(each.reward, 3)}</span>`}</h3>
          <p class="lines">${each.answer ? visible(each.answer, false) : html`<span class="soft">an empty answer</span>`}</p>
        </div>`)}</div>
    </section>`;
}

const value = (_, shown) => (shown == null ? "–" : number(shown));

/** A curve that is constant has an axis, too: around its value. */
const yRange = (_, low, high) => (low === high ? [low - 0.5, high + 0.5] : uPlot.rangeNum(low, high, 0.1, true));

/** Draw the curve into its place, once it is on the page. Returns what removes it. */
export function drawCurve(root, episodes) {
  const place = root.querySelector("#reward-curve"), points = episodes.found?.curves[episodes.curve];
  if (!place || !points) return () => {};
  const axis = { stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
  const size = () => ({ width: Math.max(200, place.clientWidth), height: 200 });
  const plot = new uPlot({
    ...size(), legend: { show: true },
    scales: { x: { time: false }, y: { range: yRange } },
    axes: [{ ...axis, incrs: STEPS }, { ...axis, size: 60 }],
    series: [{ label: "step", value }, { label: episodes.curve, value, stroke: color("--series-1"), width: 2,
      points: { show: points.length < 40, fill: color("--series-1") } }],
  }, [points.map(([step]) => step), points.map(([, value]) => value)], place);
  const observer = new ResizeObserver(() => plot.setSize(size()));
  observer.observe(place);
  return () => { observer.disconnect(); plot.destroy(); };
}
