// The form that starts `fledge train`. What it shows is the command that will run; the command's own code checks it.
import { html, render, nothing, get, post, link, command } from "../shared.js";

const PAUSE_MS = 350; // after the last key, until the command is checked
const ADVICE = [["train.steps", "1000"], ["model.n_layer", "6"], ["model.n_embd", "256"], ["train.batch", "32"], ["optim.lr", "1e-3"]];
let kept = null; // what was typed, while other pages are shown

export async function openForm(root, parameters) {
  const [choices, runs] = await Promise.all([get("runs/choices"), get("runs")]);
  const form = kept ??= { text: "", preset: "", minutes: "", name: "", init: "", settings: [] };
  if (parameters.init) form.init = parameters.init;
  const page = { checked: null, error: null, busy: false };
  let timer = 0, left = false, turn = 0;
  const help = new Map(choices.settings.map(({ name, help }) => [name, help]));

  const body = () => ({
    words: [form.preset, ...split(form.text)].filter(Boolean),
    settings: Object.fromEntries(form.settings.filter(({ name }) => name.trim()).map(({ name, value }) => [name.trim(), value.trim()])),
    minutes: form.minutes.trim(), name: form.name.trim(), init: form.init,
  });
  const isEmpty = () => !form.text.trim() && !form.preset && !form.init;

  function change(part, value) {
    form[part] = value;
    later();
  }

  function later() {
    clearTimeout(timer);
    timer = setTimeout(check, PAUSE_MS);
    draw();
  }

  async function check() {
    const now = ++turn;
    Object.assign(page, { checked: null, error: null });
    if (!isEmpty()) {
      try {
        page.checked = await (await post("runs/check", body())).json();
      } catch (error) {
        page.error = error;
      }
    }
    if (now === turn) draw();
  }

  async function start(event) {
    event.preventDefault();
    clearTimeout(timer);
    page.busy = true;
    draw();
    try {
      const started = await (await post("runs/train", body())).json();
      kept = null;
      location.hash = link("runs", { run: started.run }).slice(1);
    } catch (error) {
      Object.assign(page, { error, busy: false, checked: null });
      draw();
    }
  }

  const field = (label, part, options = {}) => html`<label class=${`field ${options.wide ? "wide" : ""}`}>${label}
    <input name=${part} .value=${form[part]} placeholder=${options.placeholder ?? ""} list=${options.list ?? nothing} autocomplete="off"
      spellcheck="false" @input=${(event) => change(part, event.target.value)}>
    ${options.hint ? html`<span class="small">${options.hint}</span>` : nothing}</label>`;

  const settingRow = (setting, place) => html`<div class="setting">
    <label class="field">Setting<input class="mono" list="settings" placeholder="section.key" .value=${setting.name} spellcheck="false"
      @input=${(event) => { setting.name = event.target.value; later(); }}></label>
    <label class="field">Value<input class="mono" .value=${setting.value} placeholder=${ADVICE[place % ADVICE.length][1]} spellcheck="false"
      @input=${(event) => { setting.value = event.target.value; later(); }}></label>
    <button type="button" class="quiet" aria-label=${`Remove ${setting.name || "this setting"}`}
      @click=${() => { form.settings.splice(place, 1); later(); }}>Remove</button>
    <p class="small soft">${help.get(setting.name.trim()) ?? nothing}</p></div>`;

  function draw() {
    if (left) return;
    render(html`
      <p class="crumbs"><a href=${link("runs")}>Runs</a></p>
      <h1>Train a model</h1>
      <p class="lead">A text alone is enough: size and length are then chosen for this machine. The training goes on when the studio is closed.</p>
      <form class="train-form" @submit=${start}>
        <section class="card"><h2>What it learns from</h2><div class="fields">
          ${field("Text", "text", { wide: true, list: "corpora", placeholder: "my-notes/  book.txt  https://…  shakespeare",
            hint: "Files, folders or patterns on the machine of the studio, URLs, or a named corpus. Several, too: with spaces between them." })}
          <label class="field">Preset<select name="preset" @change=${(event) => change("preset", event.target.value)}>
            <option value="">chosen for the text</option>
            ${choices.presets.map((name) => html`<option ?selected=${name === form.preset}>${name}</option>`)}</select></label>
          <label class="field">Start from the weights of<select name="init" @change=${(event) => change("init", event.target.value)}>
            <option value="">random weights</option>
            ${[...runs].reverse().map(({ run }) => html`<option ?selected=${run === form.init}>${run}</option>`)}</select></label>
        </div></section>
        <section class="card"><h2>Time and name</h2><div class="fields">
          ${field("Minutes", "minutes", { placeholder: form.preset ? "as in the preset" : "5", hint: "Size and steps are chosen to use this time well." })}
          ${field("Name of the run", "name", { placeholder: page.checked?.run ?? "as the text or preset" })}
        </div></section>
        <section class="card"><h2>Settings</h2>
          ${form.settings.length ? form.settings.map(settingRow) : html`<p class="soft small">All settings are those of the preset. Add one to change it.</p>`}
          <button type="button" class="quiet" @click=${() => { form.settings.push({ name: "", value: "" }); draw(); }}>Add a setting</button>
        </section>
        <section class="card"><h2>The command</h2>
          ${page.checked ? command(page.checked.command) : page.error ? html`<p class="error" role="alert">${page.error.message}</p>`
            : html`<p class="soft">${isEmpty() ? "Give a text or a preset." : "Checking…"}</p>`}
          <div class="row"><button ?disabled=${page.busy || isEmpty()}>${page.busy ? "Starting…" : "Start training"}</button></div>
        </section>
        <datalist id="corpora">${choices.corpora.map((name) => html`<option value=${name}></option>`)}</datalist>
        <datalist id="settings">${choices.settings.map(({ name }) => html`<option value=${name}></option>`)}</datalist>
      </form>`, root);
  }

  draw();
  check();
  return () => { left = true; clearTimeout(timer); };
}

/** Words, as a shell splits them: quotes keep spaces. */
function split(text) {
  return [...text.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map(([, double, single, plain]) => double ?? single ?? plain);
}

