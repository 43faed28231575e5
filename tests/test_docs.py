"""What the documents say is there, is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.autoscaler.config import AutoscalerConfig
from services.__main__ import PARTS
from services.drafter.config import DrafterConfig
from services.gateway.config import GatewayConfig
from services.recommender.config import RecommenderConfig
from services.verifier.config import VerifierConfig
from services.voter.config import VoterConfig
from shared.config import OF_CLIENTS, BusConfig, ProcessConfig, Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "deploy/autoscaler/README.md",
    *sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")),
)
CONFIGS: list[type[Settings]] = [
    BusConfig, ProcessConfig, GatewayConfig, VerifierConfig, VoterConfig, DrafterConfig,
    RecommenderConfig, AutoscalerConfig,
]  # fmt: skip
FILES = {path.name: path for path in [*ROOT.glob("s*/**/*.py"), *ROOT.glob("models/**/*.py")]}


def text(document: str) -> str:
    return (ROOT / document).read_text()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_named_exists(document: str) -> None:
    for path in re.findall(
        r"`((?:services|shared|deploy|models|tests|benchmarks)/[\w./-]+)`", text(document)
    ):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"\]\(([^)#:]+)\)", text(document)):
        assert ((ROOT / document).parent / target).exists(), target


def test_every_function_named_in_the_architecture_exists() -> None:
    named = re.findall(r"`(?:[\w/]+/)?(\w+\.py): (\w+)`", text("ARCHITECTURE.md"))
    assert len(named) > 8
    for file, function in named:
        sources = [path for path in ROOT.glob(f"s*/**/{file}")]
        assert any(re.search(rf"(def|class) {function}\b", path.read_text()) for path in sources), (
            file,
            function,
        )


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_setting_named_exists(document: str) -> None:
    known = {
        cls.model_config["env_prefix"] + name.upper()
        for cls in CONFIGS
        for name in cls.model_fields
    }
    known |= OF_CLIENTS
    prefixes = "|".join(cls.model_config["env_prefix"] for cls in CONFIGS)
    for name in re.findall(rf"\b(?:{prefixes})[A-Z_]+[A-Z]\b", text(document)):
        assert name in known, name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_named_exists(document: str) -> None:
    makefile = text("Makefile")
    for target in re.findall(r"\bmake ([a-z-]+)`", text(document)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_setting_has_its_services_prefix_and_few_fields() -> None:
    for part in PARTS.values():
        prefix = part.settings().model_config["env_prefix"]
        assert prefix == part.name.upper() + "_"
    for cls in CONFIGS:
        assert len(cls.model_fields) <= 13, cls


def test_nothing_names_the_machine_it_was_made_on() -> None:
    tracked = [
        path for path in ROOT.rglob("*")
        if path.suffix in (".py", ".md", ".toml", ".json", ".yml", "") and path.is_file()
        and not {".git", ".venv", ".work", "__pycache__", "build"} & set(path.parts)
        and not any(part.startswith(".") and part != ".ci" for part in path.relative_to(ROOT).parts)
    ]  # fmt: skip
    for path in tracked:
        content = path.read_text(errors="ignore")
        for place in ("/wo" + "rk/", "pypi" + "-more"):
            assert place not in content, (path, place)
