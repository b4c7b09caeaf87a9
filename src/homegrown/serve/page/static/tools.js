// Tools that the user declares as JSON.

import { Refusal } from "./server.js";

export const EXAMPLE = JSON.stringify([{
  name: "get_weather",
  description: "The weather at a place, now.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
}], null, 2);

/**
 * The tools in a text, as requests have them: a JSON array of {name, description, parameters}, or of the same within
 * {type: "function", function: ...}. Undefined for an empty text or array.
 */
export function readTools(text) {
  if (text.trim() === "") return undefined;
  let list;
  try {
    list = JSON.parse(text);
  } catch (error) {
    throw new Refusal(`The tools in the settings are not JSON: ${error.message}`);
  }
  if (!Array.isArray(list)) throw new Refusal("The tools in the settings must be a JSON array, in [ ]");
  const tools = list.map((tool, index) => {
    const declared = tool?.function ?? tool;
    if (typeof declared?.name !== "string") throw new Refusal(`Tool ${index + 1} in the settings has no name`);
    return { type: "function", function: declared };
  });
  return tools.length ? tools : undefined;
}
