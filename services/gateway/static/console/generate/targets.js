/** Which targets there are, and which one is asked: a picker where there is a choice. */

import { ApiError, get } from "../lib/api.js";
import { byId, html } from "../lib/dom.js";

/** @typedef {{id: string, drafters?: string[], kind?: string}} Model */

/** The composer's model. */
export class Targets {
  /** @param {(drafters: string[]) => void} know @param {(why: string) => void} fail */
  constructor(know, fail) {
    this.know = know;
    this.fail = fail;
    this.name = byId("model-name");
    this.picker = byId("model");
    /** @type {Model[]} */
    this.all = [];
    this.isAsking = false;
    this.picker.addEventListener("change", () => this.#tell());
  }

  /** @returns {string | null} the model to name in a request, where there are several */
  get wanted() {
    return this.all.length > 1 ? this.picker.value : null;
  }

  /** Asks again: targets come and go while the gateway serves. */
  async refresh() {
    if (this.isAsking) return;
    this.isAsking = true;
    try {
      const { data } = await get("/v1/models");
      this.#show(data.filter((/** @type {Model} */ model) => model.kind !== "recommender"));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.miss(error.message);
    } finally {
      this.isAsking = false;
    }
  }

  /** @param {string} why the gateway does not say who is there; what it has said stays */
  miss(why) {
    if (this.all.length === 0) this.fail(why);
  }

  /** @param {Model[]} models */
  #show(models) {
    const isNew = models.map(({ id }) => id).join("\n") !== this.all.map(({ id }) => id).join("\n");
    this.all = models;
    if (isNew) {
      const chosen = this.picker.value;
      this.picker.replaceChildren(...models.map(({ id }) => html("option", { value: id }, id)));
      if (models.some(({ id }) => id === chosen)) this.picker.value = chosen;
    }
    byId("model-field").hidden = models.length < 2;
    this.name.hidden = models.length > 1;
    this.name.textContent = models[0]?.id ?? "no model";
    this.#tell();
  }

  #tell() {
    const chosen = this.all.find(({ id }) => id === this.picker.value) ?? this.all[0];
    this.know(chosen?.drafters ?? []);
  }
}
