"""The commands against a served system, without a terminal: what they print, and how they fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.recommender.manifest import read_manifest
from shared.config import ProcessConfig, load
from tests.cli.conftest import CLI, ROOT, complaint, run, succeed
from tests.gateway.house import write_shop
from tests.redis_server import free_port

NOBODY = f"http://127.0.0.1:{free_port()}"


def test_chat_answers_standard_input_with_the_text_alone(url: str) -> None:
    asked = ("chat", "--url", url, "--max-tokens", 24, "--temperature", 0)
    answer = succeed(*asked, stdin="What does textwrap.dedent do?")
    assert len(answer) > 20
    assert answer.endswith("\n")
    assert "\x1b" not in answer
    assert succeed(*asked, "What does textwrap.dedent do?") == answer
    assert succeed(*asked, "--system", "Say it in verse.", "And?") != answer


def test_top_once_is_a_page_of_text(url: str) -> None:
    text = succeed("top", "--url", url, "--once")
    assert "\x1b" not in text
    for words in ("model            quorum-6m", "queued           generate 0, recommend 0"):
        assert words in text
    rows = [line.split() for line in text.splitlines()]
    assert ["role", "name", "instances", "told"] in rows
    found = {(row[0], row[1], row[2]) for row in rows if len(row) > 2}
    assert {("verifier", "quorum-6m", "1"), ("voter", "voter", "1")} <= found
    assert ("drafter", "quorum-draft-wide", "1") in found


def test_top_as_json_is_the_gateways_answer_and_counts_go_up(url: str) -> None:
    before = json.loads(succeed("top", "--json", QUORUM_URL=url))
    succeed("bench", "--url", url, "--requests", 3, "--max-tokens", 12, "--temperature", 0)
    after = json.loads(succeed("top", "--json", "--url", url))
    assert before["object"] == "status"
    grown = {name: after["totals"][name] - before["totals"][name] for name in after["totals"]}
    assert (grown["requests"], grown["completion_tokens"]) == (3, 36)
    assert 0 < grown["target_passes"] <= 36
    assert grown["accepted_tokens"] <= grown["draft_tokens"]
    assert set(after["drafters"]) == {"quorum-draft-small", "quorum-draft-wide", "ngram", "suffix"}


@pytest.mark.parametrize("kind", ["completions", "chats"])
@pytest.mark.parametrize("stream", ["--stream", "--no-stream"])
def test_bench_counts_and_times_every_request(
    url: str, kind: str, stream: str, tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    asked = ("--concurrency", 3, "--requests", 7, "--max-tokens", 9, "--temperature", 0)
    text = succeed("bench", kind, "--url", url, *asked, stream, "--json", file)
    figures = json.loads(file.read_text())
    assert (figures["num_requests"], figures["num_succeeded"], figures["errors"]) == (7, 7, {})
    assert 1 <= figures["most_open"] <= 3
    assert 7 <= figures["num_tokens"] <= 63
    assert figures["num_prompt_tokens"] > 7
    assert f"{figures['num_tokens']} tokens" in text
    assert ("first token, ms" in text) == (stream == "--stream")
    total = figures["total_s"]
    assert 0 < total["p50"] <= total["p90"] <= total["p99"] <= total["max"]
    if stream == "--stream":
        assert 0 < figures["first_token_s"]["p50"] <= total["max"]
        assert figures["inter_token_s"]["mean"] > 0
    assert figures["load"] == {
        "max_open": 3, "num_requests": 7, "seconds": None, "rate": None, "seed": 0,
    }  # fmt: skip


def test_bench_asks_recommendations_at_a_rate_for_a_while(url: str) -> None:
    text = succeed("bench", "recommendations", "--url", url, "--rate", 40, "--seconds", 0.5)
    assert "0 failed" in text
    assert "items/s" in text


def test_bench_asks_what_a_file_holds(url: str, tmp_path: Path) -> None:
    lines = [{"prompt": "import os\n"}, {"prompt": "import sys\n", "note": "not sent"}]
    jsonl = tmp_path / "prompts.jsonl"
    jsonl.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    plain = tmp_path / "prompts.txt"
    plain.write_text("import os\nimport sys\n")
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"messages": [{"role": "user", "content": "Hello"}]}))
    for kind, file in (("completions", jsonl), ("chats", plain), ("chats", chats)):
        asked = ("--url", url, "--requests", 4, "--max-tokens", 4, "--dataset", file)
        assert "4 requests" in succeed("bench", kind, *asked)


def test_bench_fails_when_a_request_does_and_says_how(url: str) -> None:
    done = run("bench", "--url", url, "--requests", 2, "--max-tokens", 5000)
    assert done.returncode == 1
    assert "2 requests" in done.stdout
    assert "2 failed" in done.stdout
    assert "2 x HTTP 400: the prompt has" in done.stdout
    done = run("bench", "--url", NOBODY, "--requests", 3)
    assert done.returncode == 1
    assert "3 x connection" in done.stdout
    assert done.stderr == ""


def test_plan_is_a_table_of_what_is_stored(url: str) -> None:
    head, columns, *rows, total = succeed("plan", "import-next", "--url", url).splitlines()
    layout = read_manifest(ROOT / "models" / "import-next")
    assert head.startswith("import-next, version ")
    assert columns.split()[:7] == ["rows", "dim", "type", "bytes", "tier", "bank", "ns"]
    assert len(rows) == len(layout.stored)
    for stored in layout.stored:
        assert any(f"  {stored.name}: {stored.reason}" in row for row in rows)
    assert f"{sum(stored.num_bytes for stored in layout.stored):,} bytes" in total
    plan = json.loads(succeed("plan", "import-next", "--json", "--url", url))
    assert len(plan["stored"]) == len(rows)


@pytest.mark.parametrize(
    ("code", "arguments", "words"),
    [
        (1, ("chat", "Hello", "--url", NOBODY), "cannot be reached"),
        (1, ("top", "--url", NOBODY), "Is Quorum running there (make serve)?"),
        (1, ("plan", "x", "--url", NOBODY), "cannot be reached"),
        (2, ("nothing",), "No such command 'nothing'"),
        (2, ("dead-letters",), "Missing command"),
        (2, ("plan",), "Missing argument"),
        (2, ("chat", "--temperature", 3), "--temperature"),
        (2, ("top", "--url", "ftp://x"), "does not begin with http://"),
        (2, ("bench", "stories"), "stories"),
        (2, ("bench", "--rate", -1), "--rate"),
        (2, ("bench", "--dataset", "/no/such/file"), "cannot be read"),
        (2, ("bench", "--json", "/no/such/folder/x"), "cannot be written"),
        (2, ("bench", "recommendations", "--max-tokens", 4), "have no --max-tokens"),
        (2, ("dead-letters", "replay"), "an ID, or --all"),
        (2, ("dead-letters", "replay", "1-0", "--all"), "an ID, or --all"),
    ],
)
def test_a_mistake_is_one_line(code: int, arguments: tuple[object, ...], words: str) -> None:
    assert words in complaint(code, *arguments)


def test_what_the_gateway_refuses_is_one_line(url: str) -> None:
    assert "model 'gpt-9' does not exist" in complaint(
        1, "chat", "Hello", "--model", "gpt-9", "--url", url
    )
    assert "'shop' does not exist" in complaint(1, "plan", "shop", "--url", url)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{', "a.jsonl:2 is not JSON"),
        ("a.jsonl", "[1]", "a.jsonl:1 is no JSON object"),
        ("a.jsonl", '{"text": "x"}', "a.jsonl:1 has no prompt"),
        ("a.txt", "\n \n", "holds no line"),
    ],
)
def test_a_bad_dataset_is_refused_by_its_line(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    assert words in complaint(2, "bench", "--dataset", file)


def test_services_start_where_the_command_lines_variables_are_set() -> None:
    environ = {"QUORUM_KEY": "qk-1", "QUORUM_URL": "http://a", "BUS_URL": "memory://"}
    assert load(ProcessConfig, environ) == load(ProcessConfig, {})


def test_help_tells_every_command() -> None:
    text = succeed()
    assert text == succeed("--help")
    for command in ("chat", "top", "bench", "plan", "doctor", "dead-letters"):
        assert f"\n  {command} " in text
        text += succeed(command, "--help")
    assert "\n  models " in text
    text += succeed("models", "add", "--help")
    text += "".join(succeed("dead-letters", each, "--help") for each in ("list", "show", "replay"))
    documented = set(re.findall(r"--[a-z][a-z-]+", (ROOT / "docs" / "cli.md").read_text()))
    known = set(re.findall(r"--[a-z][a-z-]+", text))
    assert documented - known == {"--print-config"}
    assert known - documented == set()


def test_models_are_listed() -> None:
    assert "quorum-6m " in succeed("models", "list")
    failed = run("models", "remove", "nothing")
    assert failed.returncode == 1
    assert "nothing" in failed.stderr + failed.stdout


def piped(command: str) -> subprocess.CompletedProcess[str]:
    """By a shell, whose status is that of the part before the pipe."""
    script = f"{command} | head -1; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_a_reader_that_leaves_ends_it_quietly(url: str) -> None:
    """A page longer than a pipe holds is cut in the middle; shorter ones may end before."""
    done = piped(f"{' '.join(CLI)} top --json --url {url}")
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_other_commands_of_quorum_end_quietly_too(tmp_path: Path) -> None:
    write_shop(tmp_path / "shop")
    plan = f"{sys.executable} -m services.recommender.plan {tmp_path / 'shop.source'} --explain"
    done = piped(plan)
    assert done.stdout
    assert done.stderr == ""


def test_without_its_packages_it_says_what_to_install() -> None:
    """As in an environment that serves only: there is no typer."""
    script = (
        "import runpy, sys; sys.modules['typer'] = None; "
        "runpy.run_module('services.cli', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "quorum: typer is missing: pip install -c constraints.txt '.[cli]'\n"
