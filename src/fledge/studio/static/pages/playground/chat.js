// A conversation with one model. Each answer is a tree of its own: its branches stay, and the selected one counts.
import { html, nothing } from "../../shared.js";
import { texts } from "./branches.js";
import { renewSeed, sampling } from "./settings.js";
import { visible } from "./tokens.js";
import { Tree, textOf } from "./tree.js";

export class Chat {
  system = "";
  turns = []; // { question, tree }
  draft = "";
  editing = null; // the turn whose question is being edited
  edited = "";

  constructor(changed) { this.changed = changed; }

  get running() { return this.turns.some((turn) => turn.tree.running); }

  stop() { for (const turn of this.turns) turn.tree.stop(); }

  startOver() {
    this.stop();
    Object.assign(this, { turns: [], editing: null });
    this.changed();
  }

  #messages(turns, question) {
    const said = turns.flatMap((turn) => [{ role: "user", content: turn.question },
      { role: "assistant", content: turn.tree.selected ? textOf(turn.tree.selected.tokens) : "" }]);
    const system = this.system.trim() ? [{ role: "system", content: this.system }] : [];
    return [...system, ...said, { role: "user", content: question }];
  }

  /** Ask after the first `count` turns; what stood behind them is gone. */
  ask(question, run, count = this.turns.length) {
    if (!question.trim()) return;
    this.stop();
    const before = this.turns.slice(0, count);
    const turn = { question, tree: new Tree(this.changed) };
    this.turns = [...before, turn];
    this.editing = null;
    this.#answer(turn, before, run);
  }

  /** Another answer to the last question; the earlier one stays as a branch. */
  again(run) {
    this.#answer(this.turns.at(-1), this.turns.slice(0, -1), run);
  }

  #answer(turn, before, run) {
    renewSeed();
    turn.tree.begin({ ...sampling(), run, messages: this.#messages(before, turn.question), score_prompt: true });
  }
}

export function chatView(chat, model, draw) {
  const { about } = model;
  if (about && !about.roles.length) {
    return html`<section class="notice"><h2>This model does not converse</h2>
      <p>It was not trained on conversations. Let it continue a text, choose a run of <code>fledge align</code>, or
        teach it:</p><pre class="command">fledge align sft --init ${model.run} --data instructions</pre></section>`;
  }
  const send = () => {
    chat.ask(chat.draft, model.reference);
    chat.draft = document.getElementById("message").value = "";
  };
  const enter = (action) => (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    action();
  };
  return html`
    <details class="card system" ?open=${Boolean(chat.system)}><summary>System message</summary>
      <label class="field">What the model is told first; it counts from the next message on
        <textarea rows="2" .value=${chat.system} @input=${(event) => { chat.system = event.target.value; }}></textarea></label>
    </details>
    <div class="chat">${chat.turns.map((turn, index) => oneTurn(chat, turn, index, model, draw, enter))}</div>
    ${chat.turns.length ? nothing : html`<p class="soft chat-empty">Write the first message. The model answers in the
      format that it was trained on.</p>`}
    <div class="chat-form card">
      <label class="field">Message
        <textarea id="message" rows="2" .value=${chat.draft} @keydown=${enter(send)}
          @input=${(event) => { chat.draft = event.target.value; draw(); }}></textarea></label>
      <div class="row">
        ${chat.running ? html`<button class="danger" @click=${() => chat.stop()}>Stop</button>`
          : html`<button ?disabled=${!chat.draft.trim() || Boolean(model.error)} @click=${send}>Send</button>`}
        <button class="quiet" ?disabled=${!chat.turns.length} @click=${() => chat.startOver()}>Start over</button>
        <span class="small soft keys">Enter sends, Shift+Enter begins a new line</span>
      </div>
    </div>`;
}

function oneTurn(chat, turn, index, model, draw, enter) {
  const { tree } = turn, last = index === chat.turns.length - 1;
  const edit = () => {
    Object.assign(chat, { editing: turn, edited: turn.question });
    draw();
  };
  const resend = () => chat.ask(chat.edited, model.reference, index);
  const fork = (branch, place, rival) => tree.fork(branch, place, rival, sampling());
  return html`
    <section class="turn">
      <div class="said user"><h2>user</h2>
        ${chat.editing === turn ? html`
          <textarea rows="2" aria-label="Edited message" .value=${chat.edited} @keydown=${enter(resend)}
            @input=${(event) => { chat.edited = event.target.value; }}></textarea>
          <div class="row"><button @click=${resend}>Send again</button>
            <button class="quiet" @click=${() => { chat.editing = null; draw(); }}>Cancel</button></div>`
          : html`<p class="lines">${visible(turn.question, false)}</p>
            <button class="quiet small" @click=${edit}>Edit</button>`}</div>
      <div class="said assistant"><h2>assistant</h2>
        ${tree.error ? html`<p class="error" role="alert">${tree.error}</p>` : nothing}
        ${texts({ tree, fork, draw })}
        ${last && !tree.running ? html`<button class="quiet small" @click=${() => chat.again(model.reference)}
          >Another answer</button>` : nothing}
        ${tree.selected?.read ? html`<details class="small read"><summary>What the model read</summary>
          <p class="tokens mono">${tree.selected.read.map((token) => token.special
            ? html`<span class="code special">${token.text}</span>` : visible(token.text))}</p></details>` : nothing}
      </div>
    </section>`;
}
