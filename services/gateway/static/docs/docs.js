/** The page: reads /openapi.json and shows its routes. */

import { byId, html, prose } from "./dom.js";
import { Schemas } from "./schema.js";
import { trial } from "./trial.js";

const KEY = "quorum-key";
const THEME = "quorum-theme";

const key = byId("key");
key.value = sessionStorage.getItem(KEY) ?? "";

async function load() {
  const headers = key.value ? { Authorization: `Bearer ${key.value}` } : {};
  try {
    const response = await fetch("/openapi.json", { headers });
    if (response.status === 401) return tell("This gateway asks for a key. Type it above and press Enter.");
    if (!response.ok) return tell(`/openapi.json answers ${response.status}. Reload to try again.`);
    show(await response.json());
    byId("notice").hidden = true;
  } catch (error) {
    tell(`The gateway cannot be reached: ${error instanceof Error ? error.message : error}`);
  } finally {
    byId("main").setAttribute("aria-busy", "false");
  }
}

/** @param {string} text */
function tell(text) {
  const notice = byId("notice");
  notice.textContent = text;
  notice.hidden = false;
}

/** @param {Record<string, any>} api */
function show(api) {
  byId("version").textContent = `${api.info.version}, OpenAPI ${api.openapi}`;
  const paragraphs = api.info.description.split("\n\n");
  byId("introduction").replaceChildren(...paragraphs.map((text) => html("p", {}, ...prose(text))));
  const schemas = new Schemas(api.components.schemas);
  const groups = api.tags.map(({ name, description }) => ({ name, description, routes: [] }));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const group = groups.find(({ name }) => name === operation.tags[0]);
      group.routes.push({ method, path, operation });
    }
  }
  byId("routes").replaceChildren(
    ...groups.map(({ name, description, routes }) =>
      html(
        "section",
        { class: "group" },
        html("h2", {}, name),
        html("p", {}, ...prose(description)),
        ...routes.map((route) => shown(route, api, schemas)),
      ),
    ),
  );
  byId("contents").replaceChildren(
    ...groups.map(({ name, routes }) =>
      html("div", { class: "entries" }, html("h2", {}, name), html("ul", {}, ...routes.map(entry))),
    ),
  );
  filter();
  unfold();
}

/** @param {{method: string, path: string, operation: Record<string, any>}} route */
function entry({ method, path, operation }) {
  return html(
    "li",
    { "data-words": words(method, path, operation) },
    html("a", { href: `#${operation.operationId}` }, badge(method), html("span", {}, path)),
  );
}

/** @param {{method: string, path: string, operation: Record<string, any>}} route
 * @param {Record<string, any>} api @param {Schemas} schemas */
function shown({ method, path, operation }, api, schemas) {
  const content = html("div", { class: "content" });
  const details = html(
    "details",
    { class: "route", id: operation.operationId, "data-words": words(method, path, operation) },
    html(
      "summary",
      {},
      badge(method),
      html("code", { class: "path" }, path),
      html("span", { class: "summary" }, ...prose(operation.summary)),
    ),
    content,
  );
  // Filled once it is looked at: the whole document is thousands of elements.
  details.addEventListener("toggle", () => {
    if (details.open && !content.hasChildNodes()) {
      content.append(...parts(method, path, operation, api, schemas));
    }
  });
  return details;
}

/** @param {string} method @param {string} path @param {Record<string, any>} operation
 * @param {Record<string, any>} api @param {Schemas} schemas @returns {HTMLElement[]} */
function parts(method, path, operation, api, schemas) {
  const found = [];
  const access = operation.security.length ? "Asks for a key, where there are keys." : "Open without a key.";
  found.push(html("p", {}, access, " ", ...prose(operation.description ?? "")));
  for (const [kind, { schema }] of Object.entries(operation.requestBody?.content ?? {})) {
    found.push(html("h3", {}, "Body ", html("code", {}, kind)));
    if (schema) found.push(body(schema, schemas));
  }
  found.push(html("h3", {}, "Answers"));
  found.push(...Object.entries(operation.responses).map(([status, one]) => response(status, one, api, schemas)));
  found.push(html("h3", {}, "Try it"), trial(method, path, operation, () => key.value));
  return found;
}

/** @param {Record<string, any>} schema @param {Schemas} schemas */
function body(schema, schemas) {
  return schemas.fields(schema) ?? html("p", { class: "kind" }, schemas.kind(schema));
}

/** @param {string} status @param {Record<string, any>} given
 * @param {Record<string, any>} api @param {Schemas} schemas */
function response(status, given, api, schemas) {
  const one = given.$ref ? api.components.responses[given.$ref.split("/").pop()] : given;
  const kinds = Object.entries(one.content ?? {});
  const head = [
    html("code", { class: `code code-${status[0]}` }, status),
    html("span", {}, ...prose(one.description)),
    ...kinds.map(([kind]) => html("code", { class: "kind" }, kind)),
  ];
  const inner = kinds
    .map(([kind, { schema }]) => {
      const events = schema?.properties?.data.anyOf?.[0].contentSchema;
      if (events) return html("div", {}, html("p", {}, `Each event of ${kind}:`), body(events, schemas));
      return schema?.$ref ? body(schema, schemas) : null;
    })
    .filter((element) => element !== null);
  if (inner.length === 0) return html("div", { class: "response field" }, ...head);
  return html("details", { class: "response" }, html("summary", { class: "field" }, ...head), ...inner);
}

/** @param {string} method */
function badge(method) {
  return html("span", { class: `badge badge-${method}` }, method.toUpperCase());
}

/** @param {string} method @param {string} path @param {Record<string, any>} operation */
function words(method, path, operation) {
  return `${method} ${path} ${operation.summary}`.toLowerCase();
}

/** Hides what does not hold every word that was typed. */
function filter() {
  const wanted = byId("filter").value.toLowerCase().split(/\s+/);
  let count = 0;
  for (const one of document.querySelectorAll("[data-words]")) {
    one.hidden = !wanted.every((word) => one.dataset.words.includes(word));
    if (!one.hidden && one.tagName === "DETAILS") count += 1;
  }
  for (const group of document.querySelectorAll(".group, .entries")) {
    group.hidden = group.querySelector("[data-words]:not([hidden])") === null;
  }
  byId("filter-count").textContent = `${count} ${count === 1 ? "route" : "routes"}`;
}

/** Opens the route that the address names. */
function unfold() {
  const route = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!(route instanceof HTMLDetailsElement)) return;
  route.open = true;
  route.scrollIntoView();
  route.querySelector("summary")?.focus({ preventScroll: true });
}

function theme() {
  const own = document.documentElement.dataset;
  const isDark = own.theme ? own.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  byId("theme").textContent = isDark ? "Light" : "Dark";
  return isDark ? "light" : "dark";
}

byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = theme();
  localStorage.setItem(THEME, document.documentElement.dataset.theme ?? "");
  theme();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
key.addEventListener("change", () => sessionStorage.setItem(KEY, key.value));
byId("filter").addEventListener("input", filter);
window.addEventListener("hashchange", unfold);
document.addEventListener("keydown", (event) => {
  const at = event.target;
  const isTyping = at instanceof HTMLInputElement || at instanceof HTMLTextAreaElement;
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    byId("filter").focus();
  }
});
theme();
load();
