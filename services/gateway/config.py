"""Settings of the gateway, from GATEWAY_* variables."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.config import Settings


class GatewayConfig(Settings):
    """Where it listens, which models it fronts, and how much it lets in."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="0.0.0.0: from everywhere")
    port: int = Field(8080, ge=0, le=65535, description="0: any free port")
    model: Path = Field(
        Path("models"),
        description="the target's folder, for its tokenizer and chat template, or a folder of "
        "models with `served.json`",
    )
    recommender: str = Field("import-next", description="name of the recommender model")
    keys: Path | None = Field(None, description="file of API keys; without one, none is asked for")
    max_in_flight: int = Field(256, ge=1, description="beyond it, requests are refused with 429")
    max_choices: int = Field(16, ge=1, description="most completions of one HTTP request")
    max_completion_tokens: int = Field(512, ge=1, description="of a chat that sets no limit")
    max_body_bytes: int = Field(
        1 << 20, ge=1024, description="of text; tensors as bytes may take the 8 MiB of a message"
    )
    body_timeout_s: float = Field(
        30.0, gt=0, description="a body that is not whole by then is refused with 408"
    )
    request_timeout_s: float = Field(300.0, gt=0, description="most that `timeout` may ask for")
    silence_s: float = Field(15.0, gt=0, description="an unheard-of request is published again")
    ping_s: float = Field(10.0, gt=0, description="a silent stream gets a comment line")
