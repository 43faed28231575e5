"""Bytes of an inbox as the message that they are, for either bus."""

from __future__ import annotations

import logging

from shared.bus import metrics
from shared.codec import decode_traced
from shared.errors import MessageError
from shared.tracing import resume

logger = logging.getLogger(__name__)


class Parcel:
    """Bytes for one or more inboxes of a process. They are read once for all, which is why nobody
    ever changes a message."""

    __slots__ = ("_data", "_read")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._read: tuple[object, str | None] | None = None

    def open(self) -> object | None:
        """The message, of whose trace what follows is a part; None for bytes that are none, which
        are counted and passed over."""
        if self._read is None:
            try:
                self._read = decode_traced(self._data)
            except MessageError as error:
                metrics.MALFORMED.inc()
                logger.warning("inbox message dropped: %s", error)
                return None
        message, trace = self._read
        resume(trace)
        return message
