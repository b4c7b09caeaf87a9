// Markdown within a line of text, as a tree: strings, and {kind, children | text, href} for what is marked up.
//
// One expression finds the next piece of markup. Every repetition in it is bounded, so the time is proportional to the
// length of the text, whatever a model writes.

const RULES = [
  /\\(?<escape>[!-/:-@[-`{-~])/u,
  /(?<!`)(?<ticks>`{1,8})(?!`)(?<code>[^]{1,2000}?)(?<!`)\k<ticks>(?!`)/u,
  /!?\[(?<label>[^[\]]{1,500})\]\((?<target>[^()\s]{1,2000}(?:\([^()\s]{0,500}\)[^()\s]{0,500})?)(?:\s{1,9}"[^"]{0,300}")?\)/u,
  /\*\*(?=\S)(?<strong>[^]{0,500}?\S)\*\*(?!\*)/u,
  /\*(?![\s*])(?<em>[^]{0,500}?[^\s*])\*(?!\*)/u,
  /(?<![\p{L}\p{N}_])_(?![\s_])(?<em2>[^]{0,500}?[^\s_])_(?![\p{L}\p{N}_])/u,
  /~~(?=\S)(?<strike>[^]{0,500}?\S)~~/u,
  /<(?<address>https?:\/\/[^\s<>]{1,2000})>/u,
  /(?<![\p{L}\p{N}])(?<bare>https?:\/\/[^\s<>"'`\\()[\]]{0,2000}[^\s<>"'`\\()[\].,;:!?*_~])/u,
];
const MARKUP = new RegExp(RULES.map((rule) => rule.source).join("|"), "gu");
const PROTOCOLS = ["http:", "https:", "mailto:"];
const DEPTH = 6;

/** Read a text. */
export function inline(text, depth = 0) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(MARKUP)) {
    const node = marked(found, depth);
    if (node === null) continue;
    if (found.index > end) nodes.push(text.slice(end, found.index));
    nodes.push(node);
    end = found.index + found[0].length;
  }
  if (end < text.length) nodes.push(text.slice(end));
  return nodes;
}

/** What a match means; null: it stays as it is written. */
function marked(found, depth) {
  const { escape, code, label, target, strong, em, em2, strike, address, bare } = found.groups;
  if (escape !== undefined) return escape;
  if (code !== undefined) return { kind: "code", text: /^ .*[^ ].* $/s.test(code) ? code.slice(1, -1) : code };
  if (label !== undefined) return link(target, label, depth);
  if (address ?? bare) return link(address ?? bare, null, depth);
  const kind = strong !== undefined ? "strong" : strike !== undefined ? "s" : "em";
  const text = strong ?? strike ?? em ?? em2;
  return { kind, children: depth < DEPTH ? inline(text, depth + 1) : [text] };
}

/** A link to the web or a mail address; anything else, `javascript:` above all, is no link. */
function link(target, label, depth) {
  if (!URL.canParse(target)) return null;
  const { protocol, href } = new URL(target);
  if (!PROTOCOLS.includes(protocol)) return null;
  const children = label === null ? [target] : depth < DEPTH ? unlinked(inline(label, depth + 1)) : [label];
  return { kind: "link", href, children };
}

/** A link's label has no links in it. */
function unlinked(nodes) {
  return nodes.flatMap((node) => (node.kind === "link" ? node.children : [node]));
}
