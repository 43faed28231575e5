/* Light or dark before the first paint: the reader's choice, or the system's. A classic script, so that it runs at once. */
"use strict";
{
  const kept = localStorage.getItem("quorum-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}
