/** Figures and tokens as text. Pure. */

const WHOLE = new Intl.NumberFormat("en");

/** @param {number} value @returns {string} 12,345 */
export function whole(value) {
  return WHOLE.format(Math.round(value));
}

/** @param {number} value @returns {string} three significant digits at most */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 100) return whole(value);
  return String(Number(value.toPrecision(3)));
}

/** @param {number} seconds @returns {string} 840 µs, 8.4 ms, 1.2 s */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds >= 1) return `${short(seconds)} s`;
  if (seconds >= 1e-3 || seconds === 0) return `${short(seconds * 1e3)} ms`;
  return `${short(seconds * 1e6)} µs`;
}

/** @param {number} share 0 to 1 @returns {string} 42 % */
export function percent(share) {
  return Number.isFinite(share) ? `${Math.round(share * 100)} %` : "–";
}

/** @param {number} count @returns {string} 1.4 MB */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (count >= 1000 && power < units.length - 1) {
    count /= 1000;
    power += 1;
  }
  return `${short(count)} ${units[power]}`;
}

/** @param {number} count @param {string} noun @returns {string} 1 token, 2 tokens */
export function counted(count, noun) {
  return `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/**
 * A token where its blanks must be seen.
 * @param {{token: number, text: string}} piece
 * @returns {string}
 */
export function visible(piece) {
  if (piece.text === "") return `#${piece.token}`;
  return piece.text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}
