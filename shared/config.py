"""Settings from the environment, one flat class per service, every mistake a sentence.

An unknown variable with a class's prefix is refused: a typo must not be a silent default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, FilePath, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from shared.errors import ConfigError

S = TypeVar("S", bound="Settings")
OF_CLIENTS = {"QUORUM_KEY", "QUORUM_URL"}
"""What services/cli reads, perhaps in a shell from which services are started, too."""


class Settings(BaseSettings):
    """Base of the flat config classes; a subclass sets `env_prefix` and its fields."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what it is given: `load` alone reads the environment, and names what is wrong."""
        return (init_settings,)

    def effective(self) -> dict[str, object]:
        """Variable name to value, secrets redacted; what `--print-config` shows."""
        prefix = self.model_config["env_prefix"]
        return {
            prefix + name.upper(): _redact(getattr(self, name)) for name in type(self).model_fields
        }


class BusConfig(Settings):
    """Where the bus is and how patient it is."""

    model_config = SettingsConfigDict(env_prefix="BUS_", frozen=True, extra="forbid")

    url: str = Field(
        "memory://",
        pattern=r"^(memory|redis|rediss|unix)://",
        description="memory: within the process; one service alone takes redis://127.0.0.1:6379/0",
    )
    password_file: FilePath | None = Field(None, description="holds the server's password")
    ca_file: FilePath | None = Field(None, description="who signs a rediss:// server, if not known")
    sentinel_master: str | None = Field(
        None, min_length=1, description="BUS_URL's hosts are Sentinels that watch this master"
    )
    key_prefix: str = Field(
        "quorum", pattern=r"^[A-Za-z0-9_.-]+$", description="of all keys; one for each Quorum"
    )
    lease_s: float = Field(3.0, gt=0, description="a silent instance is gone after this long")
    delivery_lease_s: float = Field(5.0, gt=0, description="a dead consumer's messages go back")
    max_deliveries: int = Field(5, ge=1, description="tries, then a request is put aside")
    retry_s: float = Field(30.0, ge=0, description="how long an operation retries an absent bus")
    max_topic_messages: int = Field(100_000, ge=1, description="a full topic refuses")
    max_journal_messages: int = Field(100_000, ge=1, description="row updates; full, it refuses")
    max_inbox_messages: int = Field(10_000, ge=1, description="a full inbox drops the oldest")
    max_dead_letters: int = Field(10_000, ge=1, description="kept; the oldest go first")

    @field_validator("ca_file")
    @classmethod
    def _is_for_tls(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and not info.data.get("url", "").startswith("rediss://"):
            raise ValueError("BUS_URL is not a rediss:// address")
        return file

    @field_validator("password_file")
    @classmethod
    def _is_the_only_password(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and urlsplit(info.data.get("url", "")).password is not None:
            raise ValueError("BUS_URL holds a password as well; give one of the two")
        return file


class ProcessConfig(Settings):
    """What every process has, whatever runs in it."""

    model_config = SettingsConfigDict(env_prefix="QUORUM_", frozen=True, extra="forbid")

    log_level: str = Field("info", pattern=r"^(debug|info|warning|error)$", description="the least")
    log_format: str = Field("text", pattern=r"^(text|json)$", description="of a line of the log")
    monitor_host: str = Field("127.0.0.1", description="where metrics and health listen")
    monitor_port: int = Field(0, ge=0, le=65535, description="0: no metrics and health endpoint")
    drain_timeout_s: float = Field(30.0, ge=0, description="for work under way, after SIGTERM")


def load(cls: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Reads `cls` from the environment. Raises ConfigError naming the variable at fault."""
    environ = os.environ if environ is None else environ
    prefix = cls.model_config["env_prefix"]
    known = {prefix + name.upper(): name for name in cls.model_fields}
    others = known.keys() | OF_CLIENTS
    unknown = sorted(key for key in environ if key.startswith(prefix) and key not in others)
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)} is not a setting; {prefix}* knows {', '.join(sorted(known))}"
        )
    # `None` as `--print-config` shows it, so that what it prints can be set.
    values = {
        name: None if environ[key] == "None" else environ[key]
        for key, name in known.items()
        if key in environ
    }
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        problems = [
            f"{prefix}{str(e['loc'][0]).upper()}={_redact(e['input'])!r}: {e['msg']}"
            for e in error.errors()
        ]
        raise ConfigError("; ".join(problems)) from error


def _redact(value: object) -> object:
    if isinstance(value, str) and "://" in value and "@" in value:
        parts = urlsplit(value)
        return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))
    return str(value)
