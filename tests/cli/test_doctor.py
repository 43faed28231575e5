"""`doctor` on this machine, on models that are broken on purpose, and on real Redis servers."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli import machine_checks, model_checks
from services.cli.findings import Finding
from services.cli.redis_checks import judge
from shared.bus.redis_facts import ServerFacts
from tests.cli.conftest import ROOT, run, succeed
from tests.redis_server import RedisServer, free_port

MODELS = ROOT / "models"
TARGET, DRAFTER = MODELS / "quorum-6m", MODELS / "quorum-draft-small"
NONE_LISTENS = "redis://127.0.0.1:1/0"


@pytest.fixture
def environment() -> dict[str, str]:
    return {"GATEWAY_PORT": str(free_port())}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copies of the shipped target and of one drafter, to be broken."""
    for model in (TARGET, DRAFTER):
        shutil.copytree(model, tmp_path / model.name)
    return tmp_path


def found(findings: Iterator[Finding] | list[Finding]) -> list[tuple[str, str]]:
    return [(finding.verdict, finding.subject) for finding in findings]


def test_a_sound_machine_has_a_line_for_each_check(environment: dict[str, str]) -> None:
    text = succeed("doctor", **environment)
    lines = text.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    for subject in (
        *("Python", "packages", "settings", "CPU", "threads", "huge pages", "Redis"),
        *("models", "tokenizer", "template", "port", "disk"),
    ):
        assert any(line[6:].startswith(subject + " ") for line in lines), subject
    assert "quorum-draft-small has the 4,096 tokens of quorum-6m" in text
    assert "is free" in text


def test_a_servers_facts_are_read_and_judged(
    redis_server: RedisServer, environment: dict[str, str]
) -> None:
    text = succeed("doctor", "--redis-url", redis_server.url, **environment)
    for words in (
        "ok    Redis         ",
        "ok    eviction      none",
        "ok    persistence   append-",
    ):
        assert words in text
    assert redis_server.url in text


def test_a_server_that_would_lose_requests_fails(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    server = RedisServer(tmp_path, maxmemory="1gb", maxmemory_policy="allkeys-lru", appendonly="no")
    server.start()
    try:
        done = run("doctor", "--redis-url", server.url, **environment)
    finally:
        server.kill()
    assert done.returncode == 1
    assert "fail  eviction      allkeys-lru: a full server drops accepted requests." in done.stdout
    assert "CONFIG SET maxmemory-policy noeviction" in done.stdout
    assert "warn  persistence   no append-only file" in done.stdout


def test_a_server_that_is_away_and_a_setting_that_is_wrong_fail(
    environment: dict[str, str],
) -> None:
    done = run("doctor", "--redis-url", NONE_LISTENS, VERIFIER_MAX_BATCH="0", **environment)
    assert done.returncode == 1
    assert f"fail  Redis         {NONE_LISTENS}: Redis is out of reach" in done.stdout
    assert "fail  settings      VERIFIER_MAX_BATCH='0'" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (
            ServerFacts((6, 0, 16), 1, 0, "noeviction", True, False),
            [("fail", "Redis"), ("ok", "eviction"), ("ok", "persistence")],
        ),
        (
            ServerFacts((6, 2), 1, 0, "allkeys-lru", False, False),
            [("ok", "Redis"), ("warn", "eviction"), ("warn", "persistence")],
        ),
        (
            ServerFacts((7, 2, 4), 90, 100, "noeviction", True, True),
            [("ok", "Redis"), ("ok", "eviction"), ("fail", "persistence"), ("warn", "memory")],
        ),
        (
            ServerFacts((8, 0), 10, 100, "volatile-ttl", True, False),
            [("ok", "Redis"), ("fail", "eviction"), ("ok", "persistence")],
        ),
    ],
)
def test_what_promises_rest_on(facts: ServerFacts, wanted: list[tuple[str, str]]) -> None:
    assert found(judge(facts, "redis://a")) == wanted


def test_damaged_models_are_named(folder: Path, environment: dict[str, str]) -> None:
    (folder / DRAFTER.name / "tokenizer.json").write_text("{}")
    (folder / TARGET.name / "config.json").unlink()
    (folder / "empty").mkdir()
    (folder / "empty" / "manifest.json").write_text('{"files": {"../x": "y"}}')
    done = run("doctor", "--models", folder, **environment)
    assert done.returncode == 1
    assert (
        f"fail  models        {folder / DRAFTER.name / 'tokenizer.json'} is damaged" in done.stdout
    )
    assert f"fail  models        {folder / TARGET.name} lacks config.json" in done.stdout
    assert "'../x', no name of a file" in done.stdout
    assert found(model_checks.models(folder / "empty")) == [("fail", "models")]


def test_versions_of_a_model_are_checked_too(tmp_path: Path) -> None:
    shutil.copytree(TARGET, tmp_path / "shop" / "1")
    shutil.copytree(TARGET, tmp_path / "shop" / "2")
    assert found(model_checks.models(tmp_path)) == [("ok", "models")] * 2


def test_a_drafter_of_other_tokens_fails_with_the_first_of_them(folder: Path) -> None:
    target, drafter = folder / TARGET.name, folder / DRAFTER.name
    assert found(model_checks.tokenizers(target, [drafter])) == [("ok", "tokenizer")]
    file = drafter / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    name = next(text for text, token in vocabulary.items() if token == 300)
    vocabulary["other"] = vocabulary.pop(name)
    file.write_text(json.dumps(content))
    (finding,) = model_checks.tokenizers(target, [drafter])
    assert finding.verdict == "fail"
    assert f"token 300 is {name!r} there and 'other' here" in finding.text
    file.unlink()
    assert found(model_checks.tokenizers(target, [drafter])) == [("warn", "tokenizer")]
    assert found(model_checks.tokenizers(folder / "none", [drafter])) == [("fail", "tokenizer")]


def test_a_target_without_a_template_is_warned_of(folder: Path) -> None:
    target = folder / TARGET.name
    assert model_checks.template(target).verdict == "ok"
    (target / "chat_template.jinja").unlink()
    (target / "tokenizer_config.json").write_text("{}")
    assert model_checks.template(target).verdict == "warn"
    (target / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert model_checks.template(target).verdict == "ok"


@pytest.mark.parametrize(
    ("requirements", "wanted"),
    [
        (["redis[hiredis]>=6.0"], [("ok", "packages")]),
        (["redis>=999"], [("fail", "packages")]),
        (['nobody-has-this>=1; extra == "gateway"'], [("warn", "packages")]),
        (['nobody-has-this>=1; extra == "train"'], []),
        (['quorum[gateway]; extra == "cli"'], []),
        (['onnxruntime>=1.31; extra == "cpu"'], [("ok", "packages")]),
    ],
)
def test_packages_are_those_that_quorum_asks_for(
    requirements: list[str], wanted: list[tuple[str, str]]
) -> None:
    assert found(machine_checks.packages(requirements)) == wanted


def test_this_pythons_packages_are_known() -> None:
    assert "ok" in {finding.verdict for finding in machine_checks.packages()}


@pytest.mark.parametrize(
    ("information", "verdict", "words"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni\n", "ok", "VNNI"),
        ("flags : avx2\n", "ok", "AVX2"),
        ("Features : fp asimd asimddp\n", "ok", "dot products"),
        ("flags : sse4_2\n", "warn", "no AVX2"),
        ("", "warn", "not told"),
    ],
)
def test_cpu_features(information: str, verdict: str, words: str) -> None:
    finding = machine_checks.cpu(information)
    assert finding.verdict == verdict
    assert words in finding.text


@pytest.mark.parametrize(
    ("setting", "verdict"),
    [
        ("always [madvise] never\n", "ok"),
        ("[always] madvise never\n", "ok"),
        ("always madvise [never]\n", "warn"),
        ("", "warn"),
    ],
)
def test_huge_pages(setting: str, verdict: str) -> None:
    assert machine_checks.huge_pages(setting).verdict == verdict


def test_more_threads_than_cores_are_warned_of() -> None:
    settings = {"VERIFIER_NUM_THREADS": "0", "DRAFTER_NUM_THREADS": "2", "GATEWAY_PORT": "1"}
    finding = machine_checks.threads(settings, num_cores=2)
    assert finding.line() == "ok    threads       2 cores; verifier all, drafter 2"
    finding = machine_checks.threads({**settings, "VERIFIER_NUM_THREADS": "3"}, num_cores=2)
    assert finding.verdict == "warn"
    assert "_NUM_THREADS" in finding.advice


def test_a_port_is_free_or_quorums_or_somebody_elses(url: str) -> None:
    host, _, number = url.removeprefix("http://").partition(":")
    assert "Quorum answers there" in machine_checks.port(host, int(number)).text
    assert machine_checks.port(host, free_port()).verdict == "ok"
    with socket.socket() as other:
        other.bind((host, 0))
        other.listen()
        finding = machine_checks.port(host, other.getsockname()[1])
    assert finding.verdict == "fail"
    assert "GATEWAY_PORT" in finding.advice


def test_disk_is_that_of_the_folder_or_of_where_it_would_be(tmp_path: Path) -> None:
    finding = machine_checks.disk(tmp_path / "not" / "yet")
    assert "GiB free at" in finding.text
    assert str(tmp_path) in finding.text
    verdicts = [machine_checks.disk(tmp_path, free).verdict for free in (1 << 20, 1 << 30, 1 << 40)]
    assert verdicts == ["fail", "warn", "ok"]
