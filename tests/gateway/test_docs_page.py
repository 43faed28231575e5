"""/docs in real Chromium: with the keyboard, at phone width, in light and dark, and no error."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.keys import Key, hash_of, write_keys
from services.gateway.reference.operations import OPERATIONS
from tests.gateway.conftest import Stage

playwright = pytest.importorskip("playwright.async_api")
pytestmark = pytest.mark.reference
SECRET = "qk-a-secret"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture
def gateway_settings(tmp_path: Path) -> dict[str, object]:
    file = tmp_path / "keys.json"
    write_keys(file, [Key("reader", hash_of(SECRET))])
    return {"keys": file}


@pytest.fixture
async def page(stage: Stage) -> AsyncIterator[Any]:
    """The page as somebody without a key finds it. All that the browser may complain of are
    answers with a 4xx, which it logs by itself."""
    async with playwright.async_playwright() as running:
        browser = await running.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        opened = await browser.new_page(viewport=WIDE)
        errors: list[str] = []
        opened.on("console", lambda told: errors.append(told.text) if told.type == "error" else 0)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        await opened.goto(f"{stage.url}/docs")
        yield opened
        await browser.close()
        assert [error for error in errors if "with a status of 4" not in error] == []


async def enter_key(page: Any) -> None:
    await page.wait_for_selector("#notice:not([hidden])")
    assert "asks for a key" in await page.inner_text("#notice")
    await page.fill("#key", SECRET)
    await page.press("#key", "Enter")
    await page.wait_for_selector("details.route")


async def test_it_shows_every_route(page: Any) -> None:
    await enter_key(page)
    paths = await page.locator("details.route .path").all_inner_texts()
    assert sorted(paths) == sorted(operation.path for operation in OPERATIONS)
    assert await page.is_hidden("#notice")


async def test_a_route_is_found_opened_and_tried_by_keyboard(page: Any) -> None:
    await enter_key(page)
    await page.focus("#theme")
    await page.keyboard.press("/")
    await page.keyboard.type("post chat/completions")
    assert await page.inner_text("#filter-count") == "1 route"
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    form = page.locator("#post_v1_chat_completions form.trial")
    await form.locator("textarea").focus()
    await page.keyboard.press("Control+Enter")
    status = form.locator(".status")
    await playwright.expect(status).to_contain_text("200 OK")
    assert "chat.completion" in await form.locator(".answer").inner_text()
    assert "x-request-id" in await form.locator(".headers").inner_text()


async def test_a_stream_and_a_mistake_are_shown(page: Any) -> None:
    await enter_key(page)
    await page.click("#post_v1_completions > summary")
    form = page.locator("#post_v1_completions form.trial")
    await form.get_by_role("button", name="Streamed").click()
    await form.get_by_role("button", name="Send").click()
    await playwright.expect(form.locator(".status")).to_contain_text("200 OK")
    assert (await form.locator(".answer").inner_text()).rstrip().endswith("data: [DONE]")
    await form.locator("textarea").fill("{")
    await form.get_by_role("button", name="Send").click()
    await playwright.expect(form.locator(".status")).to_contain_text("400")
    assert "not JSON" in await form.locator(".answer").inner_text()


async def test_fields_unfold_and_say_what_is_refused(page: Any) -> None:
    await enter_key(page)
    await page.click("#post_v1_completions > summary")
    body = page.locator("#post_v1_completions .fields").first
    await body.locator("summary", has_text="stream_options").click()
    assert await body.locator(".name", has_text="include_usage").is_visible()
    refused = body.locator("li", has_text="best_of").locator(".refused")
    assert await refused.is_visible()


async def test_it_fits_a_phone_in_light_and_dark(page: Any) -> None:
    await enter_key(page)
    await page.set_viewport_size(PHONE)
    await page.click("#post_v1_chat_completions > summary")
    assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    colours = set()
    for _ in range(2):
        await page.click("#theme")
        colours.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    await page.reload()
    await page.wait_for_selector("details.route")
