// Puts the page together.

import { Announcer } from "./announcer.js";
import { Chat } from "./chat.js";
import { count, growing, onEnter } from "./dom.js";
import { Follower } from "./follower.js";
import { keyAsker } from "./key.js";
import { Server } from "./server.js";
import { Settings } from "./settings.js";

const at = (id) => document.getElementById(id);
const [prompt, send, stop, host] = [at("prompt"), at("send"), at("stop"), at("chat")];

const server = new Server(keyAsker(at("key")));
const settings = new Settings(at("settings"));
const follower = new Follower(host);
const chat = new Chat({ server, settings, host, follower, announcer: new Announcer(at("announcer")) }, show);

/** Work begins, or ends with an answer. */
function show(running, answer) {
  document.body.classList.toggle("running", running);
  send.hidden = running;
  stop.hidden = !running;
  at("forget-key").hidden = !server.hasKey;
  if (running) resume();
  else if (prompt.value === "") answer.focus();
  if (!running && !answer.failed && !settings.model) introduce();
}

/** Go back to the message box; not where that would open a keyboard on the screen. */
function resume() {
  if (matchMedia("(pointer: fine)").matches) prompt.focus({ preventScroll: true });
}

function submit() {
  if (prompt.value.trim() === "" || !chat.send(prompt.value)) return;
  prompt.value = "";
  prompt.dispatchEvent(new Event("input"));
}

async function introduce() {
  try {
    const all = await server.models();
    settings.models(all.filter(({ id, root }) => root === undefined || root === id));
    const [{ id, display_name: name, max_model_len: length }] = all;
    at("model").textContent = name ?? id;
    at("context").textContent = length ? `It reads up to ${count(length)} tokens. ` : "";
    document.title = `${name ?? id} · Homegrown`;
  } catch (error) {
    at("model").textContent = error.message;
  }
  at("forget-key").hidden = !server.hasKey;
}

/** Keys that work wherever the focus is, except in dialogs. */
function onKey(event) {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") chat.stop();
  if (event.key === "/" && !event.target.matches("input, select, textarea")) {
    event.preventDefault();
    prompt.focus();
  }
}

growing(prompt);
onEnter(prompt, submit);
at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
stop.addEventListener("click", () => chat.stop());
at("new").addEventListener("click", () => {
  chat.clear();
  resume();
});
at("open-settings").addEventListener("click", () => settings.open());
at("forget-key").addEventListener("click", () => {
  server.forgetKey();
  at("forget-key").hidden = true;
});
document.addEventListener("keydown", onKey);
introduce();
