"""Settings: every mistake is a sentence that names the variable, every default is valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.drafter.config import DrafterConfig
from services.gateway.config import GatewayConfig
from services.recommender.config import RecommenderConfig
from services.verifier.config import VerifierConfig
from services.verifier.service import PART as VERIFIER
from services.voter.config import VoterConfig
from services.voter.service import PART as VOTER
from shared.config import BusConfig, ProcessConfig, Settings, load
from shared.errors import ConfigError
from shared.runner import main

CONFIGS: tuple[type[Settings], ...] = (
    BusConfig,
    ProcessConfig,
    GatewayConfig,
    VerifierConfig,
    DrafterConfig,
    VoterConfig,
    RecommenderConfig,
)


@pytest.fixture(params=CONFIGS, ids=lambda cls: cls.__name__)
def config(request: pytest.FixtureRequest) -> type[Settings]:
    """Each class of settings."""
    assert issubclass(request.param, Settings)
    return request.param


def prefix_of(config: type[Settings]) -> str:
    return str(config.model_config["env_prefix"])


def refusal(config: type[Settings], **environ: str) -> str:
    """What is said against an environment."""
    with pytest.raises(ConfigError) as refused:
        load(config, environ)
    return str(refused.value)


def test_no_class_of_settings_is_left_out() -> None:
    root = Path(__file__).parents[2]
    files = [*root.glob("services/*/config.py"), root / "shared" / "config.py"]
    declared = sum(file.read_text().count("Config(Settings):") for file in files)
    assert declared == len(CONFIGS)
    assert len({prefix_of(config) for config in CONFIGS}) == len(CONFIGS)


def test_the_defaults_are_valid(config: type[Settings]) -> None:
    defaults = load(config, {})
    assert type(defaults).model_validate(defaults.model_dump()) == defaults


def test_what_is_shown_can_be_set(config: type[Settings]) -> None:
    defaults = load(config, {})
    shown = {name: str(value) for name, value in defaults.effective().items()}
    assert load(config, shown) == defaults


def test_an_unknown_variable_is_refused_by_name(config: type[Settings]) -> None:
    name = prefix_of(config) + "TYPO"
    said = refusal(config, **{name: "1"})
    assert said.startswith(f"{name} is not a setting")
    assert prefix_of(config) + next(iter(config.model_fields)).upper() in said


def test_variables_of_others_are_no_concern(config: type[Settings]) -> None:
    assert load(config, {"PATH": "/bin", "OTHER_TYPO": "1"}) == load(config, {})


def test_only_the_environment_given_is_read(
    config: type[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in config.model_fields:
        monkeypatch.setenv(prefix_of(config) + name.upper(), "not this")
    load(config, {})


@pytest.mark.parametrize(
    ("config", "name", "value", "allowed"),
    [
        (BusConfig, "BUS_URL", "kafka://x", "memory|redis|rediss|unix"),
        (BusConfig, "BUS_LEASE_S", "0", "greater than 0"),
        (BusConfig, "BUS_LEASE_S", "soon", "number"),
        (ProcessConfig, "QUORUM_MONITOR_PORT", "70000", "less than or equal to 65535"),
        (ProcessConfig, "QUORUM_LOG_FORMAT", "xml", "text|json"),
        (GatewayConfig, "GATEWAY_PORT", "tcp://10.0.0.1:80", "integer"),
        (VerifierConfig, "VERIFIER_SELF_TEST", "perhaps", "boolean"),
        (VerifierConfig, "VERIFIER_PREFILL_TOKENS", "1", "greater than or equal to 2"),
        (VoterConfig, "VOTER_WALK", "slow", "'greedy' or 'heaviest-path'"),
        (VoterConfig, "VOTER_FIXED_LENGTH", "65", "less than or equal to 64"),
        (VoterConfig, "VOTER_QUORUM", "", "integer"),
        (DrafterConfig, "DRAFTER_MODELS", "", "at least 1 character"),
        (RecommenderConfig, "RECOMMENDER_MAX_ITEMS", "many", "integer"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(
    config: type[Settings], name: str, value: str, allowed: str
) -> None:
    said = refusal(config, **{name: value})
    assert said.startswith(f"{name}={value!r}: ")
    assert allowed in said
    assert "\n" not in said


def test_all_bad_values_are_named_at_once() -> None:
    said = refusal(VoterConfig, VOTER_WALK="slow", VOTER_QUORUM="-1")
    assert "VOTER_WALK" in said
    assert "VOTER_QUORUM" in said


def test_strings_become_what_is_declared() -> None:
    voter = load(
        VoterConfig,
        {"VOTER_FIXED_LENGTH": "3", "VOTER_WEIGHT_THRESHOLD": "0.25", "VOTER_WEIGHT_RATE": "1e-2"},
    )
    assert (voter.fixed_length, voter.weight_threshold, voter.weight_rate) == (3, 0.25, 0.01)
    assert load(VoterConfig, {"VOTER_FIXED_LENGTH": "None"}).fixed_length is None
    verifier = load(VerifierConfig, {"VERIFIER_SELF_TEST": "false", "VERIFIER_MODEL": "a/b"})
    assert verifier.self_test is False
    assert verifier.model == Path("a/b")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(VoterConfig, {}).quorum = 3  # type: ignore[misc]


def test_print_config_shows_every_effective_value_without_the_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BUS_URL", "redis://user:hunter2@bus.example:6379/1")
    monkeypatch.setenv("VOTER_FIXED_LENGTH", "3")
    assert main([VOTER, VERIFIER], argv=["--print-config"]) == 0
    shown = dict(line.split("=", 1) for line in capsys.readouterr().out.splitlines())
    expected = [
        prefix_of(config) + name.upper()
        for config in (ProcessConfig, BusConfig, VoterConfig, VerifierConfig)
        for name in config.model_fields
    ]
    assert list(shown) == expected
    assert shown["VOTER_FIXED_LENGTH"] == "3"
    assert shown["BUS_URL"] == "redis://***@bus.example:6379/1"
    assert "hunter2" not in str(shown)


def test_a_refused_url_is_shown_without_its_password() -> None:
    said = refusal(BusConfig, BUS_URL="amqp://user:hunter2@bus.example")
    assert "bus.example" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("variable", ["VOTER_TYPO", "VOTER_QUORUM", "BUS_TYPO", "QUORUM_LOG_LEVEL"])
def test_a_mistake_ends_the_start_with_one_sentence(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "wrong")

    assert main([VOTER], argv=["--print-config"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("quorum: ")
    assert shown.err.count("\n") == 1
    assert variable in shown.err
