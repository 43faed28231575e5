"""The lists of OpenAI's fields that docs/api.md is made of are those of OpenAI's own client."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from services.gateway.reference.foreign_fields import OPENAI_CHAT, OPENAI_COMPLETION

pytestmark = pytest.mark.reference


def test_completions() -> None:
    from openai.types.completion_create_params import CompletionCreateParamsStreaming

    assert set(OPENAI_COMPLETION) == set(get_type_hints(CompletionCreateParamsStreaming))


def test_chats() -> None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

    assert set(OPENAI_CHAT) == set(get_type_hints(CompletionCreateParamsStreaming))
