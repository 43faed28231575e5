"""docs/messages.md and docs/asyncapi.json: who sends which message where, and what it holds. Made
of the messages themselves; FLOWS alone is written by hand, and a test holds it against them.

    python -m shared.contract [--check] [FOLDER]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from shared import gateway_messages, tensor_messages, topics
from shared import messages as m
from shared.codec import MAX_MESSAGE_BYTES, SCHEMA_VERSION
from shared.topics import Topic
from shared.wire import MISSING, Wired, fields
from shared.wire_schemas import (
    Json,
    default_of,
    kind,
    notes_of,
    object_schema,
    parts,
    reference,
    text_of,
)

FOLDER = Path("docs")
MODEL = "{model}"
ENVELOPE = (
    f"A message is msgpack of a map: `v` is {SCHEMA_VERSION}, `type` the message's name, `body` "
    "its fields by name, and `trace` a W3C traceparent where the sender's work is traced. "
    f"{MAX_MESSAGE_BYTES} bytes are the most. A field at its default is left out, so that "
    "processes of an older version understand whatever does without what is new; unknown fields "
    "are refused."
)
INTRODUCTION = f"""\
# The messages between services

Made by `python -m shared.contract` of the code, as is `docs/asyncapi.json`, the same as AsyncAPI
3.0.

{ENVELOPE}

Topics are durable: a message is acknowledged after its effect, and handed to another consumer of
the group where one is lost. Inboxes are soft: one of each instance, bounded, and what nobody reads
is dropped. Journals are durable and kept for every reader."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A message on its way between two roles; `over` is a topic, an inbox or a journal."""

    message: type
    sender: str
    receiver: str
    over: Callable[[str], Topic[Any]] | str


INBOX, JOURNAL = "inbox", "journal"
FLOWS = (
    Flow(m.GenerateRequest, "gateway", "verifier", topics.generate_requests),
    Flow(m.GenerateRequest, "gateway", "verifier", topics.batch_generate_requests),
    Flow(m.RecommendRequest, "gateway", "recommender", topics.recommend_requests),
    Flow(tensor_messages.ScoreRequest, "gateway", "recommender", topics.score_requests),
    Flow(tensor_messages.WriteRows, "gateway", "recommender", topics.write_requests),
    Flow(m.PromptLogprobs, "verifier", "gateway", INBOX),
    Flow(m.Tokens, "verifier", "gateway", INBOX),
    Flow(m.Finished, "verifier", "gateway", INBOX),
    Flow(m.Cancelled, "verifier", "gateway", INBOX),
    Flow(m.Failed, "verifier", "gateway", INBOX),
    Flow(m.Failed, "recommender", "gateway", INBOX),
    Flow(m.Scores, "recommender", "gateway", INBOX),
    Flow(tensor_messages.Outputs, "recommender", "gateway", INBOX),
    Flow(tensor_messages.Written, "recommender", "gateway", INBOX),
    Flow(tensor_messages.Description, "recommender", "gateway", INBOX),
    Flow(gateway_messages.Abort, "gateway", "gateway", INBOX),
    Flow(gateway_messages.Aborted, "gateway", "gateway", INBOX),
    Flow(m.Cancel, "gateway", "verifier", INBOX),
    Flow(m.Draft, "voter", "verifier", INBOX),
    Flow(m.DraftRequest, "verifier", "drafter", INBOX),
    Flow(m.DraftRequest, "verifier", "voter", INBOX),
    Flow(m.Release, "verifier", "drafter", INBOX),
    Flow(m.Release, "verifier", "voter", INBOX),
    Flow(m.Proposal, "drafter", "voter", INBOX),
    Flow(tensor_messages.DescribeRequest, "gateway", "recommender", INBOX),
    Flow(tensor_messages.RowsWritten, "recommender", "recommender", JOURNAL),
)


def asyncapi() -> Json:
    """The AsyncAPI document."""
    channels: dict[str, Json] = {}
    operations: dict[str, Json] = {}
    for flow in FLOWS:
        name = _channel_name(flow)
        channel = channels.setdefault(name, _channel(flow))
        channel["messages"][flow.message.__name__] = _ref(flow.message)
        way = f"{flow.sender}.{name}.{flow.message.__name__}"
        message = {"$ref": f"#/channels/{name}/messages/{flow.message.__name__}"}
        operations[way] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{name}"},
            "summary": f"{flow.sender} to {flow.receiver}",
            "messages": [message],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Quorum's messages",
            "version": str(SCHEMA_VERSION),
            "description": ENVELOPE,
        },
        "defaultContentType": "application/msgpack",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {cls.__name__: _message(cls) for cls in m.MESSAGES},
            "schemas": {name: object_schema(cls) for name, cls in parts().items()},
        },
    }


def page() -> str:
    """docs/messages.md."""
    lines = [
        INTRODUCTION,
        "\n## Who sends what\n",
        "| from | to | over | message |",
        "|---|---|---|---|",
    ]
    for flow in FLOWS:
        name = flow.message.__name__
        link = f"[{name}](#{name.lower()})"
        lines.append(f"| {flow.sender} | {flow.receiver} | {_way(flow)} | {link} |")
    names = {cls.__name__ for cls in m.MESSAGES}
    for title, wanted in (("Messages", True), ("Parts of messages", False)):
        lines.append(f"\n## {title}")
        for name, cls in parts().items():
            if (name in names) == wanted:
                lines += _section(name, cls)
    return "\n".join(lines) + "\n"


def _section(name: str, cls: type[Wired]) -> Iterator[str]:
    yield f"\n### {name}\n\n{text_of(cls)}\n\n| field | | default | |\n|---|---|---|---|"
    notes, hints = notes_of(cls), get_type_hints(cls)
    for field in fields(cls):
        default = default_of(field)
        shown = "" if default is MISSING else f"`{json.dumps(default)}`"
        note = notes.get(field.name, "")
        yield f"| `{field.name}` | {kind(hints[field.name])} | {shown} | {note} |"


def _way(flow: Flow) -> str:
    if isinstance(flow.over, str):
        return flow.over
    topic = flow.over(MODEL)
    return f"topic `{topic.name}`, group `{topic.group}`"


def _channel_name(flow: Flow) -> str:
    if isinstance(flow.over, str):
        return f"{flow.receiver}.{flow.over}"
    return flow.over(MODEL).name.removesuffix(f".{MODEL}")


def _channel(flow: Flow) -> Json:
    if callable(flow.over):
        of, about = "model", "Name of the model."
        address, text = flow.over(MODEL).name, text_of(flow.over)
    else:
        of, about = {
            INBOX: ("instance", "The address that a request gives as its `reply_to`, or that the "
                    "registry of live instances has."),
            JOURNAL: ("version", "Name of the recommender and of its version."),
        }[flow.over]  # fmt: skip
        address, text = f"{flow.over}.{{{of}}}", f"The {flow.over} of a {flow.receiver}."
    return {
        "address": address,
        "description": text,
        "parameters": {of: {"description": about}},
        "messages": {},
    }


def _message(cls: type) -> Json:
    name = cls.__name__
    envelope = {
        "type": "object",
        "required": ["v", "type", "body"],
        "additionalProperties": False,
        "properties": {
            "v": {"const": SCHEMA_VERSION},
            "type": {"const": name},
            "body": reference(name),
            "trace": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
        },
    }
    return {"name": name, "summary": text_of(cls), "payload": envelope}


def _ref(cls: type) -> Json:
    return {"$ref": f"#/components/messages/{cls.__name__}"}


def main(arguments: Sequence[str]) -> int:
    """Writes both files, or says which are old."""
    parser = argparse.ArgumentParser(prog="shared.contract", description=main.__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="of documents")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if one is old")
    asked = parser.parse_args(arguments)
    folder: Path = asked.folder
    made = {
        folder / "messages.md": page(),
        folder / "asyncapi.json": json.dumps(asyncapi(), indent=1) + "\n",
    }
    old = [file for file, text in made.items() if not file.is_file() or file.read_text() != text]
    if not asked.check:
        for file, text in made.items():
            file.write_text(text)
        return 0
    for file in old:
        print(f"{file} is old; python -m shared.contract makes it anew", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
