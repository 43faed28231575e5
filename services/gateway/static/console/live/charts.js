/** Small charts: lines, a round's bars, a drafter's share. Plots are SVG that stretches, text is HTML. */

import { html, svg } from "../lib/dom.js";

/** @typedef {{name: string, hue: string, values: number[]}} Series */

const WIDTH = 100;
const HEIGHT = 40;

/** A title, the newest figure, a plot. */
class Chart {
  /** @param {HTMLElement} parent @param {string} title */
  constructor(parent, title) {
    this.title = title;
    this.figure = html("span", { class: "chart-figure" });
    this.top = html("span", { class: "chart-top", "aria-hidden": "true" });
    this.picture = svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.key = html("span", { class: "chart-key" });
    this.root = html(
      "figure",
      { class: "chart" },
      html("figcaption", {}, html("span", { class: "chart-title" }, title), this.figure),
      html("div", { class: "plot-box" }, this.top, this.picture),
      this.key,
    );
    this.say("");
    parent.append(this.root);
  }

  /** @param {string} text the newest figure; nothing while there is none */
  say(text) {
    this.figure.textContent = text || "–";
    this.picture.setAttribute("aria-label", text ? `${this.title}: ${text}` : `${this.title}: nothing yet`);
    this.root.classList.toggle("vacant", !text);
  }
}

/** Lines over rounds or polls. */
export class LineChart extends Chart {
  /** @param {Series[]} series @param {string} text @param {(top: number) => string} label @param {boolean} [isStepped] */
  show(series, text, label, isStepped = false) {
    const highest = Math.max(...series.flatMap((one) => one.values), 0);
    const top = highest > 0 ? highest : 1;
    this.top.textContent = highest > 0 ? label(highest) : "";
    const lines = series.map(({ hue, values }) =>
      svg("path", { class: "line", d: path(values, top, isStepped), "--hue": hue }),
    );
    const first = series[0];
    const area = series.length === 1 && first.values.length > 1
      ? [svg("path", { class: "area", d: `${path(first.values, top, isStepped)}V${HEIGHT}H0Z`, "--hue": first.hue })]
      : [];
    this.picture.replaceChildren(...area, ...lines);
    this.say(text);
    if (series.length > 1) this.#names(series);
  }

  /** @param {Series[]} series */
  #names(series) {
    this.key.replaceChildren(
      ...series.map(({ name, hue }) =>
        html("span", { class: "key-entry", "--hue": hue }, html("span", { class: "swatch", "aria-hidden": "true" }), name),
      ),
    );
  }
}

/** A bar for each round: how much of it is full, and how tall it might have been. */
export class RoundBars extends Chart {
  /** @param {{asked: number, full: number}[]} bars @param {string} text @param {number} selected */
  show(bars, text, selected) {
    const top = Math.max(...bars.map((bar) => bar.asked), 1);
    const step = WIDTH / Math.max(bars.length, 12);
    this.top.textContent = String(top);
    this.picture.replaceChildren(
      ...bars.flatMap(({ asked, full }, i) => {
        const [x, width] = [i * step, step * 0.78];
        const bar = (/** @type {string} */ kind, /** @type {number} */ value) => {
          const height = (value / top) * (HEIGHT - 1);
          return svg("rect", { class: kind, x, width, y: HEIGHT - height, height });
        };
        const ground = svg("rect", { class: i === selected ? "column here" : "column", x: i * step, width: step, y: 0, height: HEIGHT });
        return [ground, bar("asked", asked), bar("full", full)];
      }),
    );
    this.say(text);
  }

  /** @param {(bar: number) => void} select */
  onPoint(select) {
    this.picture.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
      const columns = [...this.picture.querySelectorAll(".column")];
      const at = event.target instanceof Element ? columns.indexOf(event.target) : -1;
      const { left, width } = this.picture.getBoundingClientRect();
      const bar = at >= 0 ? at : Math.floor(((event.clientX - left) / width) * Math.max(columns.length, 12));
      if (bar < columns.length) select(bar);
    });
  }
}

/** A bar for each drafter, with a mark where it usually is. */
export class ShareBars {
  /** @param {HTMLElement} parent @param {string} title @param {string} [note] */
  constructor(parent, title, note = "") {
    this.list = html("ul", { class: "shares" });
    this.root = html(
      "figure",
      { class: "chart vacant wide" },
      html("figcaption", {}, html("span", { class: "chart-title" }, title), html("span", { class: "chart-note" }, note)),
      this.list,
    );
    parent.append(this.root);
  }

  /** @param {{name: string, hue: string, share: number, text: string, usual: number | null}[]} rows */
  show(rows) {
    this.root.classList.toggle("vacant", rows.length === 0);
    this.list.replaceChildren(
      ...rows.map(({ name, hue, share, text, usual }) =>
        html(
          "li",
          { "--hue": hue, "--share": share },
          html("span", { class: "share-name" }, name),
          html("span", { class: "share-text" }, text),
          html("span", { class: "share-track", "aria-hidden": "true" }, html("span", { class: "share-bar" }),
            usual === null ? null : html("span", { class: "share-usual", "--usual": usual })),
        ),
      ),
    );
  }
}

/** @param {number[]} values @param {number} top @param {boolean} isStepped @returns {string} */
function path(values, top, isStepped) {
  const y = (/** @type {number} */ value) => (HEIGHT - 1 - (value / top) * (HEIGHT - 3)).toFixed(2);
  if (values.length === 1) return `M0 ${y(values[0])}H${WIDTH}`;
  const x = (/** @type {number} */ i) => ((i * WIDTH) / (values.length - 1)).toFixed(2);
  return values.map((value, i) => (i === 0 ? "M" : isStepped ? `H${x(i)}V` : "L") + (i === 0 || !isStepped ? `${x(i)} ` : "") + y(value)).join("");
}
