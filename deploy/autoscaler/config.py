"""Settings of the autoscaler, from AUTOSCALER_* variables."""

from __future__ import annotations

import re

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from deploy.autoscaler.rule import Rule
from shared.config import Settings

_BOUNDS = re.compile(r"\s*([a-z0-9][a-z0-9_.-]*)=(\d+):(\d+)\s*")


class AutoscalerConfig(Settings):
    """Which services are scaled between which bounds, and what counts as too much or too little."""

    model_config = SettingsConfigDict(env_prefix="AUTOSCALER_", frozen=True, extra="forbid")

    services: str = Field(
        "verifier=1:4,recommender=1:4,drafter-small=1:3,voter=1:2",
        description="comma-separated: compose service, least and most replicas",
    )
    project: str = Field("quorum", min_length=1, description="of docker compose")
    docker_url: str = Field(
        "unix:///var/run/docker.sock", pattern=r"^(unix|tcp|http|https)://", description="the API"
    )
    dry_run: bool = Field(False, description="decide, log and count, but change nothing")
    interval_s: float = Field(5.0, gt=0, description="between two looks")
    high: float = Field(0.8, gt=0, lt=1, description="utilisation that adds replicas")
    low: float = Field(0.4, ge=0, lt=1, description="utilisation that may remove one")
    max_queue_age_s: float = Field(1.0, gt=0, description="a longer wait adds a replica")
    cool_down_s: float = Field(60.0, ge=0, description="between two changes of a service")
    calm_samples: int = Field(12, ge=1, description="looks in a row before one is removed")

    @field_validator("services")
    @classmethod
    def _has_bounds(cls, services: str) -> str:
        parse_bounds(services)
        return services

    @field_validator("low")
    @classmethod
    def _is_below_high(cls, low: float, info: ValidationInfo) -> float:
        if low >= info.data.get("high", 1.0):
            raise ValueError("is not below AUTOSCALER_HIGH")
        return low

    def rules(self) -> dict[str, Rule]:
        """By compose service."""
        return {
            service: Rule(
                least,
                most,
                self.high,
                self.low,
                self.max_queue_age_s,
                self.cool_down_s,
                self.calm_samples,
            )
            for service, (least, most) in parse_bounds(self.services).items()
        }


def parse_bounds(services: str) -> dict[str, tuple[int, int]]:
    """`verifier=1:4,voter=1:2` as least and most by service. Raises ValueError."""
    bounds = {}
    for part in services.split(","):
        match = _BOUNDS.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is not SERVICE=LEAST:MOST")
        service, least, most = match[1], int(match[2]), int(match[3])
        if not 1 <= least <= most:
            raise ValueError(f"{part!r}: the least is at least 1 and at most the most")
        if service in bounds:
            raise ValueError(f"{service!r} is named twice")
        bounds[service] = (least, most)
    return bounds
