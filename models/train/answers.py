"""A target's own answers to a user's prompts, asked of a running Quorum and kept in a file.

One greedy answer and one at temperature 1 to each prompt. What the file holds is not asked again,
so that a collection that was stopped goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from models.checks import PROBE
from services.cli.client import Client, Json, RequestError
from services.cli.dataset import is_of_json, json_of, lines_of
from shared.errors import ConfigError

TEMPERATURES = (0.0, 1.0)
HELD_OUT_SHARE = 10
"""One prompt in so many is not learned from."""
MAX_TRIES = 8
PATIENCE_S = 600.0
PROBES = (PROBE, "Fünf  größere Bären,\tcafé № 7: 日本語のテキスト 🎉\n\n    x += 0.125; // don't")
"""Texts by which two tokenizers are told apart."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a client would ask: `prompt` or `messages` of a request body."""

    body: Json

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.body, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the target said, as tokens; the seed is that of the request."""

    digest: str
    temperature: float
    seed: int
    prompt: list[int]
    tokens: list[int]


def read_prompts(file: Path) -> list[Prompt]:
    """Lines of text, or JSON objects with `prompt` or `messages` in a .jsonl file; each once.
    Raises ConfigError naming the line."""
    is_json = is_of_json(file)
    found = {
        prompt.digest: prompt
        for where, line in lines_of(file)
        for prompt in [_of_json(line, where) if is_json else Prompt({"prompt": line})]
    }
    if len(found) < 2:
        raise ConfigError(
            f"{file} holds {len(found)} prompts; at least two are needed, one to learn from and "
            "one to measure by"
        )
    return list(found.values())


def _of_json(line: str, where: str) -> Prompt:
    content = json_of(line, where)
    if isinstance(content, dict):
        prompt, messages = content.get("prompt"), content.get("messages")
        if isinstance(prompt, str) and prompt:
            return Prompt({"prompt": prompt})
        if isinstance(messages, list) and messages:
            return Prompt({"messages": messages})
    raise ConfigError(f"{where} is no object with a `prompt` or `messages`")


def held_out(prompts: Sequence[Prompt]) -> set[str]:
    """The digests of those to measure by: one in ten by its digest, whatever the others are; of
    few prompts at least one."""
    digests = sorted(prompt.digest for prompt in prompts)
    chosen = {digest for digest in digests if int(digest, 16) % HELD_OUT_SHARE == 0}
    return chosen if 0 < len(chosen) < len(digests) else {digests[0]}


def read_answers(file: Path) -> dict[tuple[str, float], Answer]:
    """What is kept already. The last line may be half of one; it is asked again. Raises
    ConfigError for another kind of file."""
    found: dict[tuple[str, float], Answer] = {}
    if not file.exists():
        return found
    lines = file.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    if whole != lines:
        file.write_bytes(b"".join(whole))
    for number, line in enumerate(whole, 1):
        try:
            answer = Answer(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{file}:{number} is no answer of an earlier run: {error}") from error
        found[answer.digest, answer.temperature] = answer
    return found


class Collector:
    """Asks the target `model` of a running Quorum. Raises ConfigError for a server that does not
    serve it, RequestError for one that does not answer."""

    def __init__(
        self, url: str, model: str, *, key: str | None, max_tokens: int, concurrency: int
    ) -> None:
        self._url, self._model, self._key = url, model, key
        self._max_tokens = max_tokens
        self._concurrency = concurrency

    def collect(self, prompts: Sequence[Prompt], tokenizer: Tokenizer, file: Path) -> list[Answer]:
        """All answers, those of the file among them; new ones are appended to it as they come."""
        return asyncio.run(self._collect(prompts, tokenizer, file))

    async def _collect(
        self, prompts: Sequence[Prompt], tokenizer: Tokenizer, file: Path
    ) -> list[Answer]:
        known = read_answers(file)
        wanted = [
            (prompt, temperature)
            for prompt in prompts
            for temperature in TEMPERATURES
            if (prompt.digest, temperature) not in known
        ]
        if wanted:
            async with Client(self._url, self._key) as client:
                await self._require_model(client)
                await self._require_tokenizer(client, tokenizer)
                await self._ask_all(client, wanted, known, file)
        digests = {prompt.digest for prompt in prompts}
        return [answer for answer in known.values() if answer.digest in digests]

    async def _ask_all(
        self,
        client: Client,
        wanted: Sequence[tuple[Prompt, float]],
        known: dict[tuple[str, float], Answer],
        file: Path,
    ) -> None:
        places = iter(wanted)
        total = len(known) + len(wanted)
        with file.open("a", encoding="utf-8") as kept:

            async def work(places: Iterator[tuple[Prompt, float]]) -> None:
                for prompt, temperature in places:
                    answer = await self._ask(client, prompt, temperature)
                    kept.write(json.dumps(asdict(answer)) + "\n")
                    kept.flush()
                    known[answer.digest, temperature] = answer
                    _show(f"{len(known)} of {total} answers")

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._concurrency):
                        group.create_task(work(places))
            except* RequestError as errors:
                raise errors.exceptions[0] from None
        _show(f"{len(known)} of {total} answers\n")

    async def _ask(self, client: Client, prompt: Prompt, temperature: float) -> Answer:
        """One answer; none at all to a prompt that fills the target's context."""
        asked = {**prompt.body, "model": self._model}
        told = await _patiently(client, "/tokenize", asked)
        tokens, room = told["tokens"], told["max_model_len"] - told["count"]
        seed = int(prompt.digest[:15], 16)
        if not tokens or room < 1:
            return Answer(prompt.digest, temperature, seed, tokens, [])
        body = {
            "model": self._model,
            "prompt": tokens,
            "max_tokens": min(self._max_tokens, room),
            "temperature": temperature,
            "seed": seed,
            "return_trace": True,
        }
        answer = await _patiently(client, "/v1/completions", body)
        said = [t["token"] for r in answer["trace"]["rounds"] for t in r["tokens"]]
        return Answer(prompt.digest, temperature, seed, tokens, said)

    async def _require_model(self, client: Client) -> None:
        models = (await client.get("/v1/models")).get("data", [])
        names = [str(entry.get("id")) for entry in models if entry.get("kind") != "recommender"]
        if self._model not in names:
            raise ConfigError(
                f"{self._url} does not serve {self._model}; it serves {', '.join(names) or 'none'}"
            )

    async def _require_tokenizer(self, client: Client, tokenizer: Tokenizer) -> None:
        for text in PROBES:
            told = await client.post("/tokenize", {"model": self._model, "prompt": text})
            if told["tokens"] != tokenizer.encode(text).ids:
                raise ConfigError(
                    f"the tokenizer of {self._model} at {self._url} is not that of its folder here"
                )


async def _patiently(client: Client, path: str, body: Json) -> Json:
    """Asks again where the server is busy, or on its way up again."""
    for number in range(MAX_TRIES):
        try:
            return await client.post(path, body, PATIENCE_S)
        except RequestError as error:
            is_passing = error.status in (429, 502, 503) or error.status is None
            if not is_passing or number == MAX_TRIES - 1:
                raise
        await asyncio.sleep(0.25 * 2**number)  # a gateway that is busy is given time
    raise AssertionError("the last try returns or raises")


def _show(line: str) -> None:
    """Progress, overwritten on a terminal; elsewhere only the last of it."""
    if sys.stderr.isatty() or line.endswith("\n"):
        print(line, end="\r" if not line.endswith("\n") else "", file=sys.stderr, flush=True)
