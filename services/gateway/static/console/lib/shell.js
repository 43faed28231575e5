/** What frames the views: tabs, theme, the key's panel. */

import { keepKey, keptKey } from "./api.js";
import { byId } from "./dom.js";

const THEME = "quorum-theme";

/** Tabs as ARIA has them: arrows move, and what is moved to is shown. @param {(view: string) => void} opened */
export function tabs(opened) {
  /** @type {HTMLElement[]} */
  const all = [...document.querySelectorAll("[role=tab]")];
  const show = (/** @type {HTMLElement} */ chosen) => {
    for (const tab of all) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      byId(tab.getAttribute("aria-controls") ?? "").hidden = tab !== chosen;
    }
    const view = chosen.id.replace("tab-", "");
    history.replaceState(null, "", `#${view}`);
    opened(view);
  };
  all.forEach((tab, i) => {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step === undefined) return;
      const next = all[(i + step + all.length) % all.length];
      next.focus();
      show(next);
    });
  });
  show(all.find((tab) => `#${tab.id.replace("tab-", "")}` === location.hash) ?? all[0]);
}

/** The theme's button: what the system says, until somebody chooses. */
export function theme() {
  const button = byId("theme-button");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    const chosen = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    localStorage.setItem(THEME, chosen);
    show();
  });
  system.addEventListener("change", show);
  show();
}

/** The key's panel. @param {() => void} changed */
export function keyPanel(changed) {
  const panel = byId("key-panel");
  const input = byId("key-input");
  const show = () => byId("key-button").classList.toggle("set", keptKey() !== "");
  const use = (/** @type {string} */ key) => {
    keepKey(key);
    show();
    panel.hidePopover();
    changed();
  };
  // Before it is there: what is typed at once must not be written over.
  panel.addEventListener("beforetoggle", (/** @type {ToggleEvent} */ event) => {
    if (event.newState === "open") input.value = keptKey();
  });
  panel.addEventListener("toggle", (/** @type {ToggleEvent} */ event) => {
    if (event.newState === "open") input.focus();
  });
  byId("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    use(input.value.trim());
  });
  byId("key-forget").addEventListener("click", () => use(""));
  show();
}
