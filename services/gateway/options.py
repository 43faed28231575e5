"""Parts of the bodies that generation takes: what the text must be, and how it is drafted."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import InvalidRequestError
from shared.generation import Grammar, Steering

MAX_LENGTH = 64
MAX_CHOICES = 1024
MAX_GRAMMAR_CHARS = 100_000
DraftLength = Annotated[int, Field(ge=0, le=MAX_LENGTH)]
GrammarText = Annotated[str, Field(min_length=1, max_length=MAX_GRAMMAR_CHARS)]


class Body(BaseModel):
    """Base of the bodies: strict types, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Body):
    include_usage: bool = False


class NamedSchema(Body):
    """A JSON schema as OpenAI wraps it. It is always followed, whatever `strict` says."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = Field(None, max_length=4096)
    schema_: dict[str, object] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's way to ask for JSON."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    def grammar(self) -> Grammar | None:
        """Raises InvalidRequestError where type and schema do not go together."""
        field = "response_format"
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise InvalidRequestError(
                f"{field}: json_schema goes with the type json_schema, and with no other", field
            )
        if self.json_schema is not None:
            return _json(self.json_schema.schema_ or {}, field)
        return _json({"type": "object"}, field) if self.type == "json_object" else None


class StructuredOutputs(Body):
    """vLLM's way to say what the text must be: one of these."""

    json_: dict[str, object] | GrammarText | None = Field(None, alias="json")
    json_object: bool | None = None
    regex: GrammarText | None = None
    choice: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=4096)]],
            Field(min_length=1, max_length=MAX_CHOICES),
        ]
        | None
    ) = None
    grammar: GrammarText | None = None

    def grammar_(self) -> Grammar:
        """Raises InvalidRequestError for none of the ways, or several."""
        field = "structured_outputs"
        found: list[Grammar] = []
        if self.json_ is not None:
            found.append(_json(self.json_, field))
        if self.json_object:
            found.append(_json({"type": "object"}, field))
        if self.regex is not None:
            found.append(Grammar("regex", self.regex, field))
        if self.choice is not None:
            found.append(Grammar("choice", json.dumps(self.choice), field))
        if self.grammar is not None:
            found.append(Grammar("lark", self.grammar, field))
        if len(found) != 1:
            raise InvalidRequestError(
                f"{field}: one of json, json_object, regex, choice and grammar is needed", field
            )
        return found[0]


class SpeculationOptions(Body):
    """How the request's text is drafted; what comes out is the same. `auto` is what is fastest by
    the system's own measure; a fixed `length` of drafts is kept to whatever it costs."""

    mode: Literal["auto", "off"] = "auto"
    length: DraftLength | None = None
    max_length: DraftLength | None = None
    drafters: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=128)]],
            Field(min_length=1, max_length=64),
        ]
        | None
    ) = None
    vote: Literal["learned", "greedy", "heaviest-path"] | None = None

    def steering(self) -> Steering:
        """Raises InvalidRequestError for settings that contradict each other."""
        others = (self.length, self.max_length, self.drafters, self.vote)
        if self.mode == "off":
            if any(other is not None for other in others):
                raise InvalidRequestError(
                    "speculation: with mode off there is nothing else to set", "speculation"
                )
            return Steering(length=0)
        if self.length is not None and self.max_length is not None:
            raise InvalidRequestError(
                "speculation: length is fixed, so max_length has no meaning beside it",
                "speculation",
            )
        return Steering(*others)


def only_grammar(
    response_format: ResponseFormat | None, structured: StructuredOutputs | None
) -> Grammar | None:
    """What the text must be, if anything. Raises InvalidRequestError where both say so."""
    own = response_format.grammar() if response_format is not None else None
    if structured is None:
        return own
    if own is not None:
        raise InvalidRequestError(
            "structured_outputs: response_format says already what the text must be",
            "structured_outputs",
        )
    return structured.grammar_()


def _json(schema: dict[str, object] | str, field: str) -> Grammar:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    if len(text) > MAX_GRAMMAR_CHARS:
        raise InvalidRequestError(
            f"{field}: a schema may have {MAX_GRAMMAR_CHARS} characters", field
        )
    return Grammar("json", text, field)
