// Keeps the end of the conversation in view while it grows, unless the reader has gone elsewhere.

const NEAR = 80; // pixels

export class Follower {
  active = false;
  #page = document.scrollingElement;
  #following = true;

  constructor(watched) {
    addEventListener("scroll", () => (this.#following = this.#distance() < NEAR), { passive: true });
    new ResizeObserver(() => this.active && this.#following && this.toEnd()).observe(watched);
  }

  /** The conversation has stopped growing. */
  rest() {
    if (this.#following) this.toEnd();
    this.active = false;
  }

  toEnd() {
    this.#following = true;
    this.#page.scrollTop = this.#page.scrollHeight;
  }

  #distance() {
    return this.#page.scrollHeight - this.#page.scrollTop - this.#page.clientHeight;
  }
}
