"""Settings of the voter, from VOTER_* variables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.config import Settings


class VoterConfig(Settings):
    """How proposals are merged, drafters are weighed, and the speculation length is chosen."""

    model_config = SettingsConfigDict(env_prefix="VOTER_", frozen=True, extra="forbid")

    walk: Literal["learned", "greedy", "heaviest-path"] = Field(
        "learned", description="how a draft is found in the proposals; greedy: as in the paper"
    )
    quorum: int = Field(0, ge=0, description="proposals that suffice; 0: all that were asked")
    length: Literal["useful", "climb"] = Field(
        "useful", description="by each token's chance and price, or as in the paper: for all alike"
    )
    fixed_length: int | None = Field(None, ge=0, le=64, description="instead of either")
    initial_length: int = Field(4, ge=0, le=64, description="that climbing begins with")
    max_length: int = Field(16, ge=0, le=64, description="most draft tokens of a round")
    decision_threshold: int = Field(16, ge=1, description="rounds between changes of length")
    window: int = Field(16, ge=2, description="decisions that the trend is fitted over")
    weight_rate: float = Field(0.1, gt=0, le=1, description="how fast weights follow")
    weight_threshold: float | None = Field(None, ge=0, le=1, description="none: the weight itself")
    weigh: Literal["all", "winners"] = Field("all", description="whose agreement is learned from")
    max_requests: int = Field(4096, ge=1, description="requests whose last round is remembered")
    flush_s: float = Field(0.2, gt=0, description="between exchanges with other voters")
