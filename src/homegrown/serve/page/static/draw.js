// Markdown's tree as elements. Text of the model only ever becomes text nodes, and addresses that were checked.

import { copyButton, element, listing } from "./dom.js";
import { inline } from "./inline.js";

/** The element of a block. */
export function draw(block) {
  switch (block.kind) {
    case "code": return codeBlock(block);
    case "heading": return element(`h${Math.min(block.level + 2, 6)}`, {}, ...spans(block.text));
    case "list": return list(block);
    case "quote": return element("blockquote", {}, ...block.blocks.map(draw));
    case "rule": return element("hr");
    case "table": return table(block);
    default: return element("p", {}, ...spans(block.text));
  }
}

/** Show more text at the end of a code block that was drawn before. */
export function extend(drawn, text) {
  drawn.querySelector("code").firstChild.appendData(text);
}

function codeBlock({ language, text }) {
  const code = element("code", {}, document.createTextNode(text));
  const copy = copyButton(() => code.textContent, { "aria-label": "Copy the code" });
  const bar = element("div", { className: "bar" }, element("span", {}, language), copy);
  return element("div", { className: "code" }, bar, listing(`Code${language && `, ${language}`}`, code));
}

function list({ ordered, first, items }) {
  const made = element(ordered ? "ol" : "ul");
  if (ordered && first !== 1) made.start = first;
  made.append(...items.map((blocks) => element("li", {}, ...blocks.flatMap(inItem))));
  return made;
}

/** An item's first paragraph stands beside its mark, so it needs no element of its own. */
function inItem(block, index) {
  return index === 0 && block.kind === "paragraph" ? spans(block.text) : [draw(block)];
}

function table({ head, align, rows }) {
  const row = (kind) => (texts) =>
    element("tr", {}, ...texts.map((text, at) => element(kind, { className: align[at] }, ...spans(text))));
  const made = element("table", {}, element("thead", {}, row("th")(head)), element("tbody", {}, ...rows.map(row("td"))));
  return element("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Table" }, made);
}

function spans(text) {
  return inline(text).map(span);
}

function span(node) {
  if (typeof node === "string") return document.createTextNode(node);
  if (node.kind === "code") return element("code", {}, node.text);
  if (node.kind !== "link") return element(node.kind, {}, ...node.children.map(span));
  const rel = "noopener noreferrer nofollow";
  return element("a", { href: node.href, title: node.href, target: "_blank", rel }, ...node.children.map(span));
}
