// Asks for the server's API key, when it wants one.

/** A function that opens the dialog, says why, and returns a promise of the key; null if the user has none. */
export function keyAsker(dialog) {
  const form = dialog.querySelector("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close(form.elements.key.value.trim());
  });
  dialog.querySelector("#no-key").addEventListener("click", () => dialog.close(""));
  return (why) => new Promise((resolve) => {
    dialog.querySelector("#key-trouble").textContent = why;
    dialog.returnValue = form.elements.key.value = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
    dialog.showModal();
  });
}
