// One run, perhaps compared with others: state and actions, live curves, and what the folder of the run tells.
import { html, render, nothing, get, post, link, notice, remember, number, duration } from "../shared.js";
import { Charts } from "./runs-charts.js";
import { RunData, timeUnit } from "./runs-data.js";
import { followRuns } from "./runs-live.js";
import { ago, count, stateOf, stateTag, textName } from "./runs-list.js";
import * as panels from "./runs-panels.js";

const AXES = { step: () => "step", tokens: () => "tokens", time: (unit) => `${unit === 60 ? "minutes" : "hours"} of training` };
const FIRST_METRICS = ["train/loss", "val/loss", "val_whole/loss"];
const MOST_COMPARED = 8;
const WAIT_MS = 1000; // for a run that is being started
let kept = { axis: "step", logX: false, logY: false, smoothing: 0 }; // of the curves, for all runs

export function openRun(root, parameters) {
  const names = [parameters.run.split("@")[0], ...(parameters.compare ?? "").split(",").filter(Boolean)].slice(0, MOST_COMPARED);
  let view = openPage(root, [...new Set(names)], parameters);
  const theme = () => view.redraw();
  document.addEventListener("theme", theme);
  return () => {
    document.removeEventListener("theme", theme);
    view.leave();
  };
}

function openPage(root, names, parameters) {
  const runs = names.map((name) => new RunData(name)), [first] = runs;
  const view = { ...kept, range: null, problem: null, gone: null, note: null, busy: false, activity: "", all: null, more: "" };
  const parts = Object.fromEntries(["head", "bar", "curves", "below"].map((name) => {
    const element = document.createElement("div");
    element.className = `run-${name}`;
    return [name, element];
  }));
  let charts = null, stop = () => {}, left = false, timer = 0, detailsTimer = 0;

  const compared = () => runs.filter((run) => run.names.length);
  const options = () => ({ log: view.logX });
  const unit = () => (view.range ? view.unit : (view.unit = timeUnit(runs))); // the same while zoomed in
  const chartView = () => ({ ...view, unit: unit(), theme: document.documentElement.dataset.theme, axisLabel: AXES[view.axis](unit()), zoom, range: view.range });
  const marks = () => {
    const toX = first.toX(view.axis, unit());
    return panels.marksOf(first.events).map((mark) => ({ ...mark, x: toX(mark.step) }));
  };

  async function load() {
    try {
      first.entry = await get("runs/entry", { run: first.name });
    } catch (error) {
      return waitForStart(error);
    }
    if (left) return;
    if (!charts) {
      root.replaceChildren(parts.head, parts.bar, parts.curves, parts.below);
      charts = new Charts(parts.curves, { runs: compared, view: chartView, marks, changed: async () => { charts.draw(); await charts.load(options()); charts.draw(); } });
    }
    draw();
    try {
      await Promise.all(runs.map((run) => run.load(FIRST_METRICS, options())));
    } catch (error) {
      view.problem = error;
      return draw();
    }
    if (left) return;
    draw();
    charts.draw();
    await Promise.all([charts.load(options()), loadEvents(), loadDetails()]).catch((error) => { view.problem = error; });
    if (left) return;
    draw();
    charts.draw();
    follow();
  }

  /** The folder is not there yet, or not any more. */
  async function waitForStart(error) {
    const job = (await get("runs/jobs").catch(() => [])).find(({ run }) => run === first.name);
    if (left) return;
    if (!job) return void render(html`${crumbs()}${notice("There is no such run", error.message)}`, root);
    render(html`${crumbs()}<h1>${first.name}</h1>
      <p class="lead">${job.running ? "Starting: the text is prepared, and the model is built. The run appears as soon as training begins."
        : job.error ? "The command ended with an error." : "The command has ended, and there is no run of this name."}</p>
      ${panels.job(job)}
      ${job.running ? html`<button class="quiet" @click=${() => act("stop", { run: first.name })}>Stop</button>` : html`<a class="button" href=${link("runs", { new: "1" })}>Back to the form</a>`}`, root);
    timer = setTimeout(async () => { // by the list: a run that is not there yet is no error of it
      const found = (await get("runs/list", { find: first.name }).catch(() => null))?.runs.some(({ run }) => run === first.name);
      if (!left) await (found ? load() : waitForStart(error));
    }, WAIT_MS);
  }

  async function loadEvents() {
    first.events = (await get("runs/events", { run: first.name })).events;
  }

  async function loadDetails() {
    const details = await get("runs/details", { run: first.name }).catch((error) => { view.problem = error; return null; });
    first.details = details ?? first.details;
  }

  function follow() {
    stop();
    stop = followRuns(runs, (event, data) => {
      const run = runs.find(({ name }) => name === data.run);
      if (!left && run) heard[event](run, data);
    });
  }

  const heard = {
    rows(run, { rows }) {
      const fresh = run.add(rows);
      if (run === first) view.activity = "";
      if (run.isLong) {
        run.forget();
        reload();
      } else if (fresh) charts.draw();
      else charts.soon();
      drawHead();
    },
    events(run, { events }) {
      if (run !== first) return;
      const known = new Set(first.events.map((event) => JSON.stringify(event)));
      first.events = [...first.events, ...events.filter((event) => !known.has(JSON.stringify(event)))];
      const last = events.at(-1);
      view.activity = last.event === "Activity" ? last.name : "";
      if (events.some((event) => event.event === "Saved" || event.event === "Ended")) {
        clearTimeout(detailsTimer);
        detailsTimer = setTimeout(async () => { await loadDetails(); drawBelow(); }, 800);
      }
      draw();
      charts.soon();
    },
    state(run, { entry, job }) {
      Object.assign(run, { entry, job });
      if (run === first) view.gone = null;
      draw();
    },
    reset(run) {
      run.forget();
      reload();
    },
    gone(run, { renamed }) {
      view.gone = { name: run.name, renamed, first: run === first };
      draw();
    },
  };

  async function reload() {
    stop();
    try {
      await Promise.all(runs.map((run) => run.load(FIRST_METRICS, options())));
      await Promise.all([charts.load(options()), loadEvents(), loadDetails()]);
    } catch (error) {
      view.problem = error;
    }
    if (left) return;
    draw();
    charts.draw();
    follow();
  }

  async function zoom(range) {
    if (range && !(range[1] > range[0])) return;
    view.range = range;
    charts.draw();
    drawBar();
    await Promise.all(runs.map((run) => run.zoom(range && range.map(run.toStep(view.axis, view.unit)), options()))).catch(() => {});
    if (!left) charts.draw();
  }

  async function setView(changes, again = false) {
    Object.assign(view, changes);
    kept = { axis: view.axis, logX: view.logX, logY: view.logY, smoothing: view.smoothing };
    if ("axis" in changes || "logX" in changes) {
      view.range = null;
      for (const run of runs) run.showAll();
    }
    drawBar();
    if (!again) return charts.draw();
    stop();
    for (const run of runs) run.forget();
    await reload();
  }

  async function act(what, body) {
    const state = first.entry && stateOf(first.entry);
    Object.assign(view, { busy: true, note: null });
    draw();
    try {
      await post(`runs/${what}`, body);
      const said = { stop: "The process was asked to stop: it saves a checkpoint first.", resume: "Resuming: training goes on in a moment." };
      view.note = { text: said[what], state }; // until the state is another
    } catch (error) {
      view.note = { text: error.message, bad: true };
    }
    view.busy = false;
    if (!left) draw();
  }

  function compareWith(others) {
    location.hash = link("runs", { run: first.name, compare: others.join(",") }).slice(1);
  }

  const crumbs = () => html`<p class="crumbs"><a href=${link("runs")}>Runs</a></p>`;

  function facts(summary) {
    const speed = first.last("train/tokens_per_second"), seconds = first.last("train/step_seconds"), step = Math.max(summary.step, first.lastStep);
    const running = summary.state === "running", rest = running && seconds ? seconds * Math.max(summary.steps - step, 0) : null;
    return [
      ["Step", html`${number(step)} <small>of ${number(summary.steps)}</small>`],
      ["Training loss", number(first.last("train/loss"))],
      ["Best validation loss", html`${number(summary.val_loss)}${summary.best_step === null ? nothing : html` <small>at step ${number(summary.best_step)}</small>`}`],
      summary.reward === null ? ["Bits per byte", number(summary.bits_per_byte)] : ["Reward", number(summary.reward)],
      ["Parameters", count(summary.parameters)],
      ["Tokens per second", speed === null ? "–" : count(Math.round(speed))],
      running ? ["Time left", rest === null ? "–" : duration(rest)] : ["On the disk", panels.bytes(summary.bytes)],
    ];
  }

  function actions(summary) {
    const state = summary?.state, base = { run: first.name };
    return html`<div class="row actions">
      ${state === "running" ? html`<button class="quiet" ?disabled=${view.busy} @click=${() => act("stop", base)}>Stop</button>` : nothing}
      ${["interrupted", "killed", "failed"].includes(state) ? html`<button ?disabled=${view.busy} @click=${() => act("resume", base)}>Resume</button>` : nothing}
      ${state === "finished" ? html`<form class="row longer" @submit=${(event) => { event.preventDefault(); act("resume", { ...base, steps: +view.more || 2 * summary.steps }); }}>
        <label class="field">Train until step<input type="number" min=${summary.steps + 1} placeholder=${2 * summary.steps} .value=${view.more}
          @input=${(event) => { view.more = event.target.value; }}></label><button class="quiet" ?disabled=${view.busy}>Resume</button></form>` : nothing}
      ${summary?.checkpoints.length ? html`<a class="button quiet" href=${link("playground", base)}>Playground</a>
        <a class="button quiet" href=${link("microscope", base)}>Microscope</a>` : nothing}</div>`;
  }

  function drawHead() {
    const { entry } = first, summary = entry?.summary;
    render(html`${crumbs()}
      <div class="head"><div class="title"><h1>${first.name}${runs.length > 1 ? html` <small class="soft">compared with ${names.slice(1).join(", ")}</small>` : nothing}</h1>
        <p class="soft">${entry ? stateTag(stateOf(entry)) : nothing} ${view.activity ? html`<span class="tag">${view.activity}</span>` : nothing}
          ${summary ? html`<span class="small">${summary.method === "pretrain" ? "" : `${summary.method} · `}${textName(summary.text)} · ${ago(entry.changed)}</span>` : nothing}</p></div>
        ${actions(summary)}</div>
      ${view.gone ? html`<p class="warning" role="alert">${view.gone.renamed
        ? html`'${view.gone.name}' was renamed: <a href=${link("runs", { run: view.gone.renamed })}>open ${view.gone.renamed}</a>. What is shown here is what was loaded before.`
        : `'${view.gone.name}' was deleted. What is shown here is what was loaded before.`}</p>` : nothing}
      ${view.note && (view.note.bad || (entry && view.note.state === stateOf(entry))) ? html`<p class=${view.note.bad ? "error" : "hint"} role="status">${view.note.text}</p>` : nothing}
      ${entry?.problem ? html`<p class="error" role="alert">This run cannot be read: ${entry.problem}</p>` : nothing}
      ${view.problem && !entry?.problem ? html`<p class="error" role="alert">${view.problem.message}</p>` : nothing}
      ${summary?.stopped_early ? html`<p class="hint">This run was ${summary.stopped_early}.</p>` : nothing}
      ${summary?.state === "running" || (summary && !summary.stopped_early && summary.step < summary.steps) ? html`<progress class="whole" max=${summary.steps || 1}
        value=${Math.max(summary.step, first.lastStep)} aria-label="Progress"></progress>` : nothing}
      ${summary ? html`<dl class="facts card">${facts(summary).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>` : nothing}`, parts.head);
  }

  function drawBar() {
    const clocks = first.clock, others = (view.all ?? []).filter((name) => !runs.some((run) => run.name === name));
    render(!first.names.length ? nothing : html`<div class="row toolbar">
      <label class="field">x axis<select @change=${(event) => setView({ axis: event.target.value })}>
        ${Object.entries({ step: "steps", tokens: "tokens", time: "training time" }).map(([value, label]) => html`<option value=${value}
          ?selected=${view.axis === value} ?disabled=${(value === "tokens" && !clocks.tokens) || (value === "time" && !clocks.seconds)}>${label}</option>`)}</select></label>
      <label class="field">Smoothing<input type="range" min="0" max="1" step="0.05" .value=${String(view.smoothing)}
        aria-valuetext=${view.smoothing ? `${Math.round(view.smoothing * 100)}%` : "none"} @input=${(event) => setView({ smoothing: +event.target.value })}></label>
      <label class="check"><input type="checkbox" .checked=${view.logY} @change=${(event) => setView({ logY: event.target.checked })}> log y</label>
      <label class="check"><input type="checkbox" .checked=${view.logX} @change=${(event) => setView({ logX: event.target.checked }, true)}> log x</label>
      <label class="field">Compare with<select @focus=${loadAll} @pointerdown=${loadAll} @change=${(event) => event.target.value && compareWith([...names.slice(1), event.target.value])}>
        <option value="">${view.all && !others.length ? "no other run" : "choose a run"}</option>${others.map((name) => html`<option>${name}</option>`)}</select></label>
      ${names.slice(1).map((name) => html`<button class="quiet chip" aria-label=${`Remove ${name} from the comparison`}
        @click=${() => compareWith(names.slice(1).filter((each) => each !== name))}>${name} ×</button>`)}
      ${view.range ? html`<button class="quiet" @click=${() => zoom(null)}>Show all steps</button>` : nothing}
      <span class="soft small keys">Drag in a curve to zoom; double-click shows all.</span></div>`, parts.bar);
  }

  async function loadAll() {
    if (view.all) return;
    view.all = [];
    view.all = (await get("runs/list", { count: 500 }).catch(() => ({ runs: [] }))).runs.filter(({ problem }) => !problem).map(({ run }) => run);
    drawBar();
  }

  function drawBelow() {
    const { details, events, job, entry } = first;
    render(html`
      ${!first.names.length && entry && !entry.problem ? notice("No step has been logged yet", entry.summary?.state === "running"
        ? "The curves appear with the first one." : "This run was stopped before its first step.") : nothing}
      <div class="columns"><div>${panels.samples(events, view, drawBelow)}</div><div>${panels.happened(events, view, drawBelow)}</div></div>
      ${entry && !entry.problem ? panels.checkpoints(first.name, details, entry.summary?.reward != null) : nothing}
      ${panels.plan(details)}
      <div class="columns wide">${panels.settings(details, view, drawBelow)}${panels.origin(details)}</div>
      ${panels.job(job)}`, parts.below);
  }

  function draw() {
    if (left) return;
    drawHead();
    drawBar();
    drawBelow();
  }

  load();
  return {
    redraw: () => { draw(); charts?.draw(); },
    leave() {
      left = true;
      clearTimeout(timer);
      clearTimeout(detailsTimer);
      stop();
      charts?.destroy();
    },
  };
}
