// What an answer took: figures measured here, and those the server counted.

import { count, element } from "./dom.js";

const BRIEF = 50; // ms that are too short to tell how fast tokens come

/** A list of an answer's figures. `times` are milliseconds; `usage` is the server's, or null if it never came. */
export function figures(times, usage) {
  const items = told(times, usage).map((text) => element("li", {}, text));
  return element("ul", { className: "figures", "aria-label": "Figures" }, ...items);
}

function told({ began, first, last }, usage) {
  const texts = [];
  const tokens = usage?.completion_tokens ?? 0;
  if (tokens) texts.push(tokens === 1 ? "1 token" : `${count(tokens)} tokens`);
  if (tokens > 1 && last - first > BRIEF) texts.push(`${rate((1000 * (tokens - 1)) / (last - first))} tokens/s`);
  if (first) texts.push(`first after ${((first - began) / 1000).toFixed(2)} s`);
  const details = usage?.completion_tokens_details ?? {};
  const accepted = details.accepted_prediction_tokens ?? 0;
  const drafted = accepted + (details.rejected_prediction_tokens ?? 0);
  if (drafted) texts.push(`${Math.round((100 * accepted) / drafted)} % of ${count(drafted)} drafted tokens accepted`);
  const cached = usage?.prompt_tokens_details?.cached_tokens ?? 0;
  const prompt = usage && `${count(usage.prompt_tokens)} prompt tokens`;
  if (usage) texts.push(cached ? `${count(cached)} of ${prompt} cached` : prompt);
  return texts;
}

const rate = (value) => (value < 100 ? value.toFixed(1) : count(Math.round(value)));
