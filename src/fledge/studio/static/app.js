// The frame of the studio: navigation, dark and light, and the page that the address names.
//
// A page is a module in pages/ with
//   export const title = "Microscope";
//   export async function open(root, parameters) { …; return () => { /* leave: stop timers and streams */ } }
// Its style sheet is pages/NAME.css. Addresses are #/NAME?run=hamlet%401000&…
import { html, render, link, showError, ServerError } from "./shared.js";
import { svg } from "./lib/lit-html.js";

const icon = (path) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true">${svg`<path d=${path} />`}</svg>`;

const PAGES = [
  ["runs", "Runs", "M4 4v16h16M8 15l4-5 3 3 5-7"],
  ["playground", "Playground", "M5 5h14a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1h-7l-4 4v-4H5a1 1 0 0 1-1-1V6a1 1 0 0 1 1-1z"],
  ["microscope", "Microscope", "M2.5 12S6 5.5 12 5.5 21.5 12 21.5 12 18 18.5 12 18.5 2.5 12 2.5 12zM12 9a3 3 0 1 1 0 6 3 3 0 0 1 0-6z"],
  ["tokenizer", "Tokenizer", "M3 7.5h6v9H3zM11.5 7.5h3v9h-3zM17 7.5h4v9h-4z"],
  ["data", "Data", "M4 6c0-1.7 3.6-3 8-3s8 1.3 8 3-3.6 3-8 3-8-1.3-8-3zM4 6v12c0 1.7 3.6 3 8 3s8-1.3 8-3V6M4 12c0 1.7 3.6 3 8 3s8-1.3 8-3"],
  ["origin", "Origin", "M18 10V7l-4-4H6a1 1 0 0 0-1 1v16a1 1 0 0 0 1 1h5M16 13a3.5 3.5 0 1 1 0 7 3.5 3.5 0 0 1 0-7zM18.5 19l2.5 2.5"],
];
const SUN = "M12 7.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M5 19l1.4-1.4M17.6 6.4 19 5";
const MOON = "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z";
const BRACES = "M9 4c-3 0-2.5 2-2.5 4S6 12 4 12c2 0 2.5 2 2.5 4S6 20 9 20M15 4c3 0 2.5 2 2.5 4s.5 4 2.5 4c-2 0-2.5 2-2.5 4s.5 4-2.5 4";

let leave = () => {};
let opening = 0;
let shown = "";

function parse() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const known = PAGES.some(([name]) => name === path);
  return { name: known ? path : "runs", parameters: Object.fromEntries(new URLSearchParams(query)) };
}

function showNavigation() {
  const { name: current, parameters } = parse();
  const other = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  const run = parameters.run ? { run: parameters.run } : {};
  const choose = () => document.dispatchEvent(new CustomEvent("choose-theme", { detail: other }));
  render(html`
    <a class="brand" href=${link("runs")}><img src="/static/icon.svg" alt="" width="26" height="26"><span>fledge</span></a>
    <nav aria-label="Pages">${PAGES.map(([name, title, path]) => html`
      <a href=${link(name, name === "runs" ? {} : run)} aria-current=${name === current ? "page" : "false"}>
        ${icon(path)}<span>${title}</span></a>`)}
    </nav>
    <div class="foot">
      <a href="/api" title="The JSON routes, for notebooks">${icon(BRACES)}<span>JSON routes</span></a>
      <button class="bare" @click=${choose}>${icon(other === "dark" ? MOON : SUN)}
        <span>${other === "dark" ? "Dark" : "Light"}</span></button>
    </div>`, document.getElementById("navigation"));
}

/** The style sheet of the page; those of the pages before are switched off, so that class names may be the same. */
function setStyle(name) {
  const styles = [...document.querySelectorAll("link[data-page]")];
  for (const style of styles) style.disabled = style.dataset.page !== name;
  if (styles.some((style) => style.dataset.page === name)) return;
  const style = document.createElement("link");
  Object.assign(style, { rel: "stylesheet", href: `/static/pages/${name}.css` });
  style.dataset.page = name;
  document.head.append(style);
}

async function load(name) {
  try {
    return await import(`./pages/${name}.js`);
  } catch (error) {
    if (error instanceof SyntaxError) throw error;
    throw new ServerError(0, "The studio does not answer. Is it still running? Start it again: fledge studio");
  }
}

async function show() {
  const { name, parameters } = parse(), turn = ++opening, main = document.getElementById("main");
  leave();
  leave = () => {};
  showNavigation();
  setStyle(name);
  const root = document.createElement("div");
  root.className = `page page-${name}`;
  const loading = document.createElement("p");
  Object.assign(loading, { className: "loading", textContent: "Loading…" }); // shown while the page is empty
  main.replaceChildren(root, loading);
  if (shown && shown !== name) { // chosen in the navigation: the keyboard goes on in the page, at its top
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  shown = name;
  try {
    const page = await load(name);
    if (turn !== opening) return;
    document.title = `${page.title} · fledge studio`;
    const end = (await page.open(root, parameters)) ?? (() => {});
    if (turn === opening) leave = end;
    else end();
  } catch (error) {
    if (turn === opening) showError(root, error);
  }
}

const first = new URL(location.href);
if (first.searchParams.has("token")) { // the cookie has it now
  first.searchParams.delete("token");
  history.replaceState(null, "", first);
}
document.addEventListener("theme", showNavigation);
addEventListener("hashchange", show);
show();
