"""Logging for a process: one line per event, `request_id` on each line that has one.

The request id travels in a context variable, so that code below a request need not pass it on.
"""

from __future__ import annotations

import contextvars
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="-")


@contextmanager
def request_scope(request_id: str) -> Iterator[None]:
    """Every log line within carries this request id."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def set_up(level: str, form: str) -> None:
    """Configures the root logger of this process. `form` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_stamp)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class Complaint:
    """Of what is looked at again and again: the same fault is logged once, until it is over."""

    def __init__(self, logger: logging.Logger, what: str) -> None:
        """`what` is how it is from then on, before the reason."""
        self._logger = logger
        self._what = what
        self._last = ""

    def about(self, error: Exception) -> None:
        """It is as the error says."""
        if str(error) != self._last:
            self._logger.error("%s: %s", self._what, error)
        self._last = str(error)

    def over(self) -> None:
        """All is well."""
        self._last = ""


def _stamp(record: logging.LogRecord) -> bool:
    record.request_id = _request_id.get()
    return True


class _TextFormatter(logging.Formatter):
    default_msec_format = "%s.%03d"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s [%(request_id)s] %(message)s")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "request_id": getattr(record, "request_id", "-"),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
