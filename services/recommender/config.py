"""Settings of the recommender, from RECOMMENDER_* variables."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.recommender.memory import Memory
from shared.config import Settings


class RecommenderConfig(Settings):
    """The ranking model, and how much of it is computed at a time."""

    model_config = SettingsConfigDict(env_prefix="RECOMMENDER_", frozen=True, extra="forbid")

    model: Path = Field(
        Path("models/import-next"), description="folder of a ranking model, or of its versions"
    )
    max_requests: int = Field(64, ge=1, description="requests in work at a time")
    max_items: int = Field(10_000, ge=1, description="of one request of tensors")
    num_threads: int = Field(1, ge=1, description="each scores a part of what is asked")
    memory: Memory = Field(
        "shared", description="tables are mapped, or copied: more machines give copies huge pages"
    )
    poll_s: float = Field(1.0, gt=0, description="how often labels of versions are looked at")
