"""docs/api.md is made of the code as it is, and each of its rows holds at a real gateway."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.gateway.reference.api_table import main, refusal, render
from services.gateway.schemas import NEUTRAL
from tests.gateway.conftest import Stage

PAGE = Path(__file__).parents[2] / "docs/api.md"
HELLO = [{"role": "user", "content": "Hello"}]
BASE: dict[str, dict[str, object]] = {
    "/v1/completions": {"prompt": "The"},
    "/v1/chat/completions": {"messages": HELLO},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]
# A value of each field that asks for something, and what it needs beside it.
SAMPLES: dict[str, tuple[object, dict[str, object]]] = {
    "echo": (True, {}),
    "frequency_penalty": (0.5, {}),
    "ignore_eos": (True, {}),
    "logit_bias": ({"5": 1.5}, {}),
    "max_completion_tokens": (5, {}),
    "max_tokens": (5, {}),
    "messages": (HELLO, {}),
    "min_p": (0.1, {}),
    "min_tokens": (2, {}),
    "model": ("talker", {}),
    "n": (2, {}),
    "parallel_tool_calls": (False, {}),
    "presence_penalty": (0.5, {}),
    "priority": ("batch", {}),
    "prompt": ([5, 6], {}),
    "prompt_logprobs": (2, {}),
    "repetition_penalty": (1.1, {}),
    "response_format": ({"type": "json_object"}, {}),
    "return_speculation": (True, {}),
    "return_trace": (True, {}),
    "seed": (7, {}),
    "service_tier": ("flex", {}),
    "speculation": ({"mode": "off"}, {}),
    "stop": (["fox"], {}),
    "stop_token_ids": ([5], {}),
    "stream": (True, {}),
    "stream_options": ({"include_usage": True}, {"stream": True}),
    "structured_outputs": ({"regex": "[a-z]+"}, {}),
    "temperature": (0.7, {}),
    "timeout": (5, {}),
    "tool_choice": ("none", {}),
    "tools": (TOOLS, {"tool_choice": "none"}),
    "top_k": (5, {}),
    "top_logprobs": (2, {"logprobs": True}),
    "top_p": (0.9, {}),
    "user": ("somebody", {}),
}
LOGPROBS: dict[str, object] = {"/v1/completions": 2, "/v1/chat/completions": True}
STRANGE = {"asks": "for something"}
"""What no field that is not supported takes."""


ROW = re.compile(r"\| `(\w+)` \| [\w, ]+ \| (supported|refused: .*?) \|")


def rows() -> list[tuple[str, str, str]]:
    """Path, field, and the third column of the tables of fields."""
    found: list[tuple[str, str, str]] = []
    path = ""
    for line in PAGE.read_text().splitlines():
        if heading := re.fullmatch(r"### `POST (\S+)`", line):
            path = heading[1]
        elif line.startswith("### "):
            path = ""
        elif path and (
            row := re.match(r"\| `(\w+)` \| [\w, ]+ \| (supported|refused: .*?) \|", line)
        ):
            found.append((path, row[1], row[2]))
    return found


ROWS = rows()
SUPPORTED = [(path, name) for path, name, how in ROWS if how == "supported"]
REFUSED = [(path, name, how) for path, name, how in ROWS if how != "supported"]


def test_the_page_is_current(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert PAGE.read_text() == render(), (
        "python -m services.gateway.reference.api_table makes it anew"
    )
    assert main(["--check", str(PAGE)]) == 0
    older = tmp_path / "api.md"
    older.write_text(render().replace("supported", "unheard of"))
    assert main(["--check", str(older)]) == 1
    assert "is old" in capsys.readouterr().err
    assert main([str(older)]) == 0
    assert older.read_text() == render()


def test_the_page_has_all_fields() -> None:
    assert len(SUPPORTED) > 50
    assert len(REFUSED) > 50


@pytest.mark.parametrize(("path", "name"), SUPPORTED)
async def test_a_supported_field_is_taken(stage: Stage, path: str, name: str) -> None:
    value, beside = (LOGPROBS[path], {}) if name == "logprobs" else SAMPLES[name]
    status, text = await ask(stage, path, {**BASE[path], **beside, name: value})
    assert status == 200, text


@pytest.mark.parametrize(("path", "name", "how"), REFUSED)
async def test_a_refused_field_is_refused_with_its_message_and_may_ask_for_nothing(
    stage: Stage, path: str, name: str, how: str
) -> None:
    status, answer, _ = await stage.post(path, {**BASE[path], name: STRANGE})
    assert status == 400
    assert how == f"refused: `{answer['error']['message']}`"
    assert (answer["error"]["message"], answer["error"]["param"]) == (refusal(name), name)
    assert not stage.verifier.requests
    for value in NEUTRAL[name]:
        status, text = await ask(stage, path, {**BASE[path], name: value})
        assert status == 200, text


async def ask(stage: Stage, path: str, body: object) -> tuple[int, str]:
    async with stage.http.post(stage.url + path, json=body) as response:
        return response.status, await response.text()
