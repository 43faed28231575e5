"""python -m services [name ...]: all services, or those named, in one process on one bus.

The only file that sees two services. Without BUS_URL they share a bus within the process.
"""

from __future__ import annotations

import sys

from services.drafter.service import PART as DRAFTER
from services.gateway.service import PART as GATEWAY
from services.recommender.service import PART as RECOMMENDER
from services.verifier.service import PART as VERIFIER
from services.voter.service import PART as VOTER
from shared.config import load
from shared.runner import AnyPart, main

# In this order they drain: first the door, then the work behind it, then the helpers.
PARTS: dict[str, AnyPart] = {
    part.name: part for part in (GATEWAY, VERIFIER, RECOMMENDER, VOTER, DRAFTER)
}


def chosen(names: list[str]) -> list[AnyPart]:
    """The parts of these names, all if there are none."""
    if unknown := [name for name in names if name not in PARTS]:
        sys.exit(f"quorum: no service {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return [part for name, part in PARTS.items() if not names or name in names]


def greet() -> None:
    """One line that all is ready, and three calls to try."""
    config = load(GATEWAY.config)
    url = f"http://{config.host}:{config.port}"
    post = "  -H 'Content-Type: application/json' -d"
    print(
        f"""Quorum is ready on {url}

curl -s {url}/v1/completions \\
{post} '{{"prompt": "def read_lines(path):\\n", "max_tokens": 48, "temperature": 0, "return_speculation": true}}'

curl -sN {url}/v1/chat/completions \\
{post} '{{"messages": [{{"role": "user", "content": "What does textwrap.dedent do?"}}], "max_tokens": 64, "stream": true}}'

curl -s {url}/v1/recommendations \\
{post} '{{"context": {{"package": ["asyncio"], "imports": ["socket", "ssl"]}}, "k": 5}}'
""",  # noqa: E501 - printed as it is to be pasted
        flush=True,
    )


if __name__ == "__main__":
    names = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    flags = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    parts = chosen(names)
    on_ready = greet if GATEWAY in parts else lambda: None
    sys.exit(main(parts, on_ready, flags, bus_url="memory://"))
