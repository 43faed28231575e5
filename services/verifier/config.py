"""Settings of the verifier, from VERIFIER_* variables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.config import Settings


class VerifierConfig(Settings):
    """The target model, how much it takes on, and how long it waits for drafts."""

    model_config = SettingsConfigDict(env_prefix="VERIFIER_", frozen=True, extra="forbid")

    model: Path = Field(
        Path("models"),
        description="folder written by the export, or of models with `served.json`",
    )
    max_batch: int = Field(16, ge=1, le=256, description="requests in work at a time")
    device: Literal["cpu", "cuda"] = Field("cpu", description="cuda: with deploy/gpu.yml")
    num_threads: int = Field(
        0, ge=0, description="of a pass; 0: one per core, too many where verifiers share them"
    )
    prefill_tokens: int = Field(256, ge=2, description="most prompt tokens in one pass")
    prefill_delay_s: float = Field(
        0.1, gt=0, description="for which prompts may hold up those who decode"
    )
    prefix_cache_mb: int = Field(
        256, ge=0, description="memory for beginnings that prompts share; 0: none"
    )
    drafting: Literal["auto", "all", "needed", "ahead", "lanes", "lookup", "none"] = Field(
        "auto",
        description="who drafts; auto: what is fastest at the load; needed: all, but lookup alone "
        "where it does; ahead: all, and on while the target verifies; lanes: as needed, by two "
        "groups of requests in turn",
    )
    speculation_length: int = Field(
        4, ge=0, le=64, description="of the first request's first round"
    )
    max_speculation_length: int = Field(16, ge=0, le=64, description="0: plain decoding only")
    draft_timeout_s: float = Field(0.2, gt=0, description="a later draft is not waited for")
    orphan_s: float = Field(10.0, gt=0, description="requests of a gateway gone so long end")
    self_test: bool = Field(True, description="check bit-for-bit rows at start")
