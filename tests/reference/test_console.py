"""The console in real Chromium, against the real system with the shipped models."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reference.browser import System, Watched, chromium, opened, playwright, serving

pytestmark = pytest.mark.reference
expect = playwright.expect

QUESTION = "What does textwrap.dedent do?"
MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
CONTRAST = (Path(__file__).parent / "contrast.js").read_text().strip().rstrip(";")
DRAFTERS = {"quorum-draft-small", "quorum-draft-wide", "ngram", "suffix"}
REFUSED = "Failed to load resource"
"""What Chromium itself says of an answer that is no 2xx, and of a connection that is gone."""
# Every control in sight that nothing has been done with.
UNUSED = """() => [...document.querySelectorAll("button, input, select, textarea, summary")]
  .filter((e) => e.checkVisibility() && !window.used.has(e))
  .map((e) => e.id || e.className || e.value || e.textContent)"""

# Cells of the winning draft whose colour is that of no drafter with such a cell there.
UNSEEN_LEADERS = """() => {
  const all = [...document.querySelectorAll(".votes tbody tr")];
  const rows = all.map((row) => [...row.children].slice(1));
  const hue = (cell) => cell.firstElementChild?.style.getPropertyValue("--hue");
  return rows[1].filter((cell, i) => {
    return hue(cell) && !rows.slice(2).some((row) => hue(row[i]) === hue(cell));
  }).map((cell) => cell.textContent);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with serving() as running:
        yield running


@pytest.fixture
def console(browser: Any, system: System) -> Iterator[Watched]:
    with opened(browser, system.url) as watched:
        yield watched
        watched.assert_clean()


def ask(page: Any, prompt: str = QUESTION, *, length: int = 4, max_tokens: int = 48) -> None:
    """Sends a chat whose drafts have a fixed length, so that there is something to see."""
    page.locator("#prompt").fill(prompt)
    page.locator("#max-tokens").fill(str(max_tokens))
    page.locator("#speculation").select_option("fixed")
    page.locator("#length").fill(str(length))
    page.locator("#prompt").press("Control+Enter")


def await_state(page: Any, state: str) -> None:
    expect(page.locator("#answer-panel")).to_have_attribute("data-state", state, timeout=60_000)


def answer_of(page: Any) -> str:
    return str(page.locator("#answer").evaluate("(e) => e.textContent"))


def post(url: str, body: dict[str, object]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_an_answer_shows_where_each_token_came_from(console: Watched, system: System) -> None:
    page = console.page
    ask(page)
    await_state(page, "done")
    body = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 48}
    plain = post(f"{system.url}/v1/chat/completions", {**body, "speculation": {"mode": "off"}})
    assert answer_of(page) == plain["choices"][0]["message"]["content"]
    counts = dict(
        page.locator("#legend .entry").evaluate_all(
            "(all) => all.map((e) => [e.dataset.key, Number(e.lastElementChild.textContent)])"
        )
    )
    assert sum(counts.values()) == plain["usage"]["completion_tokens"]
    assert counts.keys() <= DRAFTERS | {"corrected", "bonus", "plain"}
    assert counts.keys() & DRAFTERS
    tokens = page.locator(".token.accepted")
    colours = {
        str(tokens.nth(i).evaluate("(e) => getComputedStyle(e).backgroundColor"))
        for i in range(tokens.count())
    }
    assert "rgba(0, 0, 0, 0)" not in colours


def test_a_token_shows_the_votes_of_its_round(console: Watched) -> None:
    page = console.page
    ask(page)
    await_state(page, "done")
    token = page.locator(".token.accepted").nth(3)
    token.hover()
    number, place = (int(token.get_attribute(f"data-{what}")) for what in ("round", "place"))
    expect(page.locator("#inspector-name")).to_contain_text(f"round {number + 1},")
    expect(page.locator(".votes thead .here")).to_have_text(str(place + 1))
    names = page.locator(".votes .vote .who").all_inner_texts()
    assert set(names) <= DRAFTERS
    assert len(names) == len(set(names)) > 1
    said = page.locator(".votes .outcome").first.locator("td").nth(place).inner_text()
    text = str(token.text_content())
    assert said.startswith(text.replace(" ", "·").replace("\n", "↵").strip() or "#")
    assert page.evaluate(UNSEEN_LEADERS) == []
    rounds = page.locator(f'.token[data-round="{number}"]')
    assert rounds.count() == page.locator(".token.same-round").count()
    expect(page.locator("#timeline-readout")).to_contain_text(f"round {number + 1} of")


def test_charts_and_timeline_show_every_round(console: Watched, system: System) -> None:
    page = console.page
    ask(page)
    await_state(page, "done")
    passes = int(page.locator("#figures dd").nth(3).inner_text())
    assert page.locator("rect.round:not(.full)").count() == passes
    assert page.locator("rect.stage.forward_pass").count() == passes
    assert page.locator("#request-charts rect.column").count() == passes
    assert set(page.locator("#request-charts .share-name").all_inner_texts()) == DRAFTERS
    expect(page.locator("#gateway-note")).to_contain_text("tokens so far")
    expect(page.locator("#gateway-charts .instances")).to_contain_text("verifier")
    boxes = page.locator("rect.stage.forward_pass").evaluate_all(
        "(all) => all.map((e) => [e.x.baseVal.value, e.width.baseVal.value])"
    )
    ends = [start + width for start, width in boxes]
    assert all(end <= start for end, (start, _) in zip(ends, boxes[1:], strict=False))


def test_every_control_can_be_used(console: Watched) -> None:
    page = console.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("radio", name="Completion").click()
    page.locator(".example").first.click()
    expect(page.locator("#prompt")).to_have_value("def read_lines(path):\n")
    for i in range(1, page.locator(".example").count()):
        page.locator(".example").nth(i).click()
    page.get_by_role("radio", name="Chat").click()
    for i in range(page.locator(".example").count()):
        page.locator(".example").nth(i).click()
    page.locator("#temperature").fill("0.7")
    page.locator("#seed").fill("7")
    use_more(page)
    use_speculation(page)
    page.locator("#copy").click()
    expect(page.locator("#answer-status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == answer_of(page)
    use_frame(page)
    use_legend_and_timeline(page)
    page.get_by_role("tab", name="Recommend").click()
    use_recommender(page)
    page.get_by_role("tab", name="Generate").click()
    assert page.evaluate(UNUSED) == []
    page.get_by_role("tab", name="Recommend").click()
    assert page.evaluate(UNUSED) == []


def use_speculation(page: Any) -> None:
    """Off, and three lengths: the same text."""
    texts = []
    for mode, source in (("off", "plain"), ("auto", None), ("most", None), ("fixed", "accepted")):
        page.locator("#speculation").select_option(mode)
        if mode in ("most", "fixed"):
            page.locator("#length").fill("6")
        else:
            expect(page.locator("#length")).to_be_hidden()
        page.locator("#max-tokens").fill("40")
        page.locator("#send").click()
        await_state(page, "done")
        texts.append(answer_of(page))
        if source is not None:
            assert page.locator(f".token.{source}").count() > 0
        assert mode != "off" or page.locator(".token:not(.plain)").count() == 0
    assert len(set(texts)) == 1


def use_more(page: Any) -> None:
    """Each drafter off and on, every vote rule, every form of the text."""
    page.locator("#more summary").click()
    expect(page.locator("#drafter-list .chip")).to_have_text(sorted(DRAFTERS))
    for i in range(len(DRAFTERS)):
        page.locator("#drafter-list input").nth(i).click()
        expect(page.locator("#more-set")).to_have_text("3 of 4 drafters")
        page.locator("#drafter-list input").nth(i).click()
    expect(page.locator("#vote option")).to_have_count(4)
    for rule in (*("learned", "greedy", "heaviest-path"), ""):
        page.locator("#vote").select_option(rule)
        expect(page.locator("#more-set")).to_have_text(f"{rule} vote" if rule else "")
    for form in ("json_object", "json", "regex", "choice"):
        page.locator("#structure").select_option(form)
    page.locator("#structure-text").fill("yes\nno")
    page.locator("#send").click()
    await_state(page, "done")
    assert answer_of(page) in ("yes", "no")
    page.locator("#structure").select_option("")
    expect(page.locator("#structure-text")).to_be_hidden()
    page.locator("#more summary").click()
    expect(page.locator("#vote")).to_be_hidden()
    page.locator("#more summary").click()


def use_legend_and_timeline(page: Any) -> None:
    for i in range(page.locator("#legend .entry").count()):
        entry = page.locator("#legend .entry").nth(i)
        entry.click()
        key = entry.get_attribute("data-key")
        assert page.locator(f'.token.dim[data-key="{key}"]').count() == 0
        assert page.locator(".token.dim").count() > 0
        entry.click()
        assert page.locator(".token.dim").count() == 0
    inner = page.locator(".lanes-inner")
    fitting = inner.bounding_box()["width"]
    page.locator("#zoom-in").click()
    page.locator("#zoom-in").click()
    assert inner.bounding_box()["width"] == pytest.approx(4 * fitting, rel=0.01)
    page.locator("#zoom-out").click()
    assert inner.bounding_box()["width"] == pytest.approx(2 * fitting, rel=0.01)
    page.locator("#zoom-fit").click()
    assert inner.bounding_box()["width"] == pytest.approx(fitting, rel=0.01)
    page.locator(".lanes-picture").hover(position={"x": 2, "y": 60})
    expect(page.locator("#timeline-readout")).to_contain_text("round 1 of")
    picture = page.locator("#request-charts .plot").first
    picture.hover(position={"x": 2, "y": 30})
    expect(page.locator("#inspector-name")).to_contain_text("round 1,")


def use_frame(page: Any) -> None:
    """Theme, key and stop."""
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme-button").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.locator("#key-button").click()
    page.locator("#key-input").fill("qk-unneeded")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#key-panel")).to_be_hidden()
    assert page.evaluate("sessionStorage.getItem('quorum-key')") == "qk-unneeded"
    page.locator("#key-button").click()
    page.get_by_role("button", name="Forget it").click()
    assert page.evaluate("sessionStorage.getItem('quorum-key')") is None
    page.locator("#temperature").fill("0")
    ask(page, length=1, max_tokens=900)
    expect(page.locator(".token").first).to_be_visible()
    page.locator("#stop").click()
    await_state(page, "stopped")
    expect(page.locator("#send")).to_be_focused()
    assert answer_of(page)


def use_recommender(page: Any) -> None:
    page.locator("#recommend-send").click()
    expect(page.locator(".score-list li")).to_have_count(10)
    page.locator("#add-context").click()
    expect(page.locator(".context-name").last).to_be_focused()
    page.locator(".context-row").last.locator(".remove").click()
    expect(page.locator(".context-row")).to_have_count(2)
    for kind in ("name", "values"):
        for i in range(2):
            page.locator(f".context-{kind}").nth(i).click()
    page.locator(".context-values").last.fill("socket, ssl, no.such.module")
    page.locator("#candidates").fill("json, asyncio, selectors")
    page.locator("#best").fill("2")
    page.locator("#recommend-send").click()
    expect(page.locator(".score-list li")).to_have_count(2)
    expect(page.locator("#scores .note")).to_contain_text("1 name of the request unknown")
    page.get_by_role("radio", name="Numbers").click()
    page.locator("#inputs").fill(
        '{"package": [[1]], "imports": [[2]], "last_import": [[2]], "import_roots": [[2]],'
        ' "module": [3, 4, 5], "module_root": [1, 1, 1]}'
    )
    page.locator("#recommend-send").click()
    expect(page.locator(".score-list .item").first).to_contain_text("item ")
    page.get_by_role("radio", name="Names").click()
    for i in range(page.locator(".block").count()):
        page.locator(".block").nth(i).click()
        name = page.locator(".block-name").nth(i).text_content()
        expect(page.locator(".table-detail strong")).to_have_text(str(name))
    page.get_by_text("As a table").click()
    expect(page.locator(".as-table tbody tr")).to_have_count(6)
    for _ in range(2):
        page.locator(".context-row .remove").first.click()
    expect(page.locator("#add-context")).to_be_focused()


def test_the_keyboard_is_enough(console: Watched) -> None:
    page = console.page
    keys = page.keyboard
    keys.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    assert outlined(page)
    tab_to(page, "#tab-generate")
    keys.press("ArrowRight")
    expect(page.locator("#view-recommend")).to_be_visible()
    keys.press("ArrowLeft")
    expect(page.locator("#view-generate")).to_be_visible()
    tab_to(page, "#prompt")
    keys.type("def close(self):")
    tab_to(page, "#speculation")
    keys.press("End")  # the last choice: a fixed length
    expect(page.locator("#length")).to_be_visible()
    keys.press("Control+Enter")
    await_state(page, "done")
    tab_to(page, ".token")
    first = page.locator("#inspector-name").inner_text()
    keys.press("End")
    expect(page.locator(".token").last).to_be_focused()
    assert outlined(page)
    expect(page.locator("#inspector-name")).not_to_have_text(first)
    keys.press("ArrowUp")
    keys.press("ArrowLeft")
    keys.press("ArrowDown")
    keys.press("Home")
    expect(page.locator(".token").first).to_be_focused()
    keys.press("ArrowRight")
    expect(page.locator(".token").nth(1)).to_have_attribute("aria-selected", "true")
    tab_to(page, ".lanes-scroll")
    keys.press("Home")
    keys.press("ArrowRight")
    expect(page.locator("#timeline-readout")).to_contain_text("round 2 of")
    keys.press("+")
    assert page.locator(".lanes-inner").evaluate("(e) => e.style.getPropertyValue('--zoom')") == "2"
    keys.press("0")
    keys.press("End")
    page.locator("#prompt").fill(QUESTION)
    page.locator("#max-tokens").fill("900")
    page.locator("#length").fill("1")
    tab_to(page, "#send")
    keys.press("Enter")
    expect(page.locator("#stop")).to_be_focused()
    expect(page.locator(".token").first).to_be_visible()
    keys.press("Escape")
    await_state(page, "stopped")
    expect(page.locator("#answer-status")).to_contain_text("Stopped after")


def tab_to(page: Any, selector: str) -> None:
    """Presses Tab until it is there; every stop on the way shows that it has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        assert outlined(page), page.evaluate("document.activeElement.outerHTML")
        if page.evaluate("(s) => document.activeElement.matches(s)", selector):
            return
    raise AssertionError(f"no way to {selector} by Tab")


def outlined(page: Any) -> bool:
    """Whether what has the focus, or what stands for it, has a ring."""
    return bool(
        page.evaluate(
            """() => {
              const at = document.activeElement;
              if (at === document.body) return true;
              return [at, at.nextElementSibling].some(
                (e) => e && getComputedStyle(e).outlineStyle !== "none"
              );
            }"""
        )
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_both_themes(browser: Any, system: System, scheme: str) -> None:
    with opened(browser, system.url, color_scheme=scheme) as console:
        page = console.page
        ask(page)
        await_state(page, "done")
        expect(page.locator("#health")).to_have_attribute("data-health", "ready")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(245, 245, 242)") == (scheme == "light")
        assert page.evaluate(CONTRAST) == []
        page.get_by_role("tab", name="Recommend").click()
        page.locator("#recommend-send").click()
        page.locator(".block").first.hover()
        page.get_by_text("As a table").click()
        expect(page.locator(".score-list li")).to_have_count(10)
        assert page.evaluate(CONTRAST) == []
        console.assert_clean()


def test_a_chosen_theme_stays(browser: Any, system: System) -> None:
    with opened(browser, system.url, color_scheme="dark") as console:
        page = console.page
        button = page.locator("#theme-button")
        expect(button).to_have_attribute("aria-pressed", "true")
        button.click()
        page.reload()
        expect(button).to_have_attribute("aria-pressed", "false")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == "rgb(245, 245, 242)"
        console.assert_clean()


def test_a_phone_scrolls_down_only(browser: Any, system: System) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with opened(browser, system.url, **phone) as console:
        page = console.page
        ask(page)
        await_state(page, "done")
        page.locator(".token").nth(4).tap()
        expect(page.locator(".votes")).to_be_visible()
        widths = "[document.documentElement.scrollWidth, innerWidth]"
        assert page.evaluate(widths) == [360, 360]
        page.get_by_role("tab", name="Recommend").tap()
        page.locator("#recommend-send").tap()
        expect(page.locator(".score-list li")).to_have_count(10)
        page.get_by_text("As a table").tap()
        assert page.evaluate(widths) == [360, 360]
        console.assert_clean()


@pytest.mark.parametrize(("motion", "is_moving"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_those_who_ask(
    browser: Any, system: System, motion: str, is_moving: bool
) -> None:
    with opened(browser, system.url, reduced_motion=motion) as console:
        console.page.evaluate("document.getElementById('answer-panel').dataset.state = 'streaming'")
        assert console.page.evaluate("document.getAnimations().length > 0") == is_moving


def test_a_hostile_prompt_and_name_are_text(console: Watched) -> None:
    page = console.page
    ask(page, MARKUP)
    await_state(page, "done")
    assert page.locator("#prompt").input_value() == MARKUP
    page.get_by_role("tab", name="Recommend").click()
    page.locator(".context-values").first.fill(MARKUP.replace(",", ""))
    page.locator("#recommend-send").click()
    expect(page.locator(".score-list li")).to_have_count(10)
    assert page.evaluate("window.hacked") is None


def test_a_refusal_is_shown_as_text_at_its_field(browser: Any, system: System) -> None:
    with opened(browser, system.url) as console:
        page = console.page
        page.locator("#max-tokens").fill("100000")
        page.locator("#prompt").fill(QUESTION)
        page.locator("#send").click()
        expect(page.locator("#notice")).to_contain_text("Refused")
        expect(page.locator("#notice")).to_contain_text("context")
        await_state(page, "failed")
        page.locator("#prompt").fill("")
        page.locator("#send").click()
        expect(page.locator("#prompt")).to_have_attribute("aria-invalid", "true")
        page.get_by_role("tab", name="Recommend").click()
        page.locator(".context-name").first.fill(MARKUP)
        page.locator("#recommend-send").click()
        expect(page.locator("#scores-notice")).to_contain_text("<img src=x")
        page.get_by_role("radio", name="Numbers").click()
        page.locator("#inputs").fill("[1, 2")
        page.locator("#recommend-send").click()
        expect(page.locator("#inputs")).to_have_attribute("aria-invalid", "true")
        page.locator("#inputs").fill('{"package": [1]}')
        page.locator("#recommend-send").click()
        expect(page.locator("#scores-notice")).to_contain_text("'package' is [1]")
        expect(page.locator("#inputs")).to_be_focused()
        assert page.evaluate("window.hacked") is None
        console.assert_clean(REFUSED)


def test_an_answer_full_of_markup_is_text(console: Watched) -> None:
    """The shipped model writes none, so the stream is written here."""
    page = console.page
    piece = {"token": 5, "text": MARKUP}
    votes = [{"drafter": MARKUP, "weight": 1.0, "tokens": [piece], "num_agreed": 1}]
    emitted = {**piece, "source": "accepted", "drafters": [MARKUP]}
    round_ = {
        "index": 0, "started_s": 0.001, "length": 1, "num_running": 1, "draft": [piece],
        "num_accepted": 1, "tokens": [emitted], "votes": votes, "seconds": {"drafting": 0.002},
    }  # fmt: skip
    choice = {"index": 0, "delta": {"content": MARKUP}, "finish_reason": "stop"}
    chunk = {"choices": [choice], "trace": {"rounds": [round_]}}
    stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body=stream, content_type="text/event-stream"),
    )
    ask(page)
    await_state(page, "done")
    assert answer_of(page) == MARKUP
    for place in (".entry-name", ".votes .who", "#request-charts .share-name"):
        assert MARKUP in page.locator(place).all_text_contents()
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.hacked") is None


def test_a_gateway_that_tells_no_trace_gives_plain_text(browser: Any, system: System) -> None:
    with opened(browser, system.url) as console:
        page = console.page
        refusal = {"error": {"message": "unknown field 'return_trace'", "param": "return_trace"}}

        def be_older(route: Any) -> None:
            if "return_trace" in route.request.post_data_json:
                route.fulfill(status=400, json=refusal)
            else:
                route.continue_()

        page.route("**/v1/chat/completions", be_older)
        page.route("**/v1/status", lambda route: route.fulfill(status=404, json={"error": None}))
        ask(page)
        await_state(page, "done")
        expect(page.locator("#answer-status")).to_contain_text("does not tell where")
        assert len(answer_of(page)) > 20
        expect(page.locator("#notice")).to_be_hidden()
        assert page.locator(".token").count() == 0
        console.assert_clean(REFUSED)


def test_keys_and_their_limits(browser: Any, tmp_path: Path) -> None:
    """The page is open; what it asks for is not. A key that has used up its requests is a 429."""
    file = tmp_path / "keys.json"
    tool = [sys.executable, "-m", "services.gateway.keys", str(file), "add", "alice"]
    key = subprocess.run(
        [*tool, "--requests-per-minute", "1"], check=True, capture_output=True, text=True
    ).stdout.strip()
    with serving({"GATEWAY_KEYS": str(file)}) as system, opened(browser, system.url) as console:
        page = console.page
        expect(page.locator("#health-text")).to_have_text("A key is needed")
        ask(page)
        expect(page.locator("#notice")).to_contain_text("A key is needed")
        page.get_by_role("button", name="Enter a key").click()
        expect(page.locator("#key-input")).to_be_focused()
        page.keyboard.type("qk-wrong")
        page.keyboard.press("Enter")
        page.locator("#send").click()
        expect(page.locator("#notice")).to_contain_text("not known")
        page.locator("#key-button").click()
        page.locator("#key-input").fill(key)
        page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#health-text")).to_have_text("Ready")
        page.locator("#send").click()
        await_state(page, "done")
        page.locator("#send").click()
        expect(page.locator("#notice")).to_contain_text("Too busy")
        expect(page.locator("#notice")).to_contain_text("Try again in")
        assert key not in json.dumps(page.evaluate("({...localStorage})"))
        assert key not in page.url
        console.assert_clean(REFUSED)


def test_a_gateway_with_nothing_behind_it_says_so(browser: Any) -> None:
    with serving({}, "gateway") as system, opened(browser, system.url) as console:
        page = console.page
        expect(page.locator("#health-text")).to_have_text("Nothing to serve with")
        ask(page)
        expect(page.locator("#notice")).to_contain_text("Not available now")
        page.get_by_role("tab", name="Recommend").click()
        expect(page.locator("#plan-notice")).to_contain_text("Not available now")
        page.locator("#recommend-send").click()
        expect(page.locator("#scores-notice")).to_contain_text("Not available now")
        console.assert_clean(REFUSED)


def test_a_gateway_that_dies_leaves_its_words(browser: Any) -> None:
    with serving() as system, opened(browser, system.url) as console:
        page = console.page
        ask(page, max_tokens=900, length=1)
        expect(page.locator(".token").nth(8)).to_be_visible()
        system.kill()
        expect(page.locator("#notice")).to_contain_text("has gone before the answer was complete")
        await_state(page, "failed")
        expect(page.locator("#answer-status")).to_have_text("Broken off")
        assert page.locator(".token").count() > 8
        page.locator("#send").click()
        expect(page.locator("#notice")).to_contain_text("cannot be reached")
        expect(page.locator("#health-text")).to_have_text("Out of reach")
        console.assert_clean(REFUSED)


def test_a_plan_is_drawn_to_scale(console: Watched, system: System) -> None:
    """Joined, multiplied, in two tiers: the shipped model's plan has nothing joined."""
    page = console.page
    stored = [
        plan_entry(["a", "b"], 6000, "L2", "joined: the same ids read all"),
        plan_entry(["c", "d"], 3000, "L2", "multiplied: one access"),
        plan_entry(["e"], 1000, "L2", "alone"),
        plan_entry(["f"], 30000, "memory", "alone"),
    ]
    plan = {
        "model": "m", "version": "1", "profile": "p", "bytes": 40000, "bytes_alone": 38000,
        "ns_an_item": 12.5, "stored": stored,
    }  # fmt: skip
    page.route("**/v1/recommenders/*/plan", lambda route: route.fulfill(json=plan))
    page.get_by_role("tab", name="Recommend").click()
    expect(page.locator(".tier")).to_have_count(2)
    names = page.locator(".block-name").all_text_contents()
    assert names == ["a ⋈ b", "c × d", "e", "f"]
    shares = page.locator(".block").evaluate_all(
        """(all) => all.map((e) => ["--w", "--h"].map((name) => e.style.getPropertyValue(name)))"""
    )
    areas = [float(width) * float(height) for width, height in shares]
    assert areas == pytest.approx([0.6, 0.3, 0.1, 1.0])
    expect(page.locator("#plan .figures")).to_contain_text("+5 %")


def plan_entry(tables: list[str], size: int, tier: str, reason: str) -> dict[str, object]:
    return {
        "tables": tables, "num_rows": 10, "dim": 8, "element": "fp32", "bytes": size, "offset": 0,
        "tier": tier, "bank": 0, "ns": 5.0 if tier == "L2" else 90.0, "reason": reason,
    }  # fmt: skip


def test_the_form_takes_the_fields_of_the_served_model(console: Watched, system: System) -> None:
    """Until somebody has typed into it."""
    page = console.page
    with urllib.request.urlopen(f"{system.url}/v1/status") as answer:
        status = json.load(answer)
    for instance in status["instances"]:
        if instance["role"] == "recommender":
            instance["attributes"]["context"] = "user,basket"
    page.route("**/v1/status", lambda route: route.fulfill(json=status))
    page.get_by_role("tab", name="Recommend").click()
    expect(page.locator("#context-note")).to_have_text("The model takes user, basket.")
    names = [page.locator(".context-name").nth(i).input_value() for i in range(2)]
    assert names == ["user", "basket"]


def test_events_are_read_wherever_their_bytes_are_cut(console: Watched) -> None:
    """An emoji, a comment, both kinds of line ends, cut at each byte."""
    told = console.page.evaluate(
        """async () => {
          const { events } = await import("/static/console/lib/events.js");
          const text = ': ping\\n\\ndata: {"a":"🦉"}\\r\\n\\r\\ndata:[DONE]\\n\\n';
          const bytes = new TextEncoder().encode(text);
          const all = [];
          for (let cut = 1; cut < bytes.length; cut += 1) {
            const parts = [bytes.slice(0, cut), bytes.slice(cut)];
            const stream = new ReadableStream({
              pull: (c) => (parts.length ? c.enqueue(parts.shift()) : c.close()),
            });
            const got = [];
            for await (const data of events(stream)) got.push(data);
            all.push(got.join(" "));
          }
          return [...new Set(all)];
        }"""
    )
    assert told == ['{"a":"🦉"} [DONE]']
