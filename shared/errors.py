"""The error tree. Each error has a stable `code` that travels in messages and in HTTP answers.

QuorumError
├── ConfigError            a setting is unknown or out of range; the start stops
├── ModelError             a model folder or a call of a model is wrong
├── MessageError           bytes on the bus are not a message of ours
│   ├── OversizeError      larger than the bus takes
│   └── MalformedError     broken, unknown type or version, missing or wrongly typed field
├── BusError               the bus cannot be reached or refused the operation
├── OverloadedError        admission is full; try again after `retry_after_s`
├── UnavailableError       no live instance can serve this
└── InvalidRequestError    the caller's input is wrong; `param` names the field
"""

from __future__ import annotations


class QuorumError(Exception):
    """Base of every error that Quorum raises on purpose."""

    code = "internal_error"


class ConfigError(QuorumError):
    code = "invalid_config"


class ModelError(QuorumError):
    code = "model_error"


class MessageError(QuorumError):
    code = "invalid_message"


class OversizeError(MessageError):
    code = "message_too_large"


class MalformedError(MessageError):
    code = "malformed_message"


class BusError(QuorumError):
    code = "bus_unavailable"


class OverloadedError(QuorumError):
    code = "overloaded"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(QuorumError):
    code = "unavailable"


class InvalidRequestError(QuorumError):
    code = "invalid_request"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
