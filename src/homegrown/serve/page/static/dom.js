// Elements, built from text that may come from anywhere: strings become text nodes and are never read as HTML.

/** An element with properties (or attributes, where there is no such property) and children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A button that does something and sends no form. */
export function button(label, act, properties = {}) {
  const made = element("button", { type: "button", ...properties }, label);
  made.addEventListener("click", act);
  return made;
}

/** Text in columns, which can be scrolled by keyboard where it is too wide or too long. */
export function listing(label, ...children) {
  return element("pre", { tabIndex: 0, role: "region", "aria-label": label }, ...children);
}

/** A button that copies what `read` returns, and says whether that went well. */
export function copyButton(read, properties = {}) {
  const made = button("Copy", async () => {
    made.textContent = (await copied(read())) ? "Copied" : "Not copied";
    setTimeout(() => (made.textContent = "Copy"), 1500);
  }, properties);
  return made;
}

async function copied(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const area = element("textarea", { value: text, className: "unseen", readOnly: true }); // plain HTTP has no clipboard
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

/** Let a text area grow with its text, where style sheets cannot do it. */
export function growing(area) {
  if (CSS.supports("field-sizing", "content")) return area;
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  };
  area.addEventListener("input", fit);
  new ResizeObserver(fit).observe(area.parentElement ?? area);
  return area;
}

/** Call `send` on Enter, unless it is part of an input method or comes with Shift. */
export function onEnter(area, send) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
}

/** A message as a sentence: servers begin theirs in small letters and leave the full stop out. */
export function sentence(text) {
  const trimmed = text.trim();
  const ended = /[.!?…]$/.test(trimmed) ? trimmed : `${trimmed}.`;
  return ended[0].toUpperCase() + ended.slice(1);
}

/** A number for people: 1234567 as 1,234,567. */
export const count = (number) => number.toLocaleString("en");
