/** The form that sends a request of a route, and shows what comes back as it comes. */

import { html } from "./dom.js";

/**
 * @param {string} method
 * @param {string} path
 * @param {Record<string, any>} operation
 * @param {() => string} key
 * @returns {HTMLElement}
 */
export function trial(method, path, operation, key) {
  const parameters = (operation.parameters ?? []).map((one) => parameter(one, operation));
  const content = operation.requestBody?.content ?? {};
  const examples = Object.entries(content["application/json"]?.examples ?? {});
  const body = operation.requestBody
    ? html("textarea", { rows: 8, spellcheck: "false", "aria-label": "Body, as JSON" })
    : null;
  if (body) body.value = examples.length ? pretty(examples[0][1].value) : "{}";
  const picks = examples.map(([name, { value }]) =>
    html("button", { type: "button", class: "quiet", onclick: () => (body.value = pretty(value)) }, name),
  );
  const send = html("button", { type: "submit", class: "primary" }, "Send");
  const stop = html("button", { type: "button", class: "quiet", hidden: true }, "Stop");
  const copy = html("button", { type: "button", class: "quiet" }, "Copy as curl");
  const status = html("p", { class: "status", role: "status" });
  const headers = html("pre", { class: "headers", hidden: true, tabindex: 0, "aria-label": "Headers" });
  const answer = html("pre", { class: "answer", hidden: true, tabindex: 0, "aria-label": "Answer" });
  let running = new AbortController();

  /** @returns {{url: string, headers: Record<string, string>, body: string | undefined}} */
  function wanted() {
    let url = path;
    /** @type {Record<string, string>} */
    const given = {};
    for (const { name, place, input } of parameters) {
      if (place === "path") url = url.replace(`{${name}}`, encodeURIComponent(input.value));
      else if (input.value !== "") given[name] = input.value;
    }
    if (body) given["Content-Type"] = "application/json";
    if (key() && operation.security?.length) given.Authorization = `Bearer ${key()}`;
    return { url, headers: given, body: body?.value };
  }

  /** @param {SubmitEvent} event */
  async function submit(event) {
    event.preventDefault();
    running = new AbortController();
    const request = wanted();
    send.disabled = true;
    stop.hidden = false;
    status.textContent = "Waiting…";
    status.dataset.kind = "";
    headers.hidden = answer.hidden = true;
    const start = performance.now();
    try {
      const response = await fetch(request.url, {
        method: method.toUpperCase(),
        headers: request.headers,
        body: request.body,
        signal: running.signal,
      });
      status.dataset.kind = response.ok ? "good" : "bad";
      headers.textContent = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
      headers.hidden = answer.hidden = false;
      await show(response, answer);
      status.textContent = `${response.status} ${response.statusText}, ${elapsed(start)}`;
    } catch (error) {
      status.dataset.kind = "bad";
      status.textContent = running.signal.aborted
        ? `Stopped after ${elapsed(start)}`
        : `The gateway cannot be reached: ${error instanceof Error ? error.message : error}`;
    } finally {
      send.disabled = false;
      stop.hidden = true;
    }
  }

  stop.addEventListener("click", () => running.abort());
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(curl(method, wanted()));
    status.dataset.kind = "good";
    status.textContent = "Copied";
  });
  const form = html(
    "form",
    {
      class: "trial",
      onsubmit: submit,
      onkeydown: (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
        if (event.key === "Escape" && !stop.hidden) running.abort();
      },
    },
    ...parameters.map(({ row }) => row),
    picks.length > 1 ? html("div", { class: "row", role: "group", "aria-label": "Examples" }, ...picks) : null,
    body,
    html("div", { class: "row" }, send, stop, copy, status),
    headers,
    answer,
  );
  return form;
}

/** @param {Record<string, any>} one @param {Record<string, any>} operation */
function parameter(one, operation) {
  const input = html("input", {
    type: "text",
    required: one.required ?? false,
    autocomplete: "off",
    spellcheck: "false",
    placeholder: one.description ?? "",
  });
  const row = html("label", { class: "parameter" }, html("code", {}, one.name), input);
  return { name: one.name, place: one.in, input, row, operation };
}

/** Text as it comes; JSON is laid out once it is whole.
 * @param {Response} response @param {HTMLElement} answer */
async function show(response, answer) {
  answer.textContent = "";
  const kind = response.headers.get("Content-Type") ?? "";
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    answer.append(value);
  }
  if (kind.startsWith("application/json")) {
    try {
      answer.textContent = pretty(JSON.parse(answer.textContent));
    } catch {
      return; // what follows the JSON are bytes: shown as they came
    }
  }
}

/** @param {unknown} value @returns {string} */
function pretty(value) {
  return JSON.stringify(value, null, 2);
}

/** @param {number} start @returns {string} */
function elapsed(start) {
  return `${((performance.now() - start) / 1000).toFixed(3)} s`;
}

/** @param {string} method @param {{url: string, headers: Record<string, string>, body: string | undefined}} request */
function curl(method, { url, headers, body }) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const parts = ["curl", "-X", method.toUpperCase(), quoted(location.origin + url)];
  for (const [name, value] of Object.entries(headers)) {
    parts.push("-H", name === "Authorization" ? '"Authorization: Bearer $KEY"' : quoted(`${name}: ${value}`));
  }
  if (body !== undefined) parts.push("-d", quoted(body));
  return parts.join(" ");
}
