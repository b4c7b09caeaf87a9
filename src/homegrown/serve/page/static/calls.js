// Tool calls: what the model wants to be called, and a box for each to say what came of it.

import { element, growing, listing, onEnter } from "./dom.js";

export class Calls {
  #calls = [];
  #host;
  #form = null;

  constructor(host) {
    this.#host = host;
  }

  /** Take `tool_calls` of a chunk. */
  push(deltas) {
    for (const { index, id, function: { name, arguments: text } } of deltas) {
      this.#calls[index] ??= new Call(this.#host, id, name);
      if (text) this.#calls[index].push(text);
    }
  }

  /** The answer is over: calls that are not whole are dropped; `onResults` is called once the results are to be sent. */
  finish(onResults) {
    this.#calls = this.#calls.filter((call) => call.finish());
    if (!this.#calls.length) return;
    const send = element("button", {}, this.#calls.length > 1 ? "Send the results" : "Send the result");
    const note = element("p", {}, "Nothing runs by itself here: you answer for the tool.");
    this.#form = element("form", { className: "results" }, note, send);
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.settle();
      onResults();
    });
    for (const call of this.#calls) call.ask(() => this.#next());
    this.#host.append(this.#form);
  }

  /** Put the focus into the first box. */
  focus() {
    this.#next();
  }

  /** Take what stands in the boxes as the results. */
  settle() {
    if (!this.#form) return;
    for (const call of this.#calls) call.settle();
    this.#form.remove();
    this.#form = null;
  }

  /** The calls as a message has them; undefined if there are none. */
  get said() {
    return this.#calls.length ? this.#calls.map((call) => call.said) : undefined;
  }

  /** The messages with their results. */
  get results() {
    return this.#calls.map(({ id, result }) => ({ role: "tool", tool_call_id: id, content: result }));
  }

  /** Go on to the first empty box, or send. */
  #next() {
    const empty = this.#calls.find((call) => call.box.value === "");
    if (empty) empty.box.focus();
    else this.#form.requestSubmit();
  }
}

class Call {
  result = "";
  box = null;
  #arguments = "";
  #shown = document.createTextNode("");
  #element;

  constructor(host, id, name) {
    this.id = id;
    this.name = name;
    const head = element("p", { className: "bar" }, element("span", {}, "Calls ", element("code", {}, name)));
    const shown = listing("Arguments", element("code", {}, this.#shown));
    this.#element = element("section", { className: "call", "aria-label": `Call of ${name}` }, head, shown);
    host.append(this.#element);
  }

  get said() {
    return { id: this.id, type: "function", function: { name: this.name, arguments: this.#arguments } };
  }

  push(text) {
    this.#arguments += text;
    this.#shown.appendData(text);
  }

  /** Whether the call is whole. */
  finish() {
    try {
      this.#shown.data = JSON.stringify(JSON.parse(this.#arguments), null, 2);
      return true;
    } catch {
      this.#element.append(element("p", { className: "note" }, "This call was not finished and will not be sent."));
      return false;
    }
  }

  ask(next) {
    const label = `Result of ${this.name}`;
    this.box = growing(element("textarea", { rows: 2, placeholder: "What the tool answers", "aria-label": label }));
    this.#element.append(this.box);
    onEnter(this.box, next);
  }

  settle() {
    this.result = this.box.value;
    const shown = listing(`Result of ${this.name}`, this.result || "(empty)");
    this.box.replaceWith(element("p", { className: "bar" }, "Result"), shown);
  }
}
