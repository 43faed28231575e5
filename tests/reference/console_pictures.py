"""python -m tests.reference.console_pictures: draws the pictures of docs/console anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.reference.browser import chromium, opened, serving

FOLDER = Path(__file__).parent.parent.parent / "docs" / "console"
DESKTOP = {"viewport": {"width": 1360, "height": 900}}
TALL = {"viewport": {"width": 1360, "height": 1240}}
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}
WARM_UP = ("def write_lines(path):\n", "class Stack:\n    def __init__(self")


def ask(page: Any, prompt: str) -> None:
    page.get_by_role("radio", name="Completion").check()
    page.locator("#prompt").fill(prompt)
    page.locator("#speculation").select_option("fixed")
    page.locator("#length").fill("5")
    page.locator("#prompt").press("Control+Enter")
    page.wait_for_selector("#answer-panel[data-state=done]")
    page.evaluate("document.activeElement.blur()")


def look(page: Any) -> None:
    """At a round of which there is much to see, and at the gateway for a few polls."""
    for prompt in (*WARM_UP, "def read_lines(path):\n"):
        ask(page, prompt)
    page.wait_for_function("document.querySelector('#gateway-note').textContent !== ''")
    # Of the rounds that began with something drafted ahead, the first.
    ahead = page.locator("rect.ahead.full")
    if ahead.count() > 0:
        picture = page.locator(".lanes-picture")
        left, box = picture.bounding_box()["x"], ahead.first.bounding_box()
        picture.hover(position={"x": box["x"] + box["width"] - left + 2, "y": 2})
        page.mouse.move(0, 0)
        page.evaluate("scrollTo(0, 0)")


def settle(page: Any) -> None:
    """Some of each kind of setting."""
    page.get_by_role("radio", name="Completion").check()
    page.locator("#prompt").fill("def read_lines(path):\n")
    page.locator("#speculation").select_option("most")
    page.locator("#length").fill("6")
    page.locator("#more summary").click()
    page.wait_for_function("document.querySelector('#vote').options.length > 1")
    page.locator("#vote").select_option("heaviest-path")
    page.get_by_role("checkbox", name="suffix").uncheck()
    page.locator("#structure").select_option("regex")
    page.locator("#structure-text").fill(" {4}return \\[[a-z]+(, [a-z]+)*\\]")
    page.evaluate("document.activeElement.blur()")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Drafting goes on during passes, so that there is something of it to see.
    with serving({"VERIFIER_DRAFTING": "ahead"}) as system, chromium() as browser:
        for scheme in ("light", "dark"):
            with opened(browser, system.url, color_scheme=scheme, **DESKTOP) as console:
                look(console.page)
                console.page.screenshot(path=FOLDER / f"{scheme}.png", full_page=True)
        with opened(browser, system.url, color_scheme="light", **DESKTOP) as console:
            settle(console.page)
            console.page.locator("#composer").screenshot(path=FOLDER / "settings.png")
        with opened(browser, system.url, color_scheme="light", **PHONE) as console:
            look(console.page)
            top = console.page.locator("#answer-panel").bounding_box()["y"]
            clip = {"x": 0, "y": top - 12, "width": 360, "height": 1180}
            console.page.screenshot(path=FOLDER / "phone.png", full_page=True, clip=clip)
        with opened(browser, system.url, color_scheme="light", **TALL) as console:
            page = console.page
            page.get_by_role("tab", name="Recommend").click()
            for _ in range(2):  # the first one warms up
                with page.expect_response("**/v1/recommendations"):
                    page.locator("#recommend-send").click()
                page.wait_for_selector(".score-list")
            page.locator(".block").first.hover()
            page.screenshot(path=FOLDER / "recommend.png", full_page=True)


if __name__ == "__main__":
    main()
