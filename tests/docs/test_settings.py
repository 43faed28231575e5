"""docs/settings.md and .env.example are those that the code makes."""

from __future__ import annotations

import re

import pytest

from shared.config import OF_CLIENTS
from tests.docs.blocks import ROOT
from tests.settings_table import (
    CLIENTS,
    CONFIGS,
    PAGE,
    SWARM,
    main,
    of_containers,
    of_services,
)


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_they_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_every_setting_is_a_row_and_says_what_it_means() -> None:
    settings = {
        cls.model_config["env_prefix"] + name.upper()
        for cls in CONFIGS
        for name in cls.model_fields
    }
    found = {row[0].strip("`"): row for row in rows()}
    assert len(found) == len(rows())
    assert settings | OF_CLIENTS | set(SWARM) <= set(found)
    for row in rows():
        assert len(row) == 5, row
        assert row[1], row
        assert row[3], row
        assert row[4], row


def test_every_variable_of_the_stacks_is_a_row() -> None:
    files = ["docker-compose.yml", *(f"deploy/{path.name}" for path in ROOT.glob("deploy/*.yml"))]
    used = {
        name
        for file in files
        for name in re.findall(r"\$\{([A-Z_]+)", (ROOT / file).read_text())
        if name != "COMPOSE_PROJECT_NAME"  # docker compose's own
    }
    assert used <= {row[0].strip("`") for row in rows()}


def test_what_clients_read_is_described() -> None:
    assert set(CLIENTS) == OF_CLIENTS


def test_a_setting_without_a_meaning_would_be_seen() -> None:
    """The page's rows come of these."""
    assert all(setting.meaning for setting in [*of_services(), *of_containers()])
