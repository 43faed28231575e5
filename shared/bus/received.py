"""Bytes of an inbox as the message that they are, for either bus."""

from __future__ import annotations

import logging

from shared.bus import metrics
from shared.codec import decode_traced
from shared.errors import MessageError
from shared.tracing import resume

logger = logging.getLogger(__name__)


def received(data: bytes) -> object | None:
    """The message, of whose trace what follows is a part; None for bytes that are none, which are
    counted and passed over."""
    try:
        message, trace = decode_traced(data)
    except MessageError as error:
        metrics.MALFORMED.inc()
        logger.warning("inbox message dropped: %s", error)
        return None
    resume(trace)
    return message
