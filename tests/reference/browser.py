"""A real Chromium on a real `python -m services`, and a page that notes whatever goes wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.redis_server import free_port
from tests.test_serve import PATIENCE_S, ROOT, read_until

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Told to the page before anything of it runs: what breaks its policy, and which controls are used.
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (e) => {
  window.violations.push(e.violatedDirective);
});
window.used = new Set();
for (const kind of ["click", "input", "keydown"]) {
  document.addEventListener(kind, (e) => {
    for (let at = e.target; at instanceof Element; at = at.parentElement) window.used.add(at);
  }, true);
}
"""


@dataclass
class System:
    """A running gateway with what serves behind it."""

    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(environment: Mapping[str, str] | None = None, *services: str) -> Iterator[System]:
    """All services, or those named, in one process with the shipped models."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "services", *services],
        cwd=ROOT,
        env={**os.environ, "GATEWAY_PORT": str(port), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        read_until(process, '"k": 5')
        yield System(f"http://127.0.0.1:{port}", process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's own, or the system's. Skips where this machine has neither."""
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        found = own if Path(own).exists() else next(filter(None, map(shutil.which, NAMES)), None)
        if found is None:
            pytest.skip(
                "no Chromium: apt-get install chromium, or python -m playwright install chromium"
            )
        browser = driver.chromium.launch(executable_path=found)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page, and what it has said and asked for."""

    page: Any
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    @property
    def violations(self) -> list[str]:
        return list(self.page.evaluate("window.violations"))

    def assert_clean(self, *allowed: str) -> None:
        """Nothing went wrong but what is allowed, which are parts of the browser's own lines."""
        assert [e for e in self.errors if not any(part in e for part in allowed)] == []
        assert self.outside == []
        assert self.violations == []


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Watched]:
    """The console in a browser window of its own: no cookie, key or choice of another."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(20_000)
    context.add_init_script(WATCH)
    page = context.new_page()
    watched = Watched(page)

    def hear(message: Any) -> None:
        if message.type in ("error", "warning"):
            watched.errors.append(message.text)

    def see(request: Any) -> None:
        if not request.url.startswith(f"{url}/"):
            watched.outside.append(request.url)

    page.on("console", hear)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("request", see)
    try:
        page.goto(f"{url}/")
        yield watched
    finally:
        context.close()
