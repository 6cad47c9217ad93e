// The tree of branches as a list: select, compare, delete; and the pane that shows one text.
import { html, link, nothing, number } from "../../shared.js";
import { tokenText, visible, visibleToken } from "./tokens.js";
import { sharedLength, textOf } from "./tree.js";

const SNIPPET = 60, MAX_LINK = 1500; // characters
const REASONS = { length: "reached the limit", stop: "ended by itself" };
const STATES = { running: "writing…", stopped: "stopped", failed: "failed" };

function depth(branch) { return branch.parent ? depth(branch.parent) + 1 : 0; }

const replaced = ({ parent, at }) => parent.tokens[at] ? visibleToken(parent.tokens[at]) : "end";

function snippet(branch) {
  const start = branch.parent ? branch.at + 1 : branch.prompt;
  return textOf(branch.tokens.slice(start)).replace(/\s+/g, " ").slice(0, SNIPPET);
}

/** All branches; nothing where there is one only. */
export function branchList(tree) {
  if (tree.branches.length < 2) return nothing;
  const keys = (event, branch) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Delete") tree.remove(branch);
    else if (step) {
      const buttons = [...event.currentTarget.closest("ul").querySelectorAll(".branch-name")];
      buttons[buttons.indexOf(event.currentTarget) + step]?.focus();
    } else return;
    event.preventDefault();
  };
  return html`
    <section class="branches" aria-label="Branches">
      <h3>Branches <span class="soft">${tree.branches.length}</span></h3>
      <ul>${tree.branches.map((branch) => html`
        <li class="depth-${Math.min(depth(branch), 6)} ${branch === tree.selected ? "selected" : ""}">
          <button class="branch-name" aria-current=${branch === tree.selected} @click=${() => tree.select(branch)}
            @keydown=${(event) => keys(event, branch)}>
            <span class="tag">${branch.number}</span>
            <span class="mono">${branch.parent ? html`${replaced(branch)} → <b>${visibleToken(branch.tokens[branch.at])}</b>`
              : "start"}</span>
            <span class="soft snippet">${visible(snippet(branch), false)}</span></button>
          ${branch === tree.selected ? nothing : html`
            <button class="quiet small" aria-pressed=${branch === tree.compared} @click=${() => tree.compare(branch)}
              >Compare</button>`}
          <button class="quiet small" aria-label="Delete branch ${branch.number}" @click=${() => tree.remove(branch)}
            >Delete</button>
        </li>`)}</ul>
    </section>`;
}

/** Mean surprise of the tokens that the model wrote, in bits; null without any. */
function surprise(branch) {
  const written = branch.tokens.slice(branch.prompt).filter((token) => token.logprob !== undefined && token.logprob !== null);
  if (!written.length) return null;
  return -written.reduce((sum, token) => sum + token.logprob, 0) / written.length / Math.LN2;
}

function status(branch) {
  const written = branch.tokens.length - branch.prompt, bits = surprise(branch);
  const speed = branch.seconds && branch.count ? `${number(branch.count / branch.seconds, 3)} tokens/s` : "";
  const parts = [
    STATES[branch.state] ?? REASONS[branch.reason] ?? branch.reason,
    `${number(written)} token${written === 1 ? "" : "s"}`,
    bits === null ? "" : `${number(bits, 3)} bits each on average`,
    branch.state === "done" ? speed : "",
  ];
  return parts.filter(Boolean).join(" · ");
}

const links = (branch) => {
  const run = `${branch.run}@${branch.step}`;
  const text = () => (String(getSelection()).trim() || textOf(branch.tokens.slice(branch.prompt)) || textOf(branch.tokens))
    .slice(0, MAX_LINK);
  const go = (page) => (event) => { event.currentTarget.href = link(page, { run, text: text() }); };
  return html`
    <a href=${link("origin", { run })} @mousedown=${go("origin")} @focus=${go("origin")} @click=${go("origin")}
      >Where did this come from?</a>
    <a href=${link("microscope", { run })} @mousedown=${go("microscope")} @focus=${go("microscope")}
      @click=${go("microscope")}>Open in the microscope</a>
    <button class="quiet small" @click=${() => navigator.clipboard?.writeText(textOf(branch.tokens))}>Copy</button>`;
};

/** Things about a text that its reader should know. */
function remarks(branch) {
  const found = [];
  if (branch.dropped) {
    found.push(branch.messages ? `The first ${branch.dropped} messages no longer fit into the context.`
      : `The first ${number(branch.dropped)} tokens of the prompt do not fit into the context of ${number(branch.context)}.`);
  }
  if (branch.added) found.push("The prompt was empty: the model began as a document begins.");
  if (!branch.messages && branch.tokens.length > branch.context && !branch.dropped) {
    found.push(`Longer than the context of ${number(branch.context)} tokens: where it was full, the model went on from`
      + (branch.slides ? " the newest ones, one token after another." : " its newer half."));
  }
  return found;
}

/** One branch, token by token. */
export function pane(view) {
  const { branch } = view;
  return html`
    ${tokenText(view)}
    ${branch.error ? html`<p class="error" role="alert">${branch.error}</p>` : nothing}
    ${remarks(branch).map((text) => html`<p class="small soft">${text}</p>`)}
    <div class="pane-foot small"><span class="soft">${status(branch)}</span>
      <span class="pane-links">${branch.step === undefined ? nothing : links(branch)}</span></div>`;
}

/** The selected branch, the one that it is compared with, and the list of all. */
export function texts({ tree, fork, draw }) {
  const { selected, compared } = tree;
  if (!selected) return nothing;
  if (!compared) return html`${pane({ tree, branch: selected, fork, draw })}${branchList(tree)}`;
  const shared = sharedLength(selected, compared);
  return html`
    <p class="small soft">The same up to token ${number(shared)}, shown faintly.</p>
    <div class="two">${[selected, compared].map((branch) => html`
      <div class="half"><h3><span class="tag">${branch.number}</span></h3>
        ${pane({ tree, branch, shared, fork, draw })}</div>`)}</div>
    ${branchList(tree)}`;
}
