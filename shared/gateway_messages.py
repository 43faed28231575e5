"""The messages between gateways. As those of messages.py, which lists them all."""

from __future__ import annotations

from shared.wire import Wired


class Abort(Wired, frozen=True):
    """gateway -> inboxes of the other gateways, soft: whoever has generations under this
    x-request-id ends them, if they are the `owner`'s (the name of a key; None: without keys)."""

    question_id: str
    reply_to: str
    http_id: str
    owner: str | None


class Aborted(Wired, frozen=True):
    """gateway -> gateway, soft: how many generations that was here; 0 is told as well."""

    question_id: str
    num_cancelled: int
