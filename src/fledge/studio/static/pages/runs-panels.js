// What stands below the curves of a run: samples, what happened, checkpoints, plan, settings, origin.
import { html, nothing, link, number, duration } from "../shared.js";
import { count } from "./runs-list.js";

const HIDDEN_EVENTS = new Set(["Metrics", "Sample", "Saved", "Activity"]);

export function bytes(value) {
  for (const unit of ["B", "KB", "MB", "GB"]) {
    if (value < 999.5) return `${value < 10 && unit !== "B" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

/** An event in words: { step, kind: bad | warn | soft, title, text }; null where it is nothing to tell. */
export function describe(event) {
  const at = number(event.step);
  switch (event.event) {
    case "Anomaly": {
      const where = event.origin ? `first in ${event.origin}; ` : "";
      const numbers = `loss ${event.loss === null ? "not finite" : number(event.loss)}, gradient norm ${event.grad_norm === null ? "not finite" : number(event.grad_norm)}`;
      return { kind: "bad", title: "Anomaly", text: `${event.reason}; ${where}${numbers}; samples ${number(event.samples[0])} to ${number(event.samples[1])}` };
    }
    case "RolledBack":
      return { kind: "bad", title: "Rolled back", step: event.step, text: `from step ${number(event.failed_step)} to the checkpoint of step ${at}: ${event.reason}; batches ${number(event.skipped_batches[0])} to ${number(event.skipped_batches[1])} are skipped` };
    case "StoppedEarly":
      return { kind: "good", title: "Stopped early", text: `no better ${event.measure} in ${count(event.evaluations)} ${event.evaluations === 1 ? "evaluation" : "evaluations"}; the best is ${number(event.best)} at step ${number(event.best_step)}` };
    case "StepsPlanned": {
      if (event.steps === event.before || (event.seconds_left > 0 && Math.abs(event.steps - event.before) < 0.1 * event.before)) return null;
      const why = event.seconds_left > 0 ? `${duration(event.seconds_left)} are left for them` : "the time is up";
      return { kind: "soft", title: "Length changed", text: `${count(event.steps)} steps in all instead of ${count(event.before)}: ${why}` };
    }
    case "CompileChecked":
      return event.ok ? null : { kind: "warn", title: "Not compiled", text: event.reason };
    case "Started":
      return event.step ? { kind: "soft", title: "Resumed", text: `after step ${at}, on ${event.device} in ${event.dtype}` }
        : { kind: "soft", title: "Started", text: `${count(event.parameters)} parameters, on ${event.device} in ${event.dtype}${event.compiled ? ", compiled" : ""}` };
    case "Ended":
      return { kind: event.reason === "failed" ? "bad" : event.reason === "finished" ? "good" : "warn", title: `Ended: ${event.reason}`,
        text: `after ${duration(event.seconds)}${event.peak_memory ? `, ${bytes(event.peak_memory)} of memory at the peak` : ""}` };
    case "Notice": {
      const warning = event.text.startsWith("warning: ");
      return { kind: warning ? "warn" : "soft", title: warning ? "Warning" : "Note", text: event.text.replace(/^warning: /, "") };
    }
    default:
      return HIDDEN_EVENTS.has(event.event) ? null : { kind: "soft", title: event.event, text: "" };
  }
}

/** The marks in the curves: what went wrong, and where training was taken up again. */
export function marksOf(events) {
  return events.map((event) => ({ event, told: describe(event) }))
    .filter(({ event, told }) => told && (told.kind === "bad" || told.kind === "warn" || (event.event === "Started" && event.step)))
    .filter(({ event }) => event.event !== "Ended" || event.reason === "failed")
    .map(({ event, told }) => ({ step: event.step, kind: told.kind, text: `${told.title} at step ${number(event.step)}` }));
}

const time = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : "");

export function happened(events, view, redraw) {
  const told = events.map((event) => ({ event, told: describe(event) })).filter(({ told }) => told);
  if (!told.length) return nothing;
  const shown = view.allEvents ? told : told.slice(-12);
  return html`<section class="card"><h2>What happened</h2>
    <ol class="happened">${[...shown].reverse().map(({ event, told }) => html`<li class=${told.kind}>
      <b>${told.title}</b> <span class="soft small">step ${number(event.step)}${event.time ? html` · ${time(event.time)}` : nothing}</span>
      ${told.text ? html`<div class="small">${told.text}</div>` : nothing}</li>`)}</ol>
    ${told.length > shown.length ? html`<button class="quiet small" @click=${() => { view.allEvents = true; redraw(); }}>
      Show all ${told.length}</button>` : nothing}</section>`;
}

export function samples(events, view, redraw) {
  const found = events.filter((event) => event.event === "Sample");
  if (!found.length) return nothing;
  const at = Math.min(view.sample ?? found.length - 1, found.length - 1), sample = found[at];
  const choose = (place) => { view.sample = place === found.length - 1 ? null : place; redraw(); };
  return html`<section class="card samples"><div class="head"><h2>What it writes</h2>
    <span class="soft small">step ${number(sample.step)}${sample.reward == null ? nothing : html` · reward ${number(sample.reward)}`}</span></div>
    ${found.length > 1 ? html`<div class="slider"><button class="quiet small" aria-label="Earlier sample" ?disabled=${at === 0} @click=${() => choose(at - 1)}>‹</button>
      <input type="range" min="0" max=${found.length - 1} .value=${String(at)} aria-label="Samples through time"
        aria-valuetext=${`step ${sample.step}`} @input=${(event) => choose(+event.target.value)}>
      <button class="quiet small" aria-label="Later sample" ?disabled=${at === found.length - 1} @click=${() => choose(at + 1)}>›</button></div>` : nothing}
    <div class="sample" tabindex="0" dir="auto"><span class="prompt">${sample.prompt}</span>${sample.text}</div></section>`;
}

/** rewarded: the reward of held-out answers was measured; its negative stands for the loss. */
export function checkpoints(run, details, rewarded) {
  if (!details?.checkpoints.length) {
    return html`<section class="card"><h2>Checkpoints</h2><p class="soft">None yet: the first one is saved with the first evaluation.</p></section>`;
  }
  return html`<section class="card"><h2>Checkpoints</h2><div class="scroll tallest" tabindex="0" role="region" aria-label="Checkpoints"><table>
    <thead><tr><th class="number">Step</th><th class="number">${rewarded ? "Reward" : "Validation loss"}</th><th>Kind</th><th class="number">Size</th><th>Open in</th></tr></thead>
    <tbody>${details.checkpoints.map((each) => html`<tr><td class="number">${number(each.step)}</td>
      <td class="number">${number(rewarded && each.val_loss !== null ? 0 - each.val_loss : each.val_loss)}</td>
      <td>${each.problem ? html`<span class="tag bad">damaged</span> <span class="small soft">${each.problem}</span>` : html`
        ${each.best ? html`<span class="tag good">best</span> ` : nothing}${each.latest ? html`<span class="tag">latest</span> ` : nothing}
        <span class="small soft">${each.weights_only ? "weights only" : "training can continue"}</span>`}</td>
      <td class="number">${bytes(each.bytes)}</td>
      <td>${each.problem ? nothing : html`<a href=${link("playground", { run: `${run}@${each.step}` })}>Playground</a> ·
        <a href=${link("microscope", { run: `${run}@${each.step}` })}>Microscope</a>`}</td></tr>`)}</tbody></table></div></section>`;
}

const PLAN = {
  seconds: ["Time of the whole run", duration], step_seconds: ["Time of a step", (value) => `${number(value * 1000, 3)} ms`],
  tokens_per_second: ["Tokens per second", (value) => number(Math.round(value))], memory: ["Memory at the peak", bytes],
  bits_per_byte: ["Bits per byte at the end", (value) => number(value, 4)],
};

export function plan(details) {
  if (!details?.plan) return nothing;
  const value = (show, amount) => (amount == null ? html`<span class="soft">–</span>` : show(amount));
  return html`<section class="card"><h2>Plan and reality</h2><table>
    <thead><tr><th></th><th class="number">Forecast</th><th class="number">Measured</th><th class="number">Forecast is off by</th></tr></thead>
    <tbody>${Object.entries(details.plan).filter(([name]) => PLAN[name]).map(([name, row]) => html`<tr><td>${PLAN[name][0]}</td>
      <td class="number">${value(PLAN[name][1], row.predicted)}${row.low == null ? nothing : html`
        <div class="small soft">${number(row.low, 3)} to ${number(row.high, 3)}</div>`}</td>
      <td class="number">${value(PLAN[name][1], row.measured)}</td>
      <td class="number">${row.difference_percent == null ? html`<span class="soft">–</span>`
        : `${row.difference_percent > 0 ? "+" : "−"}${Math.abs(row.difference_percent).toFixed(0)}%`}</td></tr>`)}</tbody></table></section>`;
}

export function settings(details, view, redraw) {
  if (!details) return nothing;
  const differs = details.settings.filter((each) => each.preset !== null), find = (view.findSetting ?? "").toLowerCase();
  const all = view.allSettings || !!find || !differs.length;
  const shown = (all ? details.settings : differs).filter((each) => each.name.includes(find));
  return html`<section class="card"><div class="head"><h2>Settings</h2>
    <span class="soft small">${details.preset ? `made from the preset ${details.preset}` : details.method === "pretrain" ? nothing : `preset of ${details.method}`}</span></div>
    <div class="row filters"><label class="field">Search<input type="search" placeholder="optim.lr" .value=${view.findSetting ?? ""}
      @input=${(event) => { view.findSetting = event.target.value; redraw(); }}></label>
      ${differs.length && !find ? html`<button class="quiet" @click=${() => { view.allSettings = !view.allSettings; redraw(); }}>
        ${all ? `Only the ${differs.length} that differ from the preset` : `All ${details.settings.length}`}</button>` : nothing}</div>
    <div class="scroll tallest" tabindex="0" role="region" aria-label="Settings"><table class="settings">
      <thead><tr><th>Setting</th><th>Value</th><th>In the preset</th></tr></thead>
      <tbody>${shown.map((each) => html`<tr class=${each.preset === null ? "" : "differs"}><td class="mono">${each.name}</td><td class="mono">${each.value}</td>
        <td class="mono soft">${each.preset ?? nothing}</td></tr>`)}</tbody></table></div></section>`;
}

export function origin(details) {
  if (!details) return nothing;
  return html`<section class="card"><h2>Versions and hashes</h2>
    ${details.changed_files.length ? html`<p class="warning">Edited since the run was made: ${details.changed_files.join(", ")}</p>` : nothing}
    <div class="scroll tallest" tabindex="0" role="region" aria-label="Versions and hashes"><dl class="origin"><dt>folder</dt><dd>${details.folder}</dd>
    ${Object.entries(details.origin).map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl></div></section>`;
}

export function job(state) {
  if (!state) return nothing;
  return html`<section class="card"><div class="head"><h2>Output of the command</h2>
    <span class=${`tag ${state.running ? "good" : state.error ? "bad" : ""}`}>${state.running ? "running" : state.error ? "failed" : "ended"}</span></div>
    ${state.error ? html`<p class="error">${state.error}</p>` : nothing}
    <pre class="output" tabindex="0" aria-label="Output">${`$ ${state.command}\n\n${state.output}`}</pre></section>`;
}
