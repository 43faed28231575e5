/** The view of recommendation: a request's scores, and the plan that the tables are stored by. */

import { ApiError, get, post } from "../lib/api.js";
import { byId, html } from "../lib/dom.js";
import { duration } from "../lib/format.js";
import { tell } from "../lib/notice.js";
import { RecommendForm } from "./form.js";
import { drawPlan } from "./plan.js";
import { drawScores } from "./scores.js";

export class RecommendView {
  /** @param {() => Promise<string>} model the recommender's name */
  constructor(model) {
    this.model = model;
    this.form = new RecommendForm((body) => void this.#score(body));
    this.isDrawn = false;
    byId("scores").replaceChildren(html("p", { class: "empty" }, "Scores appear here, the best first."));
  }

  /** Asks for the plan, unless it is there. */
  async open() {
    if (this.isDrawn) return;
    const status = byId("plan-status");
    status.textContent = "Loading";
    tell(byId("plan-notice"), null);
    try {
      const name = await this.model();
      const plan = await get(`/v1/recommenders/${encodeURIComponent(name)}/plan`);
      drawPlan(byId("plan"), plan);
      status.textContent = plan.model;
      this.isDrawn = true;
    } catch (error) {
      status.textContent = "";
      tell(byId("plan-notice"), known(error));
    }
  }

  /** @param {Record<string, unknown>} body */
  async #score(body) {
    const status = byId("scores-status");
    this.form.busy = true;
    status.textContent = "Scoring";
    tell(byId("scores-notice"), null);
    const started = performance.now();
    try {
      const answer = await post("/v1/recommendations", body);
      drawScores(byId("scores"), answer);
      status.textContent = `${answer.data.length} scores in ${duration((performance.now() - started) / 1000)}`;
    } catch (error) {
      status.textContent = "";
      byId("scores").replaceChildren();
      const refusal = known(error);
      tell(byId("scores-notice"), refusal);
      this.form.blame(refusal.status === 400 ? refusal.param : null);
    } finally {
      this.form.busy = false;
    }
  }
}

/** @param {unknown} error @returns {ApiError} */
function known(error) {
  if (error instanceof ApiError) return error;
  throw error;
}
