/** Which colour is whose: each drafter keeps the one that it got first. */

const NUM_COLOURS = 6;
/** @type {Map<string, number>} */
const places = new Map();

/** @param {Iterable<string>} names in the order in which colours are given */
export function know(names) {
  for (const name of names) if (!places.has(name)) places.set(name, places.size % NUM_COLOURS);
}

/** @param {string} name @returns {string} a colour of the style sheet, by theme */
export function colourOf(name) {
  know([name]);
  return `var(--drafter-${places.get(name)})`;
}
