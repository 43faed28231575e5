/**
 * A request's rounds on a time axis, a lane for each part: the pipeline as it ran. Positions are in
 * seconds of the SVG's own coordinates, so that zooming and new rounds move nothing one by one.
 */

import { byId, html, svg } from "../lib/dom.js";
import { duration, percent } from "../lib/format.js";
import { aheadOf, lasted, PARTS } from "./trace.js";

/** @typedef {import("./trace.js").Round} Round */

/** What drafters did while the target verified takes none of a round's own time. */
const AHEAD = { key: "ahead", name: "Drafted ahead" };
const LANES = [PARTS[0], AHEAD, ...PARTS.slice(1)];
const LANE = 26;
const STRIP = 30;
const HEIGHT = STRIP + LANE * LANES.length;
const MAX_ZOOM = 256;
/** A round's messages cross the bus three times; their seconds are told as one, and drawn as three. */
const ORDER = ["hops", "drafting", "hops", "voting", "hops", "waiting", "forward_pass", "sampling", "rest"];
const NUM_HOPS = 3;

/** The picture, its zoom, and the figures of the round that is looked at. */
export class Timeline {
  /** @param {(round: number) => void} select */
  constructor(select) {
    this.select = select;
    this.readout = byId("timeline-readout");
    this.zoom = 1;
    this.scroller = html("div", { class: "lanes-scroll", tabindex: 0, role: "region" });
    this.values = LANES.map(() => html("span", { class: "lane-value" }));
    byId("timeline").append(
      html("p", { class: "empty", id: "timeline-empty" }, "Each round's drafting, voting, hops and passes, side by side in time."),
      html("div", { class: "lanes", id: "lanes", hidden: true }, this.#labels(), this.scroller),
      html("p", { class: "note", id: "timeline-keys", hidden: true }, "Arrows walk the rounds, + and − zoom, 0 fits."),
    );
    this.scroller.setAttribute("aria-label", "Rounds in time");
    this.scroller.setAttribute("aria-describedby", "timeline-keys");
    byId("zoom-in").addEventListener("click", () => this.#setZoom(this.zoom * 2));
    byId("zoom-out").addEventListener("click", () => this.#setZoom(this.zoom / 2));
    byId("zoom-fit").addEventListener("click", () => this.#setZoom(1));
    this.scroller.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#press(event));
    this.clear();
  }

  clear() {
    /** @type {import("./trace.js").Trace | null} */
    this.trace = null;
    this.num = 0;
    this.selected = -1;
    this.readout.textContent = "";
    this.band = svg("rect", { class: "band", y: 0, height: HEIGHT, width: 0 });
    this.marks = svg("g");
    const stripes = LANES.map((_, i) => {
      return svg("rect", { class: `lane-ground${i % 2 ? " odd" : ""}`, x: 0, y: STRIP + i * LANE, height: LANE, width: "100%" });
    });
    this.picture = svg("svg", { class: "lanes-picture", height: HEIGHT, preserveAspectRatio: "none", "aria-hidden": "true" }, ...stripes, this.band, this.marks);
    this.axis = html("div", { class: "axis", "aria-hidden": "true" });
    this.inner = html("div", { class: "lanes-inner" }, this.axis, this.picture);
    this.picture.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.#point(event));
    this.picture.addEventListener("click", (/** @type {PointerEvent} */ event) => this.#point(event));
    this.scroller.replaceChildren(this.inner);
    this.#setZoom(1);
    this.#reveal(false);
  }

  /** Draws what is new. @param {import("./trace.js").Trace} trace */
  show(trace) {
    this.trace = trace;
    if (trace.rounds.length === 0) return;
    if (this.num === 0) this.marks.append(...prompt(trace.rounds[0]));
    for (; this.num < trace.rounds.length; this.num += 1) {
      this.marks.append(...drawn(trace.rounds[this.num]), ...drawnAhead(trace.rounds[this.num], trace.rounds[this.num - 1]));
    }
    this.picture.setAttribute("viewBox", `0 0 ${trace.end} ${HEIGHT}`);
    for (const ground of this.picture.querySelectorAll(".lane-ground")) ground.setAttribute("width", String(trace.end));
    this.#reveal(true);
    this.#drawAxis();
    if (this.selected < 0) this.#sum();
  }

  /** @param {number} index of a round */
  mark(index) {
    const round = this.trace?.rounds[index];
    if (round === undefined) return;
    this.selected = index;
    this.band.setAttribute("x", String(round.started_s));
    this.band.setAttribute("width", String(lasted(round)));
    const span = `${duration(round.started_s)} to ${duration(round.started_s + lasted(round))}`;
    this.readout.textContent = `round ${index + 1} of ${this.num}, ${span}, ${round.num_accepted} of ${round.draft.length} accepted`;
    const { ready, proposed } = aheadOf(round);
    LANES.forEach(({ key }, i) => {
      const isAhead = key === AHEAD.key;
      this.values[i].textContent = isAhead ? `${ready} of ${proposed}` : duration(round.seconds[key] ?? 0);
    });
  }

  /** The lanes' figures of the whole request. */
  #sum() {
    const { rounds } = /** @type {import("./trace.js").Trace} */ (this.trace);
    const total = rounds.reduce((sum, round) => sum + lasted(round), 0);
    const all = rounds.map(aheadOf);
    const [ready, proposed] = [all.reduce((sum, one) => sum + one.ready, 0), all.reduce((sum, one) => sum + one.proposed, 0)];
    LANES.forEach(({ key }, i) => {
      const part = rounds.reduce((sum, round) => sum + (round.seconds[key] ?? 0), 0);
      this.values[i].textContent = key === AHEAD.key ? percent(ready / proposed) : percent(part / total);
    });
  }

  #labels() {
    const rows = LANES.map(({ key, name }, i) =>
      html("div", { class: "lane-label" }, html("span", { class: `swatch stage ${key}`, "aria-hidden": "true" }), html("span", { class: "lane-name" }, name), this.values[i]),
    );
    return html("div", { class: "lane-labels" }, html("div", { class: "lane-label strip-label" }, html("span", { class: "lane-name" }, "Rounds")), ...rows);
  }

  /** @param {boolean} isThere */
  #reveal(isThere) {
    byId("timeline-empty").hidden = isThere;
    byId("lanes").hidden = !isThere;
    byId("timeline-keys").hidden = !isThere;
    for (const id of ["zoom-in", "zoom-out", "zoom-fit"]) byId(id).disabled = !isThere;
  }

  /** Keeps the middle, or the round that is looked at, where it is. @param {number} zoom */
  #setZoom(zoom) {
    const { scrollLeft, clientWidth, scrollWidth } = this.scroller;
    const middle = scrollWidth > 0 ? (scrollLeft + clientWidth / 2) / scrollWidth : 0.5;
    this.zoom = Math.min(MAX_ZOOM, Math.max(1, zoom));
    this.inner.style.setProperty("--zoom", String(this.zoom));
    this.scroller.scrollLeft = middle * this.scroller.scrollWidth - clientWidth / 2;
    this.#drawAxis();
    this.#bringIntoView();
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowRight: () => this.#walk(this.selected + 1),
      ArrowLeft: () => this.#walk(this.selected - 1),
      Home: () => this.#walk(0),
      End: () => this.#walk(this.num - 1),
      "+": () => this.#setZoom(this.zoom * 2),
      "=": () => this.#setZoom(this.zoom * 2),
      "-": () => this.#setZoom(this.zoom / 2),
      0: () => this.#setZoom(1),
    };
    const action = event.ctrlKey || event.metaKey ? undefined : actions[event.key];
    if (action === undefined || this.num === 0) return;
    event.preventDefault();
    action();
  }

  /** @param {number} index */
  #walk(index) {
    this.select(Math.min(this.num - 1, Math.max(0, index)));
    this.#bringIntoView();
  }

  #bringIntoView() {
    const round = this.trace?.rounds[this.selected];
    if (round === undefined || this.trace === null) return;
    const { scrollWidth, clientWidth, scrollLeft } = this.scroller;
    const at = ((round.started_s + lasted(round) / 2) / this.trace.end) * scrollWidth;
    if (at < scrollLeft || at > scrollLeft + clientWidth) this.scroller.scrollLeft = at - clientWidth / 2;
  }

  /** @param {PointerEvent} event */
  #point(event) {
    if (this.trace === null) return;
    const { left, width } = this.picture.getBoundingClientRect();
    this.select(this.trace.roundAt(((event.clientX - left) / width) * this.trace.end));
  }

  #drawAxis() {
    const end = this.trace?.end ?? 0;
    const width = this.inner.clientWidth;
    if (end === 0 || width === 0) return;
    const step = tick(end / Math.max(1, width / 110));
    const ticks = [];
    for (let i = 0; i * step < end - (end * 50) / width; i += 1) {
      ticks.push(html("span", { class: "tick", "--at": (i * step) / end }, duration(i * step)));
    }
    this.axis.replaceChildren(...ticks);
  }
}

/** What came before the first round: the prompt's prefill and waiting for it. @param {Round} first */
function prompt(first) {
  return [svg("rect", { class: "stage prompt", x: 0, y: 6, height: STRIP - 12, width: first.started_s })];
}

/** @param {Round} round @returns {SVGElement[]} */
function drawn(round) {
  const width = lasted(round);
  const accepted = round.tokens.length > 0 ? round.num_accepted / round.tokens.length : 0;
  // The upper strip: as full as the round's tokens were drafted ones.
  const tall = STRIP - 12;
  const marks = [
    svg("rect", { class: "round", x: round.started_s, y: 6, height: tall, width: width * 0.94 }),
    svg("rect", { class: "round full", x: round.started_s, y: 6 + tall * (1 - accepted), height: tall * accepted, width: width * 0.94 }),
  ];
  let at = round.started_s;
  for (const key of ORDER) {
    const seconds = (round.seconds[key] ?? 0) / (key === "hops" ? NUM_HOPS : 1);
    if (seconds > 0) {
      marks.push(svg("rect", { class: `stage ${key}`, x: at, y: laneOf(key) + 5, height: LANE - 10, width: seconds }));
    }
    at += seconds;
  }
  return marks;
}

/** @param {string} key of a lane @returns {number} where it begins */
function laneOf(key) {
  return STRIP + LANE * LANES.findIndex((lane) => lane.key === key);
}

/**
 * What was ready when a round asked for it was drafted behind the proposal of the round before, while
 * that was voted on and verified: as full as the proposals were ready.
 * @param {Round} round
 * @param {Round | undefined} before
 * @returns {SVGElement[]}
 */
function drawnAhead(round, before) {
  const { ready, proposed } = aheadOf(round);
  if (ready === 0 || before === undefined) return [];
  const hop = (before.seconds.hops ?? 0) / NUM_HOPS;
  const x = before.started_s + hop + (before.seconds.drafting ?? 0);
  const width = Math.max(0, before.started_s + lasted(before) - x);
  const [y, tall] = [laneOf(AHEAD.key) + 5, LANE - 10];
  const full = (tall * ready) / proposed;
  return [
    svg("rect", { class: "ahead", x, y, height: tall, width }),
    svg("rect", { class: "ahead full", x, y: y + tall - full, height: full, width }),
  ];
}

/** @param {number} least @returns {number} 1, 2 or 5 times a power of ten */
function tick(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least) ?? least;
}
