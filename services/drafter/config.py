"""Settings of the drafters of one process, from DRAFTER_* variables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.config import Settings


class DrafterConfig(Settings):
    """Which draft models this process holds, each an instance of its own in the registry."""

    model_config = SettingsConfigDict(env_prefix="DRAFTER_", frozen=True, extra="forbid")

    models: str = Field(
        "models,ngram,suffix",
        min_length=1,
        description="comma-separated: folders written by the export, or of models with "
        "`served.json`, `ngram`, `suffix`",
    )
    max_requests: int = Field(32, ge=1, description="requests whose state a draft model keeps")
    device: Literal["cpu", "cuda"] = Field("cpu", description="cuda: with deploy/gpu.yml")
    num_threads: int = Field(1, ge=1, description="of a neural draft model's forward pass")
    compiles: bool = Field(
        True, description="draft models with `compact.npz` as machine code, where that is faster"
    )
    prefill_tokens: int = Field(256, ge=2, description="most prompt tokens in one pass")
    translate_from: Path | None = Field(
        None,
        description="the target's folder: draft models with another tokenizer are translated for",
    )
    suffix_tokens: int = Field(1_000_000, ge=1000, description="outputs that `suffix` remembers")
