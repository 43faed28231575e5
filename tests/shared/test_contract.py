"""docs/messages.md and docs/asyncapi.json are made of the messages as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from shared import topics
from shared.codec import encode
from shared.contract import FLOWS, FOLDER, Flow, asyncapi, main, page
from shared.generation import Logprobs, RoundTrace, RoundVote, Times
from shared.messages import MESSAGES, Cancelled, GenerationReport, PromptLogprobs, Scores, Tokens
from shared.tensor_messages import Outputs, Tensor
from shared.topics import Topic
from shared.wire_schemas import parts

ROOT = Path(__file__).parents[2]
ROLES = ("gateway", "verifier", "drafter", "voter", "recommender")
SPOKEN: list[object] = [
    PromptLogprobs("r", "v", 1, [Logprobs(-0.5, [1], [-0.5], 1)]),
    Tokens(
        "r", "v", 0, [1, 2], [Logprobs(-0.5, [1], [-0.5])],
        [RoundTrace(0, 0, 2, 1, [1], 1, [RoundVote("ngram", [1], 0.5)], 0.1, 1, Times())],
    ),
    Cancelled("r", GenerationReport(0, [(2, 1)], 0, Times(), [])),
    Scores("r", ["a"], [0.5], 0, "1"),
    Outputs("r", {"score": Tensor("float32", [1], b"\x00\x00\x00\x00")}, "1"),
]  # fmt: skip


def test_the_pages_are_current(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(ROOT / FOLDER)]) == 0, "python -m shared.contract makes them anew"
    assert main(["--check", str(tmp_path)]) == 1
    assert "is old" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "messages.md").read_text() == page()
    assert main(["--check", str(tmp_path)]) == 0


def test_every_message_and_topic_is_on_its_way() -> None:
    assert {flow.message for flow in FLOWS} == set(MESSAGES)
    made = {
        make("m")
        for name, make in vars(topics).items()
        if callable(make) and not isinstance(make, type) and name.endswith("_requests")
    }
    assert {flow.over("m") for flow in FLOWS if callable(flow.over)} == made


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: f"{flow.sender}-{flow.message.__name__}")
def test_ways_are_as_the_messages_and_topics_say(flow: Flow) -> None:
    if callable(flow.over):
        topic: Topic[Any] = flow.over("m")
        assert (topic.type, topic.group) == (flow.message, flow.receiver)
    found = re.match(r"(\w+) -> ([^:.]+)", flow.message.__doc__ or "")
    if found is not None:
        sender, receivers = found.groups()
        assert flow.sender == sender
        assert flow.receiver in receivers
        named = [role for role in ROLES if role in receivers]
        told = {one.receiver for one in FLOWS if one.message is flow.message}
        assert told == set(named)


def test_the_document_is_asyncapi() -> None:
    """As its specification has it, by hand: no package of its schema is small enough."""
    document = asyncapi()
    assert document.keys() == {
        "asyncapi", "info", "defaultContentType", "channels", "operations", "components",
    }  # fmt: skip
    assert document["asyncapi"] == "3.0.0"
    for channel in document["channels"].values():
        assert channel.keys() == {"address", "description", "parameters", "messages"}
        assert set(re.findall(r"{(\w+)}", channel["address"])) == channel["parameters"].keys()
        assert channel["messages"]
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")
    names = [*document["channels"], *document["operations"], *document["components"]["schemas"]]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    for reference in references(document):
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("message", SPOKEN, ids=lambda message: type(message).__name__)
def test_what_is_on_the_wire_is_as_it_says(message: object) -> None:
    here = "urn:messages"
    document = asyncapi()
    registry = Registry().with_resource(here, DRAFT202012.create_resource(document))
    name = type(message).__name__
    schema = {"$ref": f"{here}#/components/messages/{name}/payload"}
    validator = Draft202012Validator(schema, registry=registry)
    sent = msgpack.unpackb(encode(message))
    validator.validate(texts(sent))
    sent["body"]["unheard"] = 1
    assert not validator.is_valid(texts(sent))


def test_texts_below_fields_are_told() -> None:
    report = asyncapi()["components"]["schemas"]["DrafterReport"]["properties"]
    assert report["num_ready_tokens"]["description"] == "Of the proposed, those drafted ahead."
    assert set(parts()) >= {"DrafterReport", "Tensor", "Sampling"}


def texts(value: object) -> object:
    """JSON schema knows no bytes; the document says of them that they are texts of bytes."""
    if isinstance(value, dict):
        return {key: texts(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [texts(inner) for inner in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)
