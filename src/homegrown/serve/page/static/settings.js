// The settings sheet: what is asked of the model besides the conversation, remembered by the browser.

import { recall, remember } from "./store.js";
import { EXAMPLE, readTools } from "./tools.js";

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

export class Settings {
  #dialog;
  #form;
  #values = recall("local", "settings", {});

  constructor(dialog) {
    this.#dialog = dialog;
    this.#form = dialog.querySelector("form");
    this.#fill();
    this.#form.addEventListener("input", (event) => this.#take(event.target));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close();
    });
    this.#form.querySelector("#example").addEventListener("click", () => {
      this.#form.elements.tools.value = EXAMPLE;
      this.#take(this.#form.elements.tools);
    });
    this.#form.querySelector("#defaults").addEventListener("click", () => {
      this.#values = {};
      this.#save();
      this.#fill();
    });
  }

  open() {
    this.#dialog.showModal();
  }

  /** Whether answers are shown as Markdown. */
  get markdown() {
    return this.#values.markdown ?? true;
  }

  /** Whether answers are shown coloured by compute. */
  get painted() {
    return this.#values.painted ?? false;
  }

  set painted(on) {
    this.#values.painted = on;
    this.#save();
  }

  /** List models to choose from; the choice is hidden where there is none. */
  models(list) {
    const select = this.#form.elements.model;
    select.replaceChildren(...list.map(({ id, display_name: name }) => new Option(name ?? id, id)));
    select.value = list.some(({ id }) => id === this.#values.model) ? this.#values.model : list[0]?.id;
    select.closest("label").hidden = list.length < 2;
  }

  /** The model that is asked: its id, or undefined as long as none is known. */
  get model() {
    return this.#form.elements.model.value || undefined;
  }

  /** The body of a request for an answer to `messages`. */
  request(messages) {
    const { system, thinking, tools } = this.#values;
    const body = { model: this.model, messages, compute: true, tools: readTools(tools ?? "") };
    if (system?.trim()) body.messages = [{ role: "system", content: system }, ...messages];
    if (thinking) body.chat_template_kwargs = { enable_thinking: thinking === "on" };
    for (const name of NUMBERS) if (this.#values[name]) body[name] = Number(this.#values[name]);
    return body;
  }

  /** Remember a control's value if it is a possible one, and say so if not. */
  #take(control) {
    if (control.name === "tools") this.#judge(control);
    else if (!control.checkValidity()) return;
    this.#values[control.name] = control.type === "checkbox" ? control.checked : control.value;
    this.#save();
  }

  #judge(control) {
    const said = this.#form.querySelector("#tools-trouble");
    try {
      readTools(control.value);
      said.textContent = "";
    } catch (error) {
      said.textContent = error.message;
    }
    control.setAttribute("aria-invalid", said.textContent !== "");
  }

  #fill() {
    for (const control of this.#form.elements) {
      if (!control.name || control.name === "model") continue;
      const value = this.#values[control.name];
      if (control.type === "checkbox") control.checked = value ?? control.defaultChecked;
      else control.value = value ?? "";
    }
    this.#judge(this.#form.elements.tools);
  }

  #save() {
    remember("local", "settings", this.#values);
  }
}
