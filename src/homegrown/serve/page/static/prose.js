// Text that is still being written, shown as Markdown.
//
// Blocks that nothing can change any more are left alone; only the last ones are drawn again as text comes, at most once
// a frame and for at most a twentieth of the time. So the cost of an answer does not grow with its length.

import { element } from "./dom.js";
import { draw, extend } from "./draw.js";
import { parse } from "./markdown.js";

const SHARE = 20;
const PART = 4000; // characters

export class Prose {
  #root;
  #source = "";
  #live = [];
  #frame = 0;
  #rested = 0;

  constructor(root) {
    this.#root = root;
  }

  push(text) {
    this.#source += text;
    this.#frame ||= requestAnimationFrame((now) => this.#tick(now));
  }

  /** Show everything; nothing follows. */
  finish() {
    cancelAnimationFrame(this.#frame);
    this.#render();
  }

  #tick(now) {
    if (now < this.#rested) {
      this.#frame = requestAnimationFrame((later) => this.#tick(later));
      return;
    }
    this.#frame = 0;
    const began = performance.now();
    this.#render();
    const ended = performance.now();
    this.#rested = ended + SHARE * (ended - began);
  }

  #render() {
    const lines = this.#source.split("\n");
    const blocks = parse(lines);
    const drawn = blocks.map((block, at) => this.#draw(this.#live[at], block, lines.slice(block.start, block.end).join("\n")));
    for (const { node } of this.#live.slice(blocks.length)) node.remove();
    // The last block may go on. If it began in the line that is being written, so may the one before it.
    const kept = blocks.length > 0 && blocks.at(-1).start === lines.length - 1 ? 2 : 1;
    const settled = Math.max(blocks.length - kept, 0);
    this.#live = drawn.slice(settled);
    if (settled) this.#source = lines.slice(blocks[settled].start).join("\n");
  }

  #draw(old, block, source) {
    if (old?.source === source) return old;
    if (old && block.kind === "code" && old.block.kind === "code" && block.language === old.block.language
        && block.text.startsWith(old.block.text)) {
      extend(old.node, block.text.slice(old.block.text.length));
      return { node: old.node, block, source };
    }
    const node = draw(block);
    if (old) old.node.replaceWith(node);
    else this.#root.append(node);
    return { node, block, source };
  }
}

/** The same for text that is to be shown as it is. It is cut into parts at line ends, so that no part is laid out for long. */
export class Plain {
  #root;
  #part = null;

  constructor(root) {
    this.#root = root;
    root.classList.add("plain");
  }

  push(text) {
    const cut = this.#part?.length > PART ? text.indexOf("\n") + 1 : 0;
    if (cut) this.#part.appendData(text.slice(0, cut));
    if (cut || !this.#part) {
      this.#part = document.createTextNode("");
      this.#root.append(element("div", {}, this.#part));
    }
    this.#part.appendData(text.slice(cut));
  }

  finish() {}
}
