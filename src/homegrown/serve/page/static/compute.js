// An answer's tokens, each coloured by how many real (not zero-computation) experts it was given.

import { button, element } from "./dom.js";

const LEVELS = 12;
const TAILS = [0.02, 0.98]; // the scale leaves these parts out, so that a few extremes do not wash it out
const PART = 400; // tokens laid out together

export class Compute {
  #view = element("div", { className: "compute", hidden: true });
  #words = element("p");
  #edges = element("div", { className: "edges", "aria-hidden": true });
  #painted = element("div", { className: "painted", tabIndex: 0, role: "region", "aria-label": "Answer coloured by compute" });
  #part = null;
  #tokens = [];
  #spans = [];
  #scale = null;

  constructor(host) {
    const levels = Array.from({ length: LEVELS }, (_, level) => element("i", { className: `level-${level}` }));
    const bar = element("div", { className: "levels", "aria-hidden": true }, ...levels);
    this.#view.append(element("div", { className: "legend" }, bar, this.#edges, this.#words), this.#painted);
    host.append(this.#view);
  }

  get known() {
    return this.#tokens.length > 0;
  }

  get shown() {
    return !this.#view.hidden;
  }

  /** Take [text, experts] of some tokens. Nothing is drawn as long as nobody looks. */
  push(tokens) {
    this.#tokens.push(...tokens);
    if (this.shown && this.known) this.#paint();
  }

  show(wanted) {
    this.#view.hidden = !wanted;
    if (wanted) this.finish();
  }

  /** Draw everything on the scale of all tokens. */
  finish() {
    if (!this.shown || !this.known) return;
    this.#scale = null;
    this.#paint();
  }

  /** Draw new tokens. The scale is made anew each time their number has doubled, and then all are coloured again. */
  #paint() {
    if (!this.#scale || this.#tokens.length >= 2 * this.#scale.tokens) this.#rescale();
    for (const [text, experts] of this.#tokens.slice(this.#spans.length)) {
      if (!this.#part || (this.#part.childElementCount >= PART && this.#tokens[this.#spans.length - 1][0].endsWith("\n"))) {
        this.#part = element("div");
        this.#painted.append(this.#part);
      }
      const span = element("span", { className: this.#level(experts), title: `${experts.toFixed(1)} real experts` }, text);
      this.#spans.push(span);
      this.#part.append(span);
    }
  }

  #rescale() {
    const values = this.#tokens.map(([, experts]) => experts).sort((a, b) => a - b);
    const [low, high] = TAILS.map((part) => values[Math.round(part * (values.length - 1))]);
    this.#scale = { tokens: values.length, low, high };
    this.#spans.forEach((span, at) => (span.className = this.#level(this.#tokens[at][1])));
    this.#explain(values);
  }

  #explain(values) {
    const { low, high } = this.#scale;
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const range = `from ${values[0].toFixed(1)} to ${values.at(-1).toFixed(1)}`;
    this.#words.textContent = `Real experts a token, mean over layers: ${mean.toFixed(1)} on average, ${range}.`;
    const marks = [`≤ ${low.toFixed(1)}`, ((low + high) / 2).toFixed(1), `≥ ${high.toFixed(1)}`];
    this.#edges.replaceChildren(...marks.map((mark) => element("span", {}, mark)));
  }

  #level(experts) {
    const { low, high } = this.#scale;
    const level = high > low ? Math.floor(((experts - low) / (high - low)) * LEVELS) : LEVELS / 2;
    return `level-${Math.min(Math.max(level, 0), LEVELS - 1)}`;
  }
}

/** The switch between an answer as it reads and as it was computed; `onChange` hears which is wanted. */
export function computeSwitch(compute, reading, wanted, onChange) {
  const set = (on) => {
    compute.show(on);
    reading.hidden = on;
    made.setAttribute("aria-pressed", on);
  };
  const made = button("Compute", () => {
    set(!compute.shown);
    onChange(compute.shown);
  }, { title: "Colour each token by how many real experts it was given" });
  set(wanted);
  return made;
}
