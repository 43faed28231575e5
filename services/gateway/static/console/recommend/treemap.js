/** Rectangles whose areas are as given, as square as may be (Bruls, Huizing, van Wijk 2000). Pure. */

/** @typedef {{x: number, y: number, width: number, height: number}} Box */

/**
 * @param {number[]} sizes positive, largest first
 * @param {number} width
 * @param {number} height
 * @returns {Box[]} one for each size
 */
export function squarified(sizes, width, height) {
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const scale = (width * height) / total;
  /** @type {Box[]} */
  const boxes = [];
  let free = { x: 0, y: 0, width, height };
  let from = 0;
  while (from < sizes.length) {
    const side = Math.min(free.width, free.height);
    let to = from + 1;
    while (to < sizes.length && worst(sizes, from, to + 1, side, scale) <= worst(sizes, from, to, side, scale)) to += 1;
    const placed = row(sizes.slice(from, to).map((size) => size * scale), free);
    boxes.push(...placed.boxes);
    free = placed.free;
    from = to;
  }
  return boxes;
}

/** The longest side to the shortest of a row's boxes. */
/** @param {number[]} sizes @param {number} from @param {number} to @param {number} side @param {number} scale */
function worst(sizes, from, to, side, scale) {
  const areas = sizes.slice(from, to).map((size) => size * scale);
  const sum = areas.reduce((a, b) => a + b, 0);
  const ratio = (/** @type {number} */ area) => Math.max((side * side * area) / (sum * sum), (sum * sum) / (side * side * area));
  return Math.max(...areas.map(ratio));
}

/** Boxes along the shorter side of what is free. @param {number[]} areas @param {Box} free */
function row(areas, free) {
  const sum = areas.reduce((a, b) => a + b, 0);
  const isTall = free.height <= free.width;
  const thick = sum / (isTall ? free.height : free.width);
  let at = isTall ? free.y : free.x;
  const boxes = areas.map((area) => {
    const long = area / thick;
    const box = isTall ? { x: free.x, y: at, width: thick, height: long } : { x: at, y: free.y, width: long, height: thick };
    at += long;
    return box;
  });
  const rest = isTall
    ? { ...free, x: free.x + thick, width: free.width - thick }
    : { ...free, y: free.y + thick, height: free.height - thick };
  return { boxes, free: rest };
}
