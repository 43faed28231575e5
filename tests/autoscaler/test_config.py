"""The autoscaler's settings, and what is wrong with them in a sentence."""

from __future__ import annotations

import pytest

from deploy.autoscaler.config import AutoscalerConfig
from deploy.autoscaler.rule import Rule
from shared.config import load
from shared.errors import ConfigError


def test_each_service_has_bounds_and_the_same_thresholds() -> None:
    config = load(
        AutoscalerConfig,
        {
            "AUTOSCALER_SERVICES": "verifier=2:4, drafter-small=1:1",
            "AUTOSCALER_HIGH": "0.7",
            "AUTOSCALER_LOW": "0.2",
            "AUTOSCALER_COOL_DOWN_S": "5",
        },
    )
    assert config.rules() == {
        "verifier": Rule(2, 4, 0.7, 0.2, 1.0, 5.0, 12),
        "drafter-small": Rule(1, 1, 0.7, 0.2, 1.0, 5.0, 12),
    }


def test_it_acts_unless_told_not_to() -> None:
    assert not load(AutoscalerConfig, {}).dry_run
    assert load(AutoscalerConfig, {"AUTOSCALER_DRY_RUN": "true"}).dry_run


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("SERVICES", "verifier", "'verifier' is not SERVICE=LEAST:MOST"),
        ("SERVICES", "", "is not SERVICE=LEAST:MOST"),
        ("SERVICES", "verifier=1:4,", "'' is not SERVICE=LEAST:MOST"),
        ("SERVICES", "verifier=4:1", "the least is at least 1 and at most the most"),
        ("SERVICES", "verifier=0:1", "the least is at least 1"),
        ("SERVICES", "voter=1:2,voter=1:3", "'voter' is named twice"),
        ("LOW", "0.9", "is not below AUTOSCALER_HIGH"),
        ("HIGH", "1.0", "less than 1"),
        ("DOCKER_URL", "ssh://machine", "should match pattern"),
        ("DRYRUN", "1", "is not a setting"),
    ],
)
def test_a_mistake_is_named(name: str, value: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"AUTOSCALER_{name}.*{reason}"):
        load(AutoscalerConfig, {f"AUTOSCALER_{name}": value})
