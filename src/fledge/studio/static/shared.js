// What all pages share: JSON routes, server-sent events, parameters of the address, and small views.
import { html, render } from "./lib/lit-html.js";
export { html, render, nothing, svg } from "./lib/lit-html.js";

/** An error that the server described: `message` says what is wrong, and what to do. */
export class ServerError extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function answer(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    connected(false);
    throw new ServerError(0, "The studio does not answer. Is it still running? Start it again: fledge studio");
  }
  connected(true);
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new ServerError(response.status, body.error?.message ?? `The server answered ${response.status}`);
}

function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, values] of Object.entries(parameters)) {
    for (const value of Array.isArray(values) ? values : [values]) {
      if (value !== undefined && value !== null && (value !== "" || Array.isArray(values))) query.append(name, value);
    }
  }
  return `/api/${path}${query.size ? `?${query}` : ""}`;
}

/** GET /api/PATH?PARAMETERS → JSON */
export async function get(path, parameters, options = {}) {
  return (await answer(fetch(address(path, parameters), options))).json();
}

/** GET /api/PATH?PARAMETERS → the response, for binary bodies: `await (await getRaw(…)).arrayBuffer()` */
export async function getRaw(path, parameters, options = {}) {
  return answer(fetch(address(path, parameters), options));
}

/** POST a JSON body to /api/PATH → the response */
export async function post(path, body, options = {}) {
  const headers = { "Content-Type": "application/json" };
  return answer(fetch(address(path), { method: "POST", headers, body: JSON.stringify(body), ...options }));
}

/** The server-sent events in the body of a response: for await (const { event, data } of events(response)) */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      let event = "message", data = "";
      for (const line of text.slice(0, end).split("\n")) {
        if (line.startsWith("event:")) event = line.slice(6).trim();
        if (line.startsWith("data:")) data += line.slice(5);
      }
      if (data) yield { event, data: JSON.parse(data) };
    }
  }
}

/** Say at the foot of the page whether the studio answers. */
export function connected(yes) {
  const line = document.getElementById("connection");
  if (line) line.textContent = yes ? "" : "The studio does not answer. Trying again…";
}

/** The address of a page: link("microscope", { run: "hamlet@1000" }) → "#/microscope?run=hamlet%401000" */
export function link(page, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value != null && value !== ""));
  return `#/${page}${query.size ? `?${query}` : ""}`;
}

/** Change the parameters in the address without opening the page anew; not after another page was chosen. */
export function remember(page, parameters) {
  const shown = location.hash.replace(/^#\/?/, "").split("?")[0] || "runs";
  if (shown !== page) return;
  history.replaceState(null, "", link(page, parameters));
}

/** A command for the terminal, with a button that copies it. */
export const command = (text) => html`
  <div class="command"><pre tabindex="0">${text}</pre>${navigator.clipboard ? html`
    <button class="quiet small" aria-label="Copy the command" @click=${async ({ currentTarget: button }) => {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    }}>Copy</button>` : ""}</div>`;

/** What a page shows in place of its content: a headline, and what to do. */
export const notice = (headline, text = "", run = "") => html`
  <section class="notice"><h2>${headline}</h2>${text ? html`<p>${text}</p>` : ""}${run ? command(run) : ""}</section>`;

/** The whole of a page while the folder has no runs. `action`: what can be done here. */
export const noRuns = (title, text = "", action = "") => html`
  <h1>${title}</h1>
  <section class="notice welcome">
    <img src="/static/icon.svg" alt="" width="56" height="56">
    <h2>There are no runs yet</h2>
    <p>${text} Train a model in a terminal, in the folder where the studio was started. It appears here while it learns.</p>
    ${action}
    <dl>
      <dt>A first model, in about three minutes</dt><dd>${command("fledge demo")}</dd>
      <dt>A model of your own text</dt><dd>${command("fledge train my-text.txt")}</dd>
      <dt>Runs that are in another folder</dt><dd>${command("fledge studio --runs FOLDER")}</dd>
    </dl>
  </section>`;

/** Show an error in words, where the content would be. */
export function showError(root, error) {
  if (error.name === "AbortError") return;
  render(notice("This did not work", error.message), root);
}

export const number = (value, digits = 4) =>
  value == null || Number.isNaN(value) ? "–"
    : Number.isInteger(value) ? value.toLocaleString("en")
    : Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits });

export function duration(seconds) {
  if (seconds == null) return "–";
  const s = Math.round(seconds), h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
  return h ? `${h} h ${m} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
}

/** A value of the style sheet, for canvases: color("--ink") */
export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The newest run that learned from text; an aligned one where there is no other. */
export const newestOnText = (runs) => runs.findLast(({ method }) => method === "pretrain") ?? runs.at(-1);

/** A select of all runs; `choose` gets the name. Its options are RunSummary objects of /api/runs. */
export const runPicker = (runs, chosen, choose, label = "Run") => html`
  <label class="field">${label}
    <select @change=${(event) => choose(event.target.value)}>
      ${[...runs].reverse().map((run) => html`
        <option value=${run.run} ?selected=${run.run === chosen}>${run.run} · ${run.state}</option>`)}
    </select></label>`;
