// One answer of the model: what its stream makes of the page, and what is told to the model about it later.

import { button, copyButton, element } from "./dom.js";
import { Calls } from "./calls.js";
import { Compute, computeSwitch } from "./compute.js";
import { figures } from "./figures.js";
import { Plain, Prose } from "./prose.js";
import { Thinking } from "./thinking.js";

export class Answer {
  failed = false;
  element = element("article", { className: "turn answer", "aria-label": "Answer", "aria-busy": true });
  #body = element("div", { className: "body" });
  #settings;
  #announcer;
  #text = "";
  #reading = element("div", { className: "reading" });
  #prose;
  #thinking = null;
  #compute = null;
  #calls = null;
  #finish = "";
  #usage = null;
  #times = { began: performance.now(), first: 0, last: 0 };

  constructor(settings, announcer) {
    this.#settings = settings;
    this.#announcer = announcer;
    this.#prose = settings.markdown ? new Prose(this.#reading) : new Plain(this.#reading);
    this.#body.append(this.#reading);
    this.element.append(this.#body, element("p", { className: "waiting" }, "…"));
  }

  /** Take a chunk of the stream. */
  take(chunk) {
    const now = performance.now();
    this.#times.first ||= now;
    this.#usage = chunk.usage ?? this.#usage;
    for (const { delta = {}, compute, finish_reason: finish } of chunk.choices) {
      const thought = delta.reasoning_content ?? delta.reasoning;
      if (thought) this.#think(thought);
      if (delta.content) this.#say(delta.content);
      if (delta.tool_calls) this.#call(delta.tool_calls);
      if (compute) this.#count(compute);
      if (thought || delta.content || delta.tool_calls) this.#times.last = now;
      this.#finish = finish ?? this.#finish;
    }
  }

  /**
   * Nothing more comes. `trouble` is a sentence, or empty; `again` makes another answer in place of this one;
   * `goOn` sends the results of its tool calls.
   */
  end(trouble, stopped, again, goOn) {
    this.failed = trouble !== "";
    this.element.querySelector(".waiting").remove();
    this.element.removeAttribute("aria-busy");
    this.#thinking?.finish();
    this.#thinking?.tokens(this.#usage?.completion_tokens_details?.reasoning_tokens);
    this.#prose.finish();
    this.#compute?.finish();
    this.#calls?.finish(goOn);
    this.#announcer.finish();
    if (stopped) this.#note("Stopped.");
    if (this.#finish === "length") this.#note("The answer ends here because it has reached the most tokens allowed.");
    if (trouble) this.#body.append(element("p", { className: "trouble", role: "alert" }, trouble));
    else if (!stopped && !this.#text && !this.#calls) this.#note("The model answered with nothing.");
    this.element.append(this.#foot(trouble, again));
  }

  /** What the model is told of this turn: nothing, if it came to nothing. */
  messages() {
    const calls = this.#calls?.said;
    if (!this.#text && !calls) return [];
    const message = { role: "assistant", content: this.#text, reasoning_content: this.#thinking?.text, tool_calls: calls };
    return [message, ...(this.#calls?.results ?? [])];
  }

  /** The conversation goes on: results that were not sent yet are taken as they stand. */
  settle() {
    this.#calls?.settle();
  }

  /** Put the focus where the answer asks for something, if it does. */
  focus() {
    if (this.#calls?.said) this.#calls.focus();
  }

  #think(text) {
    if (!this.#thinking) {
      const place = element("div");
      this.#body.prepend(place);
      this.#thinking = new Thinking(place);
      this.#announcer.say("Thinking.");
    }
    this.#thinking.push(text);
  }

  #say(text) {
    this.#thinking?.finish();
    this.#text += text;
    this.#prose.push(text);
    this.#announcer.push(text);
  }

  #call(deltas) {
    this.#thinking?.finish();
    if (!this.#calls) {
      const place = element("div");
      this.#body.append(place);
      this.#calls = new Calls(place);
      this.#announcer.say("The model calls a tool.");
    }
    this.#calls.push(deltas);
  }

  #count(tokens) {
    if (!this.#compute) {
      const place = element("div");
      this.#reading.after(place);
      this.#compute = new Compute(place);
      if (this.#settings.painted) {
        this.#compute.show(true);
        this.#reading.hidden = true;
      }
    }
    this.#compute.push(tokens);
  }

  #note(text) {
    this.#body.append(element("p", { className: "note" }, text));
  }

  #foot(trouble, again) {
    const acts = element("div", { className: "acts" });
    if (this.#text) acts.append(copyButton(() => this.#text, { "aria-label": "Copy the answer" }));
    acts.append(button(trouble ? "Try again" : "Regenerate", again, { className: "again" }));
    if (this.#compute) {
      const remember = (on) => (this.#settings.painted = on);
      acts.append(computeSwitch(this.#compute, this.#reading, this.#compute.shown, remember));
    }
    return element("footer", {}, figures(this.#times, this.#usage), acts);
  }
}
