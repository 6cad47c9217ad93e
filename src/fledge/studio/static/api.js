// The page at /api: the JSON routes, from the server's own description.
import { html, render, nothing, command, notice } from "./shared.js";

const example = `import httpx
studio = httpx.Client(base_url="${location.origin}/api", headers={"Authorization": "Bearer TOKEN"})
studio.get("/runs").json()`;

/* A schema in one word: text, whole number, list of RunSummary */
function type(schema) {
  if (!schema) return "JSON";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(type).filter((name) => name !== "null").join(" or ");
  if (schema.type === "array") return `list of ${type(schema.items)}`;
  return { string: "text", integer: "whole number", number: "number", boolean: "true or false" }[schema.type] ?? schema.type ?? "JSON";
}

const rows = (fields) => html`
  <div class="scroll" tabindex="0" role="region" aria-label="Fields"><table><tbody>${fields.map(([name, schema, required]) => html`
    <tr><td><code>${name}</code></td><td class="soft">${type(schema)}${required ? ", required" : ""}</td>
      <td>${schema.description ?? ""}</td></tr>`)}</tbody></table></div>`;

function body(route, schemas) {
  const schema = route.requestBody?.content?.["application/json"]?.schema;
  const fields = schemas[type(schema)]?.properties;
  if (!schema) return nothing;
  if (!fields) return html`<p>JSON body: ${type(schema)}</p>`;
  const required = schemas[type(schema)].required ?? [];
  return html`<h3>JSON body</h3>${rows(Object.entries(fields).map(([name, each]) => [name, each, required.includes(name)]))}`;
}

/* `code` in a docstring */
const words = (text) => text.split(/`+([^`]+)`+/).map((part, i) => (i % 2 ? html`<code>${part}</code>` : part));

function section({ path, method, route }, schemas) {
  const answer = route.responses?.["200"]?.content?.["application/json"]?.schema;
  return html`
    <section class="card route" id="${method}-${path.replace(/\W+/g, "-")}">
      <h2><span class="tag ${method === "get" ? "good" : "warn"}">${method.toUpperCase()}</span> <code>${path}</code></h2>
      <p class="lines">${words(route.description ?? route.summary)}</p>
      ${route.parameters?.length ? html`<h3>Parameters</h3>
        ${rows(route.parameters.map(({ name, schema, required, description }) => [name, { description, ...schema }, required]))}` : nothing}
      ${body(route, schemas)}
      ${answer ? html`<p class="soft small">Answer: ${type(answer)}</p>` : nothing}
    </section>`;
}

async function open() {
  const main = document.getElementById("main"), response = await fetch("/api/openapi.json");
  if (response.status === 401) return void location.assign("/");
  if (!response.ok) return void render(notice("This did not work", `The server answered ${response.status}.`), main);
  const { paths, components } = await response.json();
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => ({ path, method, route, page: route.tags?.[0] ?? "other" })));
  const pages = [...new Set(routes.map(({ page }) => page))];
  render(html`
    <p><a href="/">← Back to the studio</a></p>
    <h1>JSON routes</h1>
    <p class="lead">What the pages of the studio read, for notebooks and scripts. The token is the one in the address that
      <code>fledge studio</code> printed. For programs: <a href="/api/openapi.json">openapi.json</a>.</p>
    ${command(example)}
    ${pages.map((page) => html`
      <h2 class="tag-title">${page[0].toUpperCase() + page.slice(1)}</h2>
      ${routes.filter((each) => each.page === page).map((each) => section(each, components?.schemas ?? {}))}`)}`, main);
}
open();
