/** The form of a generation: reads it as a request, says what is wrong in it. */

import { byId, html } from "../lib/dom.js";
import { Steering } from "./steering.js";
import { Structure } from "./structure.js";
import { Targets } from "./targets.js";

/** @type {Record<string, {placeholder: string, examples: string[]}>} */
const MODES = {
  chat: {
    placeholder: "Ask something",
    examples: ["What does textwrap.dedent do?", "What does os.path.join do?", "What is a context manager?"],
  },
  completion: {
    placeholder: "Begin a text",
    examples: ["def read_lines(path):\n", "class Queue:\n    def __init__(self", "import asyncio\n\nasync def main"],
  },
};
/** @type {Record<string, string>} the field of the page for one of a request */
const FIELDS = {
  prompt: "prompt",
  messages: "prompt",
  temperature: "temperature",
  max_tokens: "max-tokens",
  seed: "seed",
  speculation: "speculation",
  structured_outputs: "structure-text",
  model: "model",
};

/** The prompt box and its settings. */
export class Composer {
  /** @param {(wanted: import("./run.js").Wanted) => void} send @param {() => void} stop */
  constructor(send, stop) {
    this.form = byId("composer");
    this.prompt = byId("prompt");
    this.more = byId("more");
    this.steering = new Steering();
    this.structure = new Structure();
    this.targets = new Targets(
      (drafters) => {
        this.steering.know(drafters);
        this.#tellMore();
      },
      (why) => this.steering.fail(why),
    );
    this.form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      if (!this.isBusy && this.#isSound()) send(this.#wanted());
    });
    this.form.addEventListener("input", (/** @type {Event} */ event) => {
      if (event.target instanceof HTMLElement) event.target.removeAttribute("aria-invalid");
    });
    // Behind what the controls themselves do on a change.
    this.form.addEventListener("change", () => this.#tellMore());
    this.form.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    for (const radio of this.form.elements.mode) radio.addEventListener("change", () => this.#showMode());
    byId("stop").addEventListener("click", stop);
    this.isBusy = false;
    this.#showMode();
  }

  /** @param {boolean} isBusy whether an answer is under way */
  set busy(isBusy) {
    const focused = document.activeElement;
    this.isBusy = isBusy;
    const [send, stop] = [byId("send"), byId("stop")];
    send.hidden = isBusy;
    stop.hidden = !isBusy;
    // The button that had the focus is gone: it goes to the one in its place.
    if (focused === send || focused === stop) (isBusy ? stop : send).focus();
  }

  /** @param {string | null} param what a refusal is about */
  blame(param) {
    const field = FIELDS[(param ?? "").split(".")[0]];
    if (field !== undefined) this.#point(byId(field)).focus();
  }

  /** Whether all fields hold what they may; else the first that does not says so. */
  #isSound() {
    this.prompt.setCustomValidity(this.prompt.value === "" ? "Write a prompt first." : "");
    this.structure.check();
    const wrong = [...this.form.elements].find((e) => e.closest("[hidden]") === null && !e.checkValidity());
    if (wrong === undefined) return true;
    this.#point(wrong).reportValidity();
    return false;
  }

  /** What of the folded settings is not as usual. */
  #tellMore() {
    byId("more-set").textContent = [...this.steering.told, ...this.structure.told].join(", ");
  }

  /** Marks a field as wrong, where it can be seen. @param {any} field */
  #point(field) {
    if (this.more.contains(field)) this.more.open = true;
    field.setAttribute("aria-invalid", "true");
    return field;
  }

  /** @returns {import("./run.js").Wanted} */
  #wanted() {
    const number = (/** @type {string} */ id) => byId(id).valueAsNumber;
    const isChat = this.form.elements.mode.value === "chat";
    const text = this.prompt.value;
    /** @type {Record<string, unknown>} */
    const body = {
      ...(isChat ? { messages: [{ role: "user", content: text }] } : { prompt: text }),
      temperature: number("temperature"),
      max_tokens: number("max-tokens"),
      stream_options: { include_usage: true },
    };
    if (!Number.isNaN(number("seed"))) body.seed = number("seed");
    const more = { model: this.targets.wanted, speculation: this.steering.wanted(), structured_outputs: this.structure.wanted() };
    for (const [name, value] of Object.entries(more)) if (value !== null) body[name] = value;
    return { path: isChat ? "/v1/chat/completions" : "/v1/completions", body };
  }

  #showMode() {
    const { placeholder, examples } = MODES[this.form.elements.mode.value];
    this.prompt.placeholder = placeholder;
    const buttons = examples.map((text) => {
      const fill = () => {
        this.prompt.value = text;
        this.prompt.setCustomValidity("");
        this.prompt.focus();
      };
      return html("button", { class: "example", type: "button", onclick: fill }, text.trim().split("\n")[0]);
    });
    byId("examples").replaceChildren(...buttons);
  }
}
