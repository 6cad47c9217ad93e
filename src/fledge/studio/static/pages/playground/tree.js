// The texts of one model as a tree: branches that share their beginning, each written by the server as a stream.
import { events, post } from "../../shared.js";

const encoder = new TextEncoder();
const bytesOf = (token) => token.bytes
  ? Uint8Array.from(token.bytes.match(/../g), (pair) => parseInt(pair, 16)) : encoder.encode(token.text);

/** The text that each token adds. A token inside a character adds nothing; the one that completes it, the character. */
export function pieces(tokens) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return tokens.map((token) => token.special ? "" : decoder.decode(bytesOf(token), { stream: true }));
}

export const textOf = (tokens) => pieces(tokens).join("");

/** Probability from a log-probability of the server; null there is zero. */
export const probability = (logprob) => logprob === null ? 0 : Math.exp(logprob);

/** How many tokens two branches have in common at their beginning. */
export function sharedLength(a, b) {
  let length = 0;
  while (length < Math.min(a.tokens.length, b.tokens.length) && a.tokens[length].id === b.tokens[length].id) length += 1;
  return length;
}

export class Tree {
  branches = []; // in the order of the list: a branch stands after its parent
  selected = null;
  compared = null; // shown beside the selected one
  open = null; // the token whose alternatives are shown: { branch, index, choice }
  cursor = 0; // the token that the Tab key reaches
  error = "";
  #count = 0;

  /** changed: called whenever something is to be drawn again. */
  constructor(changed) { this.changed = changed; }

  get running() { return this.branches.some((branch) => branch.state === "running"); }

  /** Write a new text. body: as the server takes it; in a chat, `messages` instead of `prompt`. */
  begin(body) {
    const branch = this.#add({ parent: null, at: 0, tokens: [], prompt: 0, messages: body.messages });
    return this.#write(branch, body);
  }

  /** A new branch: the tokens before `index`, then the rival, and what follows it. settings: of the sampling. */
  fork(branch, index, rival, settings) {
    const token = branch.tokens[index];
    const [{ id, text, bytes, special }, logprob] = rival;
    const tokens = [...branch.tokens.slice(0, index), { id, text, bytes, special, logprob, top: token.top, rival: true }];
    const { messages, context, ends, run, step } = branch;
    const prompt = Math.min(branch.prompt, index);
    const next = this.#add({ parent: branch, at: index, tokens, prompt, messages, context, ends, run, step });
    if (ends.includes(id)) {
      next.state = "done";
      next.reason = "stop";
      return this.changed();
    }
    const ids = tokens.map((each) => each.id);
    return this.#write(next, { ...settings, run: `${run}@${step}`, messages, prompt: null, ids, score_prompt: false });
  }

  #add(fields) {
    this.stop();
    const branch = { ...fields, number: ++this.#count, state: "running", reason: "", error: "", controller: null };
    const family = (each) => each && (each === fields.parent || family(each.parent));
    const last = this.branches.findLastIndex(family); // below its parent and what grew there before
    this.branches.splice(fields.parent ? last + 1 : this.branches.length, 0, branch);
    this.selected = branch;
    this.compared = this.open = null;
    this.error = "";
    return branch;
  }

  async #write(branch, body) {
    branch.controller = new AbortController();
    branch.slides = body.past_context === "slide";
    this.changed();
    try {
      const response = await post("playground/generate", body, { signal: branch.controller.signal });
      for await (const { event, data } of events(response)) {
        this.#take(branch, event, data);
        this.changed();
      }
      if (branch.state === "running") throw new Error("The answer broke off. Is the studio still running?");
    } catch (error) {
      if (error.name === "AbortError") branch.state = "stopped";
      else this.#fail(branch, error.message);
    }
    this.changed();
  }

  #take(branch, event, data) {
    if (event === "begin") {
      const { prompt, ...about } = data;
      if (branch.parent === null && !branch.messages) Object.assign(branch, { tokens: prompt, prompt: prompt.length });
      if (branch.parent === null) branch.read = prompt;
      Object.assign(branch, about);
    } else if (event === "prompt") {
      const scored = [branch.read[0], ...data.tokens];
      if (!branch.messages) branch.tokens = [...scored, ...branch.tokens.slice(scored.length)];
      branch.read = scored;
    } else if (event === "tokens") {
      branch.tokens.push(...data.tokens);
    } else if (event === "end") {
      Object.assign(branch, { state: "done", reason: data.reason, seconds: data.seconds, count: data.tokens });
    } else if (event === "error") {
      this.#fail(branch, data.message);
    }
  }

  #fail(branch, message) {
    if (branch.tokens.length) Object.assign(branch, { state: "failed", error: message });
    else {
      this.remove(branch);
      this.error = message;
    }
  }

  /** End what is being written. The server frees its slot as soon as the connection is closed. */
  stop() {
    for (const branch of this.branches) if (branch.state === "running") branch.controller?.abort();
  }

  select(branch) {
    this.selected = branch;
    if (this.compared === branch) this.compared = null;
    this.open = null;
    this.changed();
  }

  compare(branch) {
    this.compared = this.compared === branch ? null : branch;
    this.open = null;
    this.changed();
  }

  /** Delete a branch and those that grew from it. */
  remove(branch) {
    const gone = (each) => each !== null && (each === branch || gone(each.parent));
    const place = this.branches.indexOf(branch);
    for (const each of this.branches) if (gone(each) && each.state === "running") each.controller?.abort();
    this.branches = this.branches.filter((each) => !gone(each));
    if (gone(this.selected)) this.selected = branch.parent ?? this.branches[Math.max(0, place - 1)] ?? null;
    if (gone(this.compared) || this.compared === this.selected) this.compared = null;
    this.open = null;
    this.changed();
  }
}
