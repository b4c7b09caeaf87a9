// The model's reasoning: folded, with how long it took.

import { count, element } from "./dom.js";
import { Plain } from "./prose.js";

export class Thinking {
  text = "";
  #began = performance.now();
  #label = element("span", {}, "Thinking");
  #took = element("span", { className: "took" });
  #text;
  #timer;

  constructor(host) {
    const thought = element("div", { className: "thought" });
    const fold = element("details", { className: "thinking" }, element("summary", {}, this.#label, this.#took), thought);
    host.append(fold);
    this.#text = new Plain(thought);
    this.#timer = setInterval(() => this.#show(), 100);
  }

  push(text) {
    this.text += text;
    this.#text.push(text);
  }

  /** The model has begun to answer, or stopped. */
  finish() {
    if (!this.#timer) return;
    clearInterval(this.#timer);
    this.#timer = 0;
    this.#label.textContent = "Thought";
    this.#show();
  }

  /** How many tokens it was, once that is known. */
  tokens(number) {
    if (number) this.#took.textContent += ` · ${count(number)} tokens`;
  }

  #show() {
    this.#took.textContent = ` for ${((performance.now() - this.#began) / 1000).toFixed(1)} s`;
  }
}
