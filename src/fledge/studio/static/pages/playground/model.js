// Which model writes: a run and one of its checkpoints.
import { get, html, nothing, number } from "../../shared.js";

export class ModelChoice {
  run = "";
  selector = "best"; // or latest, or a step
  about = null; // of /api/playground/model
  error = "";
  #turn = 0;

  constructor(changed) { this.changed = changed; }

  get reference() { return this.run && `${this.run}@${this.selector}`; }

  /** reference: NAME or NAME@SELECTOR */
  async choose(reference) {
    const [, name, selector] = /^(.*?)(?:@(best|latest|\d+))?$/s.exec(reference);
    const turn = ++this.#turn;
    Object.assign(this, { run: name, selector: selector ?? "best", error: "" });
    if (this.about?.run !== name) this.about = null;
    this.changed();
    try {
      const about = await get("playground/model", { run: this.reference });
      if (turn !== this.#turn) return;
      this.about = about;
      this.error = about.problem;
    } catch (error) {
      if (turn !== this.#turn) return;
      this.error = error.message;
    }
    this.changed();
  }
}

const compact = (value) => value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 3 });

export function modelPicker(model, runs, label, remove = null) {
  const { about } = model;
  const steps = about?.steps ?? [];
  const names = runs.map((run) => run.run);
  if (model.run && !names.includes(model.run)) names.push(model.run);
  return html`
    <div class="model" role="group" aria-label=${label}>
      <label class="field">${label}
        <select @change=${(event) => model.choose(event.target.value)}>${[...names].reverse().map((name) => html`
          <option value=${name} .selected=${name === model.run}>${name}</option>`)}</select></label>
      <label class="field">Checkpoint
        <select @change=${(event) => model.choose(`${model.run}@${event.target.value}`)}>
          <option value="best" .selected=${model.selector === "best"}>best${about?.best_step != null
            ? ` (step ${number(about.best_step)})` : ""}</option>
          <option value="latest" .selected=${model.selector === "latest"}>latest</option>
          ${[...steps].reverse().map((step) => html`
            <option value=${step} .selected=${model.selector === String(step)}>step ${number(step)}</option>`)}
        </select></label>
      ${about ? html`<p class="small soft facts">${compact(about.parameters)} parameters, context
        ${number(about.context)}, ${number(about.vocab_size)} tokens (${about.tokenizer})${about.method === "pretrain"
          ? "" : `, ${about.method}`}</p>` : nothing}
      ${remove ? html`<button class="quiet small" @click=${remove}>Remove</button>` : nothing}
    </div>`;
}
