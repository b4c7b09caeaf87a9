// Markdown as a tree of plain objects: a subset that models use, read line by line, never looking far ahead.
//
// A block is {kind, start, end, ...}: lines [start, end) of those given. No HTML: what looks like it is text.

const FENCE = /^( {0,12})(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(?=\S)(.*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( {1,4}(?=\S)|[ \t]|$)/;
const QUOTE = /^ {0,3}> ?/;
const DASHES = /^:?-+:?$/;
const DEPTH = 8;

/** Read lines. */
export function parse(lines, depth = 0) {
  const blocks = [];
  let start = 0;
  while (start < lines.length) {
    if (blank(lines[start])) {
      start += 1;
      continue;
    }
    const block = blockAt(lines, start, depth);
    blocks.push({ start, ...block });
    start = block.end;
  }
  return blocks;
}

function blockAt(lines, at, depth) {
  if (depth >= DEPTH) return { kind: "paragraph", text: lines.slice(at).join("\n"), end: lines.length };
  const [fence, heading] = [FENCE.exec(lines[at]), HEADING.exec(lines[at])];
  if (fence) return code(lines, at, fence);
  if (heading) {
    return { kind: "heading", level: heading[1].length, text: heading[2].trim().replace(/ #+$/, ""), end: at + 1 };
  }
  if (RULE.test(lines[at])) return { kind: "rule", end: at + 1 };
  if (ITEM.test(lines[at])) return list(lines, at, depth);
  if (QUOTE.test(lines[at])) return quote(lines, at, depth);
  return tabled(lines, at) ? table(lines, at) : paragraph(lines, at);
}

function code(lines, at, [, indent, marks, info]) {
  const closes = (line) => {
    const text = line.trim();
    return text.length >= marks.length && text === marks[0].repeat(text.length);
  };
  let end = at + 1;
  while (end < lines.length && !closes(lines[end])) end += 1;
  const own = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent.length, spaces(line))));
  // While the text is still being written, a last line of only marks will most likely become the closing one.
  if (end === lines.length && /^[ \t]*[`~]+$/.test(own.at(-1) ?? "")) own.pop();
  return { kind: "code", language: info.trim().split(/\s/)[0], text: own.join("\n"), end: Math.min(end + 1, lines.length) };
}

function list(lines, at, depth) {
  const ordered = /\d/.test(ITEM.exec(lines[at])[2]);
  const items = [];
  let next = at;
  let end = at;
  while (next < lines.length) {
    const found = ITEM.exec(lines[next]);
    if (!found || /\d/.test(found[2]) !== ordered || RULE.test(lines[next])) break;
    const own = item(lines, next, found);
    items.push(parse(own.lines, depth + 1));
    next = end = own.end;
    while (next < lines.length && blank(lines[next])) next += 1;
  }
  return { kind: "list", ordered, first: ordered ? parseInt(ITEM.exec(lines[at])[2], 10) : 1, items, end };
}

/** The lines of a list's item without their indentation, and where it ends. */
function item(lines, at, found) {
  const width = found[0].length;
  const own = [lines[at].slice(width)];
  let end = at + 1;
  for (let next = end; next < lines.length; next += 1) {
    const line = lines[next];
    if (blank(line)) continue; // it belongs to the item if what follows does
    const indent = spaces(line);
    const nested = indent >= Math.min(width, found[1].length + 2) && ITEM.test(line.trimStart());
    const lazy = next === end && indent < width && !ITEM.test(line) && !begins(lines, next);
    if (indent < width && !nested && !lazy) break;
    own.push(...Array(next - end).fill(""), line.slice(lazy ? 0 : Math.min(indent, width)));
    end = next + 1;
  }
  return { lines: own, end };
}

function quote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const own = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { kind: "quote", blocks: parse(own, depth + 1), end };
}

function table(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|") && !blank(lines[end])) end += 1;
  const head = cells(lines[at]);
  const align = cells(lines[at + 1]).map((dashes) => (dashes.endsWith(":") ? (dashes[0] === ":" ? "center" : "right") : ""));
  const rows = lines.slice(at + 2, end).map((line) => cells(line).slice(0, head.length));
  return { kind: "table", head, align, rows, end };
}

/** Whether a table begins here: a row, and under it dashes for as many columns. */
function tabled(lines, at) {
  if (!lines[at].includes("|") || !(lines[at + 1] ?? "").includes("-")) return false;
  const dashes = cells(lines[at + 1]);
  return dashes.every((cell) => DASHES.test(cell)) && dashes.length === cells(lines[at]).length;
}

function cells(line) {
  const text = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return text.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !blank(lines[end]) && !begins(lines, end)) end += 1;
  return { kind: "paragraph", text: lines.slice(at, end).join("\n"), end };
}

/** Whether a line ends the paragraph before it. A number does only if it is the first one: it may end a sentence. */
function begins(lines, at) {
  const line = lines[at];
  const number = ITEM.exec(line)?.[2] ?? "";
  const listed = number !== "" && (!/\d/.test(number) || parseInt(number, 10) === 1);
  return listed || [FENCE, HEADING, RULE, QUOTE].some((rule) => rule.test(line)) || tabled(lines, at);
}

const blank = (line) => line.trim() === "";
const spaces = (line) => line.length - line.trimStart().length;
