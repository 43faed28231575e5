/** The view of generation: one request at a time, and all that shows it. */

import { ApiError } from "../lib/api.js";
import { byId, html } from "../lib/dom.js";
import { counted, duration, short, whole } from "../lib/format.js";
import { tell } from "../lib/notice.js";
import { RequestCharts } from "../live/request.js";
import { Answer } from "./answer.js";
import { Composer } from "./composer.js";
import { Inspector } from "./inspector.js";
import { Legend } from "./legend.js";
import { generate } from "./run.js";
import { Timeline } from "./timeline.js";
import { tellingRound, Trace } from "./trace.js";

/** @typedef {"idle" | "waiting" | "streaming" | "done" | "stopped" | "failed"} State */

/** Tokens are drawn as they come, charts a few times a second: they can be read, and cost little. */
const CHARTS_PERIOD_MS = 200;

export class GenerationView {
  /** @param {(drafter: string) => number | null} usual @param {() => void} onEnd */
  constructor(usual, onEnd) {
    const select = (/** @type {number} */ round) => this.#select(round, null);
    this.onEnd = onEnd;
    this.composer = new Composer((wanted) => void this.#run(wanted), () => this.stop());
    this.answer = new Answer((round, place) => this.#select(round, place));
    this.legend = new Legend((key) => this.answer.single(key));
    this.inspector = new Inspector();
    this.timeline = new Timeline(select);
    this.charts = new RequestCharts(select, usual);
    this.trace = new Trace();
    this.text = "";
    this.isFrameAsked = false;
    this.chartsDrawn = 0;
    /** @type {import("./trace.js").Token[]} */
    this.fresh = [];
    /** @type {AbortController | null} */
    this.control = null;
    byId("copy").addEventListener("click", () => void this.#copy());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.control !== null) this.stop();
    });
  }

  stop() {
    this.control?.abort();
  }

  /** @param {import("./run.js").Wanted} wanted */
  async #run(wanted) {
    const control = (this.control = new AbortController());
    this.#clear();
    this.composer.busy = true;
    this.#say("waiting", "Waiting for the first token");
    const started = performance.now();
    /** @type {{reason: string | null, usage: any, speculation: any, seconds: number}} */
    const end = { reason: null, usage: null, speculation: null, seconds: 0 };
    try {
      for await (const step of generate(wanted, control.signal)) {
        this.#take(step);
        end.reason = step.reason ?? end.reason;
        end.usage = step.usage ?? end.usage;
        end.speculation = step.speculation ?? end.speculation;
      }
      end.seconds = (performance.now() - started) / 1000;
      this.#finish(end);
    } catch (error) {
      this.#fail(error, control.signal.aborted);
    } finally {
      this.control = null;
      this.composer.busy = false;
      this.onEnd();
    }
  }

  #clear() {
    this.trace = new Trace();
    this.text = "";
    this.fresh = [];
    for (const part of [this.answer, this.legend, this.inspector, this.timeline, this.charts]) part.clear();
    tell(byId("notice"), null);
    byId("figures").hidden = true;
    byId("copy").hidden = true;
    byId("answer-text").textContent = "";
    byId("answer-empty").hidden = true;
  }

  /** @param {import("./run.js").Step} step */
  #take(step) {
    if (byId("answer-panel").dataset.state === "waiting") this.#say("streaming", "Answering");
    this.text += step.text;
    if (step.rounds !== null) this.fresh.push(...this.trace.add(step.rounds));
    // Without a trace there is but text. Where there is one, it has the text as well.
    else if (this.trace.rounds.length === 0) this.answer.addPlain(step.text);
    if (!this.isFrameAsked) {
      this.isFrameAsked = true;
      requestAnimationFrame((now) => {
        this.isFrameAsked = false;
        this.#draw(now - this.chartsDrawn > CHARTS_PERIOD_MS);
      });
    }
  }

  /** @param {boolean} [withCharts] */
  #draw(withCharts = true) {
    if (this.fresh.length > 0) this.answer.add(this.fresh);
    this.fresh = [];
    this.legend.show(this.trace.counts);
    if (!withCharts) return;
    this.chartsDrawn = performance.now();
    this.answer.single(this.legend.pressed);
    this.timeline.show(this.trace);
    this.charts.show(this.trace);
  }

  /** @param {{reason: string | null, usage: any, speculation: any, seconds: number}} end */
  #finish(end) {
    this.#draw();
    const count = end.usage?.completion_tokens ?? this.trace.tokens.length;
    const ending = end.reason === "length" ? "cut at the limit" : "ended by itself";
    this.#say("done", `Done, ${ending}`);
    this.#settle();
    const passes = end.speculation?.num_target_passes ?? this.trace.rounds.length;
    this.#showFigures([
      ["tokens", whole(count)],
      ["seconds", duration(end.seconds)],
      ["tokens a second", short(count / end.seconds)],
      ...(passes > 0 ? [["target passes", whole(passes)], ["tokens a pass", short(count / passes)]] : []),
    ]);
  }

  /** What is said of an answer that will not grow: its text as a whole, its most telling round. */
  #settle() {
    byId("answer-text").textContent = this.text;
    byId("copy").hidden = this.text === "";
    if (this.trace.tokens.length === 0 && this.text !== "") {
      byId("answer-status").textContent += "; this gateway does not tell where tokens come from";
    }
    const round = tellingRound(this.trace.rounds);
    if (round >= 0 && this.answer.active < 0) this.#select(round, null);
  }

  /** @param {unknown} error @param {boolean} isStopped */
  #fail(error, isStopped) {
    this.#draw();
    if (isStopped) {
      this.#say("stopped", `Stopped after ${counted(this.trace.tokens.length, "token")}`);
    } else if (error instanceof ApiError) {
      this.#say("failed", this.text === "" ? "" : "Broken off");
      tell(byId("notice"), error);
      this.composer.blame(error.status === 400 ? error.param : null);
    } else {
      throw error;
    }
    byId("answer-empty").hidden = this.text !== "" || this.trace.tokens.length > 0;
    this.#settle();
  }

  /** @param {string[][]} figures */
  #showFigures(figures) {
    byId("figures").hidden = false;
    byId("figures").replaceChildren(...figures.map(([name, value]) => html("div", {}, html("dd", {}, value), html("dt", {}, name))));
  }

  /** @param {State} state @param {string} text */
  #say(state, text) {
    byId("answer-panel").dataset.state = state;
    byId("answer-panel").setAttribute("aria-busy", String(state === "waiting" || state === "streaming"));
    byId("answer-status").textContent = text;
  }

  /** @param {number} index @param {number | null} place */
  #select(index, place) {
    const round = this.trace.rounds[index];
    if (round === undefined) return;
    this.inspector.show(round, place);
    this.answer.mark(index);
    this.timeline.mark(index);
    this.charts.mark(this.trace, index);
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.text);
      byId("answer-status").textContent = "Copied";
    } catch {
      byId("answer-status").textContent = "This browser does not let the page copy";
    }
  }
}
