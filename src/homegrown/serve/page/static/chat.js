// The conversation: its turns in order, and the one that is being answered.

import { Answer } from "./answer.js";
import { Question } from "./question.js";
import { Refusal } from "./server.js";

const told = (error) => (error instanceof Refusal ? error.message : `This page has a defect: ${error.message}`);

export class Chat {
  #turns = [];
  #running = null;

  /**
   * `parts`: server, settings, host (where turns are shown), announcer, follower.
   * `onState(running, answer)` hears when work begins and ends.
   */
  constructor(parts, onState) {
    this.parts = parts;
    this.onState = onState;
  }

  get running() {
    return this.#running !== null;
  }

  /** Ask something; false if an answer is still being made. */
  send(text) {
    if (this.running) return false;
    this.#ask(text);
    return true;
  }

  /** End the answer that is being made. */
  stop() {
    this.#running?.abort();
  }

  /** Begin anew. */
  clear() {
    this.stop();
    this.#cut(0);
    this.parts.announcer.clear();
  }

  #ask(text) {
    this.#settle();
    const question = new Question(text, (changed) => {
      if (this.running) return;
      this.#cut(this.#turns.indexOf(question));
      this.#ask(changed);
    });
    this.#add(question);
    this.#answer();
  }

  async #answer() {
    const { server, settings, announcer, follower } = this.parts;
    this.#settle();
    const messages = this.#turns.flatMap((turn) => turn.messages());
    const answer = new Answer(settings, announcer);
    const running = new AbortController();
    this.#add(answer);
    this.#begin(running);
    follower.toEnd();
    let trouble = "";
    try {
      const body = settings.request(messages);
      for await (const chunk of server.complete(body, running.signal)) answer.take(chunk);
    } catch (error) {
      if (!running.signal.aborted) trouble = told(error);
    }
    const goOn = () => !this.running && this.#answer();
    answer.end(trouble, running.signal.aborted, () => this.#again(answer), goOn);
    this.#end(answer);
  }

  #again(answer) {
    if (this.running) return;
    this.#cut(this.#turns.indexOf(answer));
    this.#answer();
  }

  #begin(running) {
    this.#running = running;
    this.parts.follower.active = true;
    this.onState(true, null);
  }

  #end(answer) {
    this.#running = null;
    this.parts.follower.rest();
    this.onState(false, answer);
  }

  #settle() {
    for (const turn of this.#turns) turn.settle();
  }

  #add(turn) {
    this.#turns.push(turn);
    this.parts.host.append(turn.element);
  }

  /** Drop turns from this one on. */
  #cut(from) {
    for (const turn of this.#turns.splice(from)) turn.element.remove();
  }
}
