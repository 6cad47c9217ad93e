// What the server says about one text, checkpoint by checkpoint. Each thing is asked for once, and kept.
import { get, post } from "../shared.js";

const MAX_BYTES = 192 << 20; // of what is kept
const SMALL = 20_000; // bytes, about, of an answer in JSON

export class Answers {
  constructor(run, text) {
    Object.assign(this, { run, text, kept: new Map(), bytes: 0 });
  }
  tokens(step) { return this.ask(`tokens ${step}`, async () => (await this.post("tokens", step)).json()); }
  grid(step) { return this.ask(`grid ${step}`, () => this.numbers("grid", step, Uint8Array)); }
  head(step, layer, head) {
    return this.ask(`head ${step} ${layer} ${head}`, () => this.numbers("head", step, Float32Array, { layer, head }));
  }
  lens(step) { return this.ask(`lens ${step}`, async () => (await this.post("lens", step)).json()); }
  scores(step) { return this.ask(`scores ${step}`, () => get("microscope/scores", { run: this.run, step })); }

  /** What the page shows first: one computation on the server, which the others then find done. */
  async basics(step, layer, head) {
    const tokens = await this.tokens(step);
    const [grid, weights] = await Promise.all([this.grid(step), this.head(step, layer, head)]);
    return { tokens, grid, weights: weights.data };
  }
  /** The same without asking: undefined where a part is not here yet. */
  known(step, layer, head) {
    const [tokens, grid, weights] = [`tokens ${step}`, `grid ${step}`, `head ${step} ${layer} ${head}`].map((name) => this.kept.get(name)?.value);
    return tokens && grid && weights && { tokens, grid, weights: weights.data };
  }
  value(name, step) { return this.kept.get(`${name} ${step}`)?.value; }

  post(route, step, more = {}) {
    return post(`microscope/${route}`, { run: this.run, step, text: this.text, ...more });
  }
  async numbers(route, step, kind, more) {
    const response = await this.post(route, step, more);
    const shape = response.headers.get("X-Shape").split(",").map(Number);
    return { shape, data: new kind(await response.arrayBuffer()) };
  }
  ask(name, request) {
    let entry = this.kept.get(name);
    if (!entry) {
      entry = { size: SMALL, value: undefined };
      entry.promise = request().then((value) => this.keep(entry, value), (error) => {
        this.kept.delete(name);
        throw error;
      });
      this.kept.set(name, entry);
    }
    return entry.promise;
  }
  keep(entry, value) {
    entry.value = value;
    entry.size = value.data?.byteLength ?? SMALL;
    this.bytes += entry.size;
    for (const [name, { value: old, size }] of this.kept) {
      if (this.bytes <= MAX_BYTES) break;
      if (old === undefined || old === value) continue;
      this.kept.delete(name);
      this.bytes -= size;
    }
    return value;
  }
}
