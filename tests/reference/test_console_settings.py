"""The console's settings of a request, in real Chromium: which model and drafters, which vote, what
the text must be; and what was drafted ahead."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.reference.browser import System, Watched, opened, playwright, serving
from tests.reference.test_console import (  # noqa: F401 - fixtures
    CONTRAST,
    DRAFTERS,
    QUESTION,
    REFUSED,
    answer_of,
    ask,
    await_state,
    browser,
    console,
    outlined,
    post,
    system,
    tab_to,
)
from tests.test_serve import ROOT

pytestmark = pytest.mark.reference
expect = playwright.expect
CHATS = "**/v1/chat/completions"
LONG = "a-target-of-a-very-long-name-that-no-phone-has-room-for-instruct-int8"


def open_more(page: Any) -> None:
    page.locator("#more summary").click()
    expect(page.locator("#vote option")).to_have_count(4)


def send(page: Any, max_tokens: int = 40) -> Any:
    """What the page asks for by its settings; waits for the answer."""
    page.locator("#prompt").fill(QUESTION)
    page.locator("#max-tokens").fill(str(max_tokens))
    with page.expect_request(CHATS) as sent:
        page.locator("#prompt").press("Control+Enter")
    await_state(page, "done")
    return sent.value.post_data_json


def test_a_request_asks_for_what_is_set_and_gets_the_same_text(
    console: Watched,  # noqa: F811
    system: System,  # noqa: F811
) -> None:
    page = console.page
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 40}
    plain = post(f"{system.url}/v1/chat/completions", {**body, "speculation": {"mode": "off"}})
    text = plain["choices"][0]["message"]["content"]
    open_more(page)
    asked = send(page)
    assert {"speculation", "structured_outputs", "model"} & asked.keys() == set()
    assert answer_of(page) == text
    page.locator("#speculation").select_option("most")
    page.locator("#length").fill("3")
    assert send(page)["speculation"] == {"max_length": 3}
    assert answer_of(page) == text
    page.locator("#speculation").select_option("fixed")
    page.locator("#vote").select_option("heaviest-path")
    page.get_by_role("checkbox", name="suffix").uncheck()
    page.get_by_role("checkbox", name="quorum-draft-small").uncheck()
    expect(page.locator("#more-set")).to_have_text("2 of 4 drafters, heaviest-path vote")
    chosen = ["ngram", "quorum-draft-wide"]
    asked = send(page)["speculation"]
    assert asked == {"length": 3, "drafters": chosen, "vote": "heaviest-path"}
    assert answer_of(page) == text
    assert set(page.locator("#request-charts .share-name").all_inner_texts()) <= set(chosen)
    assert page.locator(".token.accepted").count() > 0
    page.locator("#speculation").select_option("off")
    expect(page.locator("#more-set")).to_be_empty()
    assert send(page)["speculation"] == {"mode": "off"}
    assert answer_of(page) == text


@pytest.mark.parametrize(
    ("form", "text", "asked"),
    [
        ("json_object", None, {"json_object": True}),
        ("json", '{"enum": [{"a": 1}, {"a": 2}]}', {"json": {"enum": [{"a": 1}, {"a": 2}]}}),
        ("regex", "[0-9]{3}-[a-f]{2}", {"regex": "[0-9]{3}-[a-f]{2}"}),
        ("choice", "yes\n\nno way\n", {"choice": ["yes", "no way"]}),
    ],
)
def test_a_text_has_the_form_that_is_set(
    console: Watched,  # noqa: F811
    form: str,
    text: str | None,
    asked: object,
) -> None:
    page = console.page
    open_more(page)
    page.locator("#structure").select_option(form)
    if text is not None:
        page.locator("#structure-text").fill(text)
    assert send(page)["structured_outputs"] == asked
    said = answer_of(page)
    if form == "json":
        assert json.loads(said) in [{"a": 1}, {"a": 2}]
    elif form == "regex":
        assert re.fullmatch("[0-9]{3}-[a-f]{2}", said)
    elif form == "choice":
        assert said in ("yes", "no way")
    else:
        assert said.startswith("{")


@pytest.mark.parametrize(
    ("form", "text", "complaint"),
    [
        ("json", "", "Write what the text must be."),
        ("json", "{", "The schema is no JSON"),
        ("json", "[1]", "A schema is a JSON object."),
        ("choice", " ", "Write what the text must be."),
        ("regex", "", "Write what the text must be."),
    ],
)
def test_a_form_that_cannot_be_sent_says_why_where_it_is_written(
    console: Watched,  # noqa: F811
    form: str,
    text: str,
    complaint: str,
) -> None:
    page = console.page
    asked: list[object] = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("#prompt").fill(QUESTION)
    open_more(page)
    page.locator("#structure").select_option(form)
    field = page.locator("#structure-text")
    field.fill(text)
    page.locator("#more summary").click()  # folded, it opens again
    page.locator("#send").click()
    expect(field).to_be_focused()
    expect(field).to_have_attribute("aria-invalid", "true")
    assert complaint in field.evaluate("(e) => e.validationMessage")
    assert not [url for url in asked if "completions" in str(url)]
    field.fill("{}")
    expect(field).not_to_have_attribute("aria-invalid", "true")


def test_what_the_gateway_refuses_of_them_is_told_at_the_field(
    browser: Any,  # noqa: F811
    system: System,  # noqa: F811
) -> None:
    with opened(browser, system.url) as console:  # noqa: F811
        page = console.page
        open_more(page)
        page.locator("#structure").select_option("regex")
        page.locator("#structure-text").fill("([a-z")
        page.locator("#more summary").click()
        page.locator("#prompt").fill(QUESTION)
        page.locator("#send").click()
        await_state(page, "failed")
        expect(page.locator("#notice")).to_contain_text("structured_outputs")
        expect(page.locator("#structure-text")).to_be_focused()
        page.locator("#structure").select_option("")
        # One that is gone since the page has heard of it.
        there = {"id": "quorum-6m", "drafters": ["ngram", "gone"]}
        page.route("**/v1/models", lambda route: route.fulfill(json={"data": [there]}))
        page.reload()
        page.locator("#more summary").click()
        page.get_by_role("checkbox", name="ngram").uncheck()
        page.locator("#prompt").fill(QUESTION)
        page.locator("#send").click()
        expect(page.locator("#notice")).to_contain_text("no drafter 'gone' is live")
        expect(page.locator("#speculation")).to_be_focused()
        console.assert_clean(REFUSED)


def test_nobody_to_ask_must_be_meant(console: Watched) -> None:  # noqa: F811
    page = console.page
    page.locator("#prompt").fill(QUESTION)
    open_more(page)
    for name in DRAFTERS:
        page.get_by_role("checkbox", name=name).uncheck()
    first = page.locator("#drafter-list input").first
    page.locator("#send").click()
    expect(first).to_be_focused()
    assert "Choose a drafter" in first.evaluate("(e) => e.validationMessage")
    page.locator("#speculation").select_option("off")
    expect(page.locator("#drafters-note")).to_have_text("Speculation is off: nobody is asked.")
    expect(first).to_be_disabled()
    expect(page.locator("#vote")).to_be_disabled()
    assert send(page)["speculation"] == {"mode": "off"}


def test_drafters_and_rules_that_are_not_known_yet_or_at_all(
    browser: Any,  # noqa: F811
    system: System,  # noqa: F811
) -> None:
    """Loading, failed, empty, there: each is said, and the next look mends it."""
    with opened(browser, system.url) as console:  # noqa: F811
        page = console.page
        note, chips = page.locator("#drafters-note"), page.locator(".chip")
        held: list[Any] = []

        def answer(route: Any) -> None:
            """Not to the first question; to the next one, at the next look at the status."""
            if held:
                route.fulfill(json={"data": [{"id": "alone", "drafters": []}]})
            else:
                held.append(route)

        # The page that is left asks no more: the first question is the next one's.
        page.goto("about:blank")
        page.route("**/v1/models", answer)
        page.route("**/openapi.json", lambda route: route.fulfill(status=503, json={}))
        with page.expect_request("**/v1/models"):
            page.goto(f"{system.url}/")
        page.locator("#more summary").click()
        expect(note).to_have_text("Asking which drafters there are.")
        expect(page.locator("#vote-note")).to_have_text(re.compile("answered 503"))
        expect(page.locator("#vote")).to_be_disabled()
        page.unroute("**/openapi.json")
        page.locator("#more summary").click()
        page.locator("#more summary").click()
        expect(page.locator("#vote")).to_be_enabled()
        expect(page.locator("#vote-note")).to_be_empty()
        held[0].fulfill(status=500, json={"error": {"message": "the models are away"}})
        expect(note).to_have_text("the models are away")
        expect(note).to_have_text("No drafter is live: the target goes on by itself.")
        expect(page.locator("#model-name")).to_have_text("alone")
        page.unroute("**/v1/models")
        page.reload()
        page.locator("#more summary").click()
        expect(chips).to_have_count(len(DRAFTERS))
        expect(note).to_be_empty()
        console.assert_clean(REFUSED)


def test_where_there_are_several_targets_one_is_picked(
    browser: Any,  # noqa: F811
    system: System,  # noqa: F811
) -> None:
    phone = {"viewport": {"width": 360, "height": 740}}
    with opened(browser, system.url, **phone) as console:  # noqa: F811
        page = console.page
        expect(page.locator("#model-name")).to_have_text("quorum-6m")
        expect(page.locator("#model")).to_be_hidden()
        targets = [
            {"id": "quorum-6m", "drafters": ["ngram", "suffix"]},
            {"id": LONG, "drafters": ["suffix", f"{LONG}-draft"]},
            {"id": "import-next", "kind": "recommender"},
        ]
        page.route("**/v1/models", lambda route: route.fulfill(json={"data": targets}))
        page.reload()
        picker = page.locator("#model")
        expect(picker.locator("option")).to_have_text(["quorum-6m", LONG])
        expect(page.locator("#model-name")).to_be_hidden()
        page.locator("#more summary").click()
        assert send(page)["model"] == "quorum-6m"
        picker.select_option(LONG)
        expect(page.locator(".chip")).to_have_text(["suffix", f"{LONG}-draft"])
        widths = "[document.documentElement.scrollWidth, innerWidth]"
        assert page.evaluate(widths) == [360, 360]
        page.locator("#send").click()
        expect(page.locator("#notice")).to_contain_text("does not exist")
        console.assert_clean(REFUSED)


def test_targets_that_come_and_go_are_asked_as_long_as_they_are_there(
    browser: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    for name in ("quorum-6m", "quorum-draft-wide", "quorum-draft-small"):
        (tmp_path / name).symlink_to(ROOT / "models" / name)
    both = ("quorum-6m", "quorum-draft-wide")
    listed = tmp_path / "served.json"
    listed.write_text(json.dumps({name: {"drafters": ["quorum-draft-small"]} for name in both}))
    folders = {"GATEWAY_MODEL": tmp_path, "VERIFIER_MODEL": tmp_path}
    settings = {name: str(folder) for name, folder in folders.items()}
    with (
        serving({**settings, "DRAFTER_MODELS": f"{tmp_path},ngram"}) as several,
        opened(browser, several.url) as console,  # noqa: F811
    ):
        page = console.page
        expect(page.locator("#model option")).to_have_text(list(both))
        said = []
        for name in both:
            page.locator("#model").select_option(name)
            assert send(page)["model"] == name
            said.append(answer_of(page))
        assert said[0] != said[1]
        page.locator("#model").focus()
        fresh = tmp_path / "served.json.new"
        fresh.write_text(json.dumps({"quorum-draft-wide": {"drafters": []}}))
        fresh.rename(listed)
        expect(page.locator("#model-name")).to_have_text("quorum-draft-wide", timeout=30_000)
        expect(page.locator("#model")).to_be_hidden()
        page.locator("#more summary").click()
        expect(page.locator(".chip")).to_have_text(["ngram"], timeout=30_000)
        assert "model" not in send(page)
        assert answer_of(page) == said[1]
        console.assert_clean()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_settings_can_be_read_in_both_themes(
    browser: Any,  # noqa: F811
    system: System,  # noqa: F811
    scheme: str,
) -> None:
    with opened(browser, system.url, color_scheme=scheme) as console:  # noqa: F811
        page = console.page
        expect(page.locator("#health")).to_have_attribute("data-health", "ready")
        open_more(page)
        page.get_by_role("checkbox", name="suffix").uncheck()
        page.locator("#structure").select_option("choice")
        assert page.evaluate(CONTRAST) == []
        page.locator("#speculation").select_option("off")
        assert page.evaluate(CONTRAST) == []
        console.assert_clean()


def test_the_keyboard_reaches_every_setting(console: Watched) -> None:  # noqa: F811
    page = console.page
    page.locator("#prompt").fill(QUESTION)
    tab_to(page, "summary")
    page.keyboard.press("Enter")
    expect(page.locator("#vote option")).to_have_count(4)
    tab_to(page, "#drafter-list input")
    page.keyboard.press("Space")
    expect(page.locator("#more-set")).to_have_text("3 of 4 drafters")
    tab_to(page, "#vote")
    page.keyboard.press("End")
    expect(page.locator("#more-set")).to_have_text("3 of 4 drafters, heaviest-path vote")
    tab_to(page, "#structure")
    page.keyboard.press("End")
    tab_to(page, "#structure-text")
    page.keyboard.type("one")
    page.keyboard.press("Control+Enter")
    await_state(page, "done")
    assert answer_of(page) == "one"
    assert outlined(page)


def votes(*ready: int) -> list[dict[str, object]]:
    """Two drafters with proposals of four tokens."""
    tokens = [{"token": n, "text": f" {n}"} for n in range(4)]
    return [
        {"drafter": f"d{n}", "weight": 1.0, "tokens": tokens, "num_agreed": 4, "num_ready": number}
        for n, number in enumerate(ready)
    ]


def test_what_was_drafted_ahead_lies_beside_the_pass_before(console: Watched) -> None:  # noqa: F811
    """As full as it was ready, from the end of the drafting before to the end of that round."""
    page = console.page
    seconds = {"drafting": 0.002, "voting": 0.001, "hops": 0.003, "forward_pass": 0.004}
    tokens = [{"token": 1, "text": " 1", "source": "accepted", "drafters": ["d0"]}]
    rounds = [
        {
            "index": index, "started_s": 0.01 * (index + 1), "length": 4, "num_running": 1,
            "draft": votes(0)[0]["tokens"], "num_accepted": 1, "tokens": tokens,
            "votes": votes(*ready), "seconds": seconds,
        }
        for index, ready in enumerate([(0, 0), (4, 0), (0, 0), (4, 4)])
    ]  # fmt: skip
    choice = {"index": 0, "delta": {"content": " 1 1 1 1"}, "finish_reason": "stop"}
    chunk = {"choices": [choice], "trace": {"rounds": rounds}}
    stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    page.route(CHATS, lambda route: route.fulfill(body=stream, content_type="text/event-stream"))
    ask(page)
    await_state(page, "done")
    boxes = page.locator("rect.ahead").evaluate_all(
        "(all) => all.map((e) => ['x', 'width', 'height'].map((name) => e[name].baseVal.value))"
    )
    first, third = (0.013, 0.007), (0.033, 0.007)
    expected = [(*first, 16), (*first, 8), (*third, 16), (*third, 16)]
    assert [pytest.approx(box, rel=1e-3) for box in expected] == boxes
    lane = page.locator(".lane-label", has_text="Drafted ahead")
    page.locator(".token").nth(1).hover()
    expect(lane).to_contain_text("4 of 8")
    ready = page.locator(".vote .cell.ready")
    assert ready.count() == 4
    assert "drafted ahead" in str(ready.first.get_attribute("title"))
    expect(page.locator(".ready-note")).to_be_visible()
    page.locator(".token").nth(2).hover()
    expect(lane).to_contain_text("0 of 8")
    expect(page.locator(".ready-note")).to_have_count(0)


def test_a_real_request_shows_what_its_trace_says_was_ready(browser: Any) -> None:  # noqa: F811
    with (
        serving({"VERIFIER_DRAFTING": "ahead"}) as ahead,
        opened(browser, ahead.url) as console,  # noqa: F811
    ):
        page, answers = console.page, []

        def keep(route: Any) -> None:
            # The browser itself does not keep the body of a stream for long.
            response = route.fetch()
            answers.append(response.text())
            route.fulfill(response=response)

        page.route(CHATS, keep)
        ask(page, length=5)
        await_state(page, "done")
        lines = answers[0].split("\n\n")
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        told = [r for c in chunks for r in c.get("trace", {"rounds": []})["rounds"]]
        ready = [sum(vote["num_ready"] for vote in r["votes"]) for r in told]
        assert sum(ready) > 0
        assert page.locator("rect.ahead.full").count() == sum(number > 0 for number in ready[1:])
        console.assert_clean()
