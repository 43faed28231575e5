/** What /v1/status says, every two seconds while the page is in sight. */

import { ApiError, get } from "../lib/api.js";

const PERIOD_MS = 2000;
const MAX_PERIOD_MS = 16000;

/** Asks again and again, more rarely while nobody answers. */
export class StatusPoll {
  /** @param {(status: any) => void} tell @param {(error: ApiError) => void} fail */
  constructor(tell, fail) {
    this.tell = tell;
    this.fail = fail;
    this.period = PERIOD_MS;
    /** @type {number | undefined} */
    this.timer = undefined;
    this.isAsking = false;
    this.isDue = false;
    document.addEventListener("visibilitychange", () => this.wake());
  }

  /** Asks now, or once more where an answer is on its way: it may be older than what has changed. */
  wake() {
    this.period = PERIOD_MS;
    this.isDue = this.isAsking;
    void this.#ask();
  }

  async #ask() {
    clearTimeout(this.timer);
    if (document.visibilityState !== "visible" || this.isAsking) return;
    this.isAsking = true;
    try {
      const status = await get("/v1/status");
      this.period = PERIOD_MS;
      this.tell(status);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.period = Math.min(MAX_PERIOD_MS, this.period * 2);
      this.fail(error);
    } finally {
      this.isAsking = false;
      this.timer = setTimeout(() => this.#ask(), this.isDue ? 0 : this.period);
      this.isDue = false;
    }
  }
}
