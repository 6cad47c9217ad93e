// The list of runs: the latest first, loaded in parts; search, filter by state, and a choice to compare.
import { html, render, nothing, svg, get, link, notice, noRuns, number } from "../shared.js";

const FIRST = 40, MORE = 200; // runs in a request
const SHOWN = 100; // rows at a time
const REFRESH_MS = 3000;
const STATES = ["running", "finished", "interrupted", "failed", "killed", "imported", "unreadable"];
export const STATE_TAGS = { running: "good", finished: "", failed: "bad", killed: "warn", interrupted: "warn", unreadable: "bad" };

export const stateOf = (entry) => (entry.problem ? "unreadable" : entry.summary.state);
export const stateTag = (state) => html`<span class=${`tag ${STATE_TAGS[state] ?? ""}`}>${
  state === "running" ? html`<i class="live" aria-hidden="true"></i>` : nothing}${state}</span>`;

/** 12 min ago */
export function ago(seconds) {
  const passed = Math.max(0, Date.now() / 1000 - seconds);
  if (passed < 60) return "just now";
  if (passed < 3600) return `${Math.floor(passed / 60)} min ago`;
  if (passed < 86400) return `${Math.floor(passed / 3600)} h ago`;
  if (passed < 30 * 86400) return `${Math.floor(passed / 86400)} d ago`;
  return new Date(seconds * 1000).toLocaleDateString();
}

export function count(value) {
  if (value >= 1e9) return `${(value / 1e9).toPrecision(3)}B`;
  if (value >= 1e6) return `${(value / 1e6).toPrecision(3)}M`;
  return value >= 1e4 ? `${(value / 1e3).toPrecision(3)}k` : number(value);
}

/** The last part of a path: what a person calls the text. */
export const textName = (text) => text.split(", ").map((part) => part.split("/").filter(Boolean).at(-1) ?? part).join(", ");

function sparkline(curve) {
  if (curve.length < 2) return nothing;
  const low = Math.min(...curve), high = Math.max(...curve), width = 96, height = 26;
  const points = curve.map((value, place) =>
    `${((place / (curve.length - 1)) * width).toFixed(1)},${(height - 2 - ((value - low) / (high - low || 1)) * (height - 4)).toFixed(1)}`);
  return html`<svg class="sparkline" viewBox="0 0 96 26" width="96" height="26" aria-hidden="true">${
    svg`<polyline points=${points.join(" ")} />`}</svg>`;
}

const progress = (summary) => html`<span class="progress">
  <progress max=${summary.steps || 1} value=${Math.min(summary.step, summary.steps)} aria-label="Progress"></progress>
  <span class="soft">${number(summary.step)} / ${number(summary.steps)}</span></span>`;

export function openList(root, parameters) {
  const page = { runs: [], total: null, shown: SHOWN, find: parameters.find ?? "", state: "", chosen: new Set(), jobs: [], error: null };
  let timer = 0, left = false, turn = 0;

  async function load() {
    const now = ++turn, find = page.find;
    try {
      const first = await get("runs/list", { find, count: FIRST });
      if (left || now !== turn) return;
      const known = new Map(page.runs.map((entry) => [entry.run, entry]));
      for (const entry of first.runs) known.delete(entry.run);
      const all = [...first.runs, ...known.values()], complete = all.length === first.total; // else one was deleted, or is new
      Object.assign(page, { runs: complete ? all : first.runs, total: first.total, error: null });
      draw();
      for (let at = page.runs.length; at < first.total; at += MORE) {
        const more = await get("runs/list", { find, first: at, count: MORE });
        if (left || now !== turn) return;
        const shown = new Set(page.runs.map(({ run }) => run)); // one that trains moves up between two requests
        page.runs.push(...more.runs.filter(({ run }) => !shown.has(run)));
        draw();
      }
      page.jobs = (await get("runs/jobs")).filter((job) => !page.runs.some(({ run }) => run === job.run));
    } catch (error) {
      page.error = error;
    }
    if (left || now !== turn) return;
    draw();
    timer = setTimeout(load, REFRESH_MS);
  }

  function search(text) {
    clearTimeout(timer);
    Object.assign(page, { find: text, runs: [], shown: SHOWN });
    load();
  }

  function draw() {
    if (left) return;
    if (page.error && page.total === null) return void render(notice("The list could not be loaded", page.error.message), root);
    if (page.total === 0 && !page.find && !page.jobs.length) {
      const form = html`<p><a class="button" href=${link("runs", { new: "1" })}>Train a model here</a></p>`;
      return void render(noRuns("Runs", "", form), root);
    }
    const found = page.runs.filter((entry) => !page.state || stateOf(entry) === page.state);
    render(html`
      <div class="head"><div><h1>Runs</h1>
        <p class="lead">${page.total === null ? "Loading…" : `${number(page.total)} ${page.total === 1 ? "run" : "runs, the latest first"}`}</p></div>
        <a class="button" href=${link("runs", { new: "1" })}>Train a model</a></div>
      <div class="row filters">
        <label class="field">Search<input type="search" placeholder="Name of a run" .value=${page.find}
          @input=${(event) => search(event.target.value)}></label>
        <label class="field">State<select @change=${(event) => { page.state = event.target.value; draw(); }}>
          <option value="">all</option>${STATES.map((state) => html`<option ?selected=${state === page.state}>${state}</option>`)}
        </select></label>
        ${page.chosen.size ? html`<a class="button" href=${compareLink()}>${
          page.chosen.size === 1 ? "Open" : `Compare ${page.chosen.size} runs`}</a>
          <button class="quiet" @click=${() => { page.chosen.clear(); draw(); }}>Clear</button>` : nothing}
      </div>
      ${page.jobs.filter((job) => job.running || job.error).slice(0, 4).map(jobCard)}
      ${found.length ? table(found) : page.total === null ? nothing : notice("No run is like that", "Search for another name, or for all states.")}
      ${found.length > page.shown ? html`<p class="center"><button class="quiet" @click=${() => { page.shown += SHOWN; draw(); }}>
        Show ${Math.min(SHOWN, found.length - page.shown)} more of ${number(found.length - page.shown)}</button></p>` : nothing}`, root);
  }

  const jobCard = (job) => html`<section class="card job"><div class="head">
    <h2><a href=${link("runs", { run: job.run })}>${job.run}</a></h2>
    ${job.running ? html`<span class="tag good"><i class="live" aria-hidden="true"></i>starting</span>` : html`<span class="tag bad">not started</span>`}</div>
    ${job.error ? html`<p class="error">${job.error}</p>` : html`<p class="soft">The text is being prepared. The run appears when training begins.</p>`}
  </section>`;

  const compareLink = () => {
    const [run, ...others] = page.chosen;
    return link("runs", { run, compare: others.join(",") });
  };

  const table = (found) => html`<div class="card runs-table"><table>
    <thead><tr><th><span class="hidden-label">Compare</span></th><th>Run</th><th>State</th><th>Progress</th><th class="number">Validation loss</th>
      <th class="number">Bits per byte</th><th><span class="hidden-label">Curve</span></th><th class="number">Parameters</th><th>Text</th></tr></thead>
    <tbody>${found.slice(0, page.shown).map(row)}</tbody></table></div>`;

  const row = (entry) => {
    const { run, summary, problem, changed, curve } = entry;
    return html`<tr>
      <td class="choose"><input type="checkbox" aria-label=${`Compare ${run}`} .checked=${page.chosen.has(run)} ?disabled=${!!problem}
        @change=${({ target }) => { page.chosen[target.checked ? "add" : "delete"](run); draw(); }}></td>
      <td class="name"><a href=${link("runs", { run })}>${run}</a><span class="soft small">${ago(changed)}</span></td>
      <td class="state">${stateTag(stateOf(entry))}</td>
      ${problem ? html`<td colspan="6" class="problem small">${problem}</td>` : html`
        <td class="steps">${progress(summary)}</td>
        <td class="number" data-label="Validation loss">${number(summary.val_loss)}</td>
        <td class="number" data-label=${summary.reward === null ? "Bits per byte" : "Reward"}>${
          summary.reward === null ? number(summary.bits_per_byte) : html`<span class="soft unit">reward</span> ${number(summary.reward)}`}</td>
        <td class="spark">${sparkline(curve)}</td>
        <td class="number" data-label="Parameters">${count(summary.parameters)}</td>
        <td class="text soft small">${summary.method === "pretrain" ? nothing : html`<span class="tag">${summary.method}</span> `}${textName(summary.text)}</td>`}
    </tr>`;
  };

  draw();
  load();
  return () => { left = true; clearTimeout(timer); };
}
