// What the browser remembers. Where it may not remember (private windows, full storage), things last as long as the page.

const fallen = new Map();

/** A remembered value, or `fallback`. `area` is "local" (kept) or "session" (gone with the tab). */
export function recall(area, name, fallback) {
  if (fallen.has(name)) return fallen.get(name);
  try {
    const text = window[`${area}Storage`].getItem(`homegrown.${name}`);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return fallback;
  }
}

/** Remember a value. */
export function remember(area, name, value) {
  try {
    window[`${area}Storage`].setItem(`homegrown.${name}`, JSON.stringify(value));
    fallen.delete(name);
  } catch {
    fallen.set(name, value);
  }
}

/** Forget it. */
export function forget(area, name) {
  fallen.delete(name);
  try {
    window[`${area}Storage`].removeItem(`homegrown.${name}`);
  } catch {
    // where nothing can be stored, nothing is left
  }
}
