// Tells screen readers what is being written, in whole sentences rather than in tokens.

import { element } from "./dom.js";

const KEPT = 20; // sentences

export class Announcer {
  #region;
  #held = "";

  constructor(region) {
    this.#region = region;
  }

  say(text) {
    this.#region.append(element("p", {}, text));
    while (this.#region.childElementCount > KEPT) this.#region.firstChild.remove();
  }

  push(text) {
    const parts = (this.#held + text).split(/(?<=[.!?:…]\s)|\n+/);
    this.#held = parts.pop();
    for (const part of parts.filter((one) => one.trim())) this.say(part.trim());
  }

  finish() {
    if (this.#held.trim()) this.say(this.#held.trim());
    this.#held = "";
  }

  clear() {
    this.#region.replaceChildren();
    this.#held = "";
  }
}
