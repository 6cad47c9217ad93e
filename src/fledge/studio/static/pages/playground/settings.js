// How the next token is drawn: all settings of sampling, with what each does.
import { html, nothing } from "../../shared.js";

const DEFAULTS = {
  tokens: 200, greedy: false, temperature: 0.8, top_k: "", top_p: "", min_p: "", repetition_penalty: 1,
  presence_penalty: 0, frequency_penalty: 0, stop: "", seed: 1, fresh: true, alternatives: 8,
  past_context: "reread",
};
const FIELDS = [ // name, label, attributes of the input, help, whether greedy ignores it
  ["tokens", "Tokens at most", { min: 1, max: 4000, step: 1 }, "A token is a character, a word or a part of one."],
  ["temperature", "Temperature", { min: 0, max: 5, step: 0.05 },
    "1 is the model as it is. Lower: safer, more repetitive. Higher: more daring.", true],
  ["top_p", "Top-p", { min: 0.01, max: 1, step: 0.01, placeholder: "off" },
    "Only the most likely tokens, up to this probability together: 0.9 is usual.", true],
  ["top_k", "Top-k", { min: 1, step: 1, placeholder: "off" }, "Only the k most likely tokens: 40 is usual.", true],
];
const MORE = [
  ["min_p", "Min-p", { min: 0, max: 1, step: 0.01, placeholder: "off" },
    "Only tokens at least this fraction as likely as the best one: 0.05 is usual.", true],
  ["repetition_penalty", "Repetition penalty", { min: 0.01, max: 100, step: 0.05 },
    "Above 1: whatever occurred becomes less likely. 1 is none, 1.1 is usual."],
  ["presence_penalty", "Presence penalty", { min: -1000, max: 1000, step: 0.1 },
    "Subtracted once from every token that was written. 0 is none."],
  ["frequency_penalty", "Frequency penalty", { min: -1000, max: 1000, step: 0.1 },
    "Subtracted each time that a token was written. 0 is none."],
  ["alternatives", "Alternatives shown", { min: 1, max: 50, step: 1 }, "Rivals of each token, the most likely ones."],
];

const PAST_CONTEXT = [["reread", "Read the newer half again"], ["slide", "Slide by one token"]];

export const settings = { ...DEFAULTS };

const number = (value, fallback) => value === "" || Number.isNaN(Number(value)) ? fallback : Number(value);

/** A new seed for a new text, unless it is kept. */
export function renewSeed() {
  if (settings.fresh) settings.seed = Math.floor(Math.random() * 1e6);
}

/** As the server takes them. */
export function sampling() {
  const { greedy, stop, fresh, tokens, seed, alternatives, top_k, top_p, min_p, past_context, ...rest } = settings;
  const numbers = Object.fromEntries(Object.entries(rest).map(([name, value]) => [name, number(value, DEFAULTS[name])]));
  return {
    ...numbers, past_context,
    tokens: Math.round(number(tokens, DEFAULTS.tokens)),
    seed: Math.round(number(seed, DEFAULTS.seed)),
    alternatives: Math.round(number(alternatives, DEFAULTS.alternatives)),
    top_k: number(top_k, null), top_p: number(top_p, null), min_p: number(min_p, null),
    stop: stop.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n")),
    ...(greedy ? { temperature: 0 } : {}),
  };
}

function field([name, label, attributes, help, byChance], draw) {
  const { min = "", max = "", step = "", placeholder = "" } = attributes;
  return html`
    <div class="setting">
      <label for="setting-${name}">${label}</label>
      <input id="setting-${name}" type="number" inputmode="decimal" min=${min} max=${max} step=${step}
        placeholder=${placeholder} .value=${String(settings[name])} ?disabled=${byChance && settings.greedy}
        aria-describedby="help-${name}" @input=${(event) => { settings[name] = event.target.value; draw(); }}>
      <p id="help-${name}" class="small soft">${help}</p>
    </div>`;
}

export function settingsPanel(draw) {
  const flag = (name) => (event) => { settings[name] = event.target.checked; draw(); };
  const changed = Object.keys(DEFAULTS).some((name) => name !== "seed" && String(settings[name]) !== String(DEFAULTS[name]));
  return html`
    <details class="card settings" ?open=${matchMedia("(min-width: 1100px)").matches}>
      <summary><h2>Sampling</h2></summary>
      <label class="switch"><input type="checkbox" .checked=${settings.greedy} @change=${flag("greedy")}>
        Greedy: always the most likely token</label>
      ${FIELDS.map((each) => field(each, draw))}
      <div class="setting">
        <label for="setting-seed">Seed</label>
        <input id="setting-seed" type="number" min="0" step="1" .value=${String(settings.seed)}
          aria-describedby="help-seed"
          @input=${(event) => { settings.seed = event.target.value; settings.fresh = false; draw(); }}>
        <label class="switch small" id="help-seed"><input type="checkbox" .checked=${settings.fresh}
          @change=${flag("fresh")}> A new one for each text</label>
      </div>
      <details class="more"><summary>Penalties and more</summary>
        ${MORE.map((each) => field(each, draw))}
        <div class="setting wide"><label for="setting-stop">Stop at</label>
          <textarea id="setting-stop" rows="2" aria-describedby="help-stop" .value=${settings.stop}
            @input=${(event) => { settings.stop = event.target.value; }}></textarea>
          <p id="help-stop" class="small soft">One text a line; \\n is a line break. The answer ends before it.</p></div>
        <div class="setting wide"><label for="setting-past-context">Past the context</label>
          <select id="setting-past-context" aria-describedby="help-past-context"
            @change=${(event) => { settings.past_context = event.target.value; draw(); }}>
            ${PAST_CONTEXT.map(([value, label]) => html`
              <option value=${value} .selected=${value === settings.past_context}>${label}</option>`)}</select>
          <p id="help-past-context" class="small soft">When a text, not a chat, is longer than the context. To slide
            costs a whole context for each token.</p></div>
      </details>
      ${changed ? html`<button class="quiet small" @click=${() => { Object.assign(settings, DEFAULTS); draw(); }}
        >Back to the defaults</button>` : nothing}
    </details>`;
}
