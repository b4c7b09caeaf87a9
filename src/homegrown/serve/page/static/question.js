// What the user said, and changing it afterwards.

import { button, element, growing, onEnter } from "./dom.js";

export class Question {
  element = element("article", { className: "turn question", "aria-label": "You" });
  #text;
  #onChange;

  /** `onChange(text)` is called when it is to be asked anew. */
  constructor(text, onChange) {
    this.#text = text;
    this.#onChange = onChange;
    this.#show();
  }

  messages() {
    return [{ role: "user", content: this.#text }];
  }

  settle() {}

  #show() {
    const edit = button("Edit", () => this.#edit());
    this.element.replaceChildren(element("div", { className: "words" }, this.#text), element("footer", {}, edit));
    return edit;
  }

  #edit() {
    const box = growing(element("textarea", { value: this.#text, rows: 2, "aria-label": "Your message" }));
    const cancel = () => this.#show().focus();
    const send = () => box.value.trim() && this.#onChange(box.value);
    const acts = element("div", { className: "acts" }, button("Cancel", cancel), element("button", {}, "Send"));
    const form = element("form", {}, box, acts);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send();
    });
    onEnter(box, send);
    box.addEventListener("keydown", (event) => event.key === "Escape" && (event.stopPropagation(), cancel()));
    this.element.replaceChildren(form);
    box.focus();
  }
}
