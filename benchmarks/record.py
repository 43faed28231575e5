"""python -m benchmarks.record: what each drafter would propose at every position of plain texts.

Writes benchmarks/results/record.npz (benchmarks/recorded.py), which benchmarks.replay replays, and
benchmarks/results/noise.npz: how far proposals agree with the target when drafters draw with the
target's own random numbers, and when they propose what they hold most likely.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.prompts import KINDS, prompts
from benchmarks.recorded import REACH, Track, save
from services.drafter.choice import load_passes
from services.drafter.config import DrafterConfig
from services.drafter.model import DraftModel, Lookup, Proposed, Want, finish
from services.drafter.neural import NeuralModel
from services.drafter.ngram import NgramModel
from services.drafter.suffix import SuffixModel
from services.voter.estimator import Opinion
from shared import served
from shared.generation import Sampling
from shared.lm.decoder import Decoder, Row, load_decoder
from shared.lm.sampling import Place, draw
from shared.tokens import common_length

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MODELS = ROOT / "models"
TARGET = "quorum-6m"
TEMPERATURES = (0.0, 0.8)
NOISE_TEMPERATURES = (0.7, 1.0)
AT_A_TIME = 8
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt, how the target draws, and what it went on to write."""

    name: str
    kind: str
    prompt: list[int]
    sampling: Sampling
    tokens: list[int]


class Family:
    """The target and its draft models, each on one thread."""

    def __init__(self) -> None:
        self.config = DrafterConfig.model_validate({})
        (target,) = [target for target in served.read(MODELS) if target.name == TARGET]
        self._target = self._decoder(target.name)
        self._neural = {
            name: load_passes(
                MODELS / name,
                max_slots=AT_A_TIME,
                num_threads=1,
                device="cpu",
                compiles=self.config.compiles,
            )
            for name in target.drafters
        }

    def neural(self) -> dict[str, DraftModel]:
        """The neural draft models, fresh, by their names."""
        return {
            name: NeuralModel(passes, self.config.prefill_tokens)
            for name, passes in self._neural.items()
        }

    def drafters(self) -> dict[str, DraftModel]:
        """All draft models, fresh, by their names: what suffix lookup remembers begins empty."""
        size = self.config.max_requests
        return {
            **self.neural(),
            "ngram": Lookup(NgramModel(size)),
            "suffix": Lookup(SuffixModel(size, self.config.suffix_tokens)),
        }

    def texts(self, kind: str, temperature: float, first: int, length: int) -> list[Text]:
        """AT_A_TIME prompts of a kind from number `first` on, continued by the target alone.
        Stop tokens do not end them, as in the other benchmarks."""
        found = [
            Text(f"{kind}-{temperature}-{seed}", kind, prompt, Sampling(temperature, seed=seed), [])
            for seed, prompt in enumerate(prompts(kind, first + AT_A_TIME))
        ][first:]
        for slot, text in enumerate(found):
            self._target.forward([Row(slot, 0, text.prompt[:-1], 0)])
        for _ in range(length):
            contexts = [text.prompt + text.tokens for text in found]
            rows = [Row(slot, len(c) - 1, c[-1:], 1) for slot, c in enumerate(contexts)]
            places = [
                Place(t.sampling, c, len(c), len(t.prompt))
                for t, c in zip(found, contexts, strict=True)
            ]
            drawn = draw(np.concatenate(self._target.forward(rows)), places)
            for text, token in zip(found, drawn.tolist(), strict=True):
                text.tokens.append(token)
        return found

    def _decoder(self, name: str) -> Decoder:
        return load_decoder(MODELS / name, max_slots=AT_A_TIME, num_threads=1)


def proposals(
    model: DraftModel, texts: Sequence[Text], sampling: Sampling | None = None
) -> Iterator[list[Proposed]]:
    """At each position, what a draft model proposes for each text; it draws as the target does
    unless told otherwise."""
    wants = [Want(text.name, REACH, sampling or text.sampling) for text in texts]
    for position in range(len(texts[0].tokens)):
        for text in texts:
            start = len(text.prompt) + position - 1 if position else 0
            new = text.tokens[position - 1 : position] if position else text.prompt
            known = model.extend(text.name, start, new, len(text.prompt))
            assert known, text.name
        yield finish(model.propose(wants))
    for text in texts:
        model.release(text.name)


def record(drafters: dict[str, DraftModel], texts: Sequence[Text]) -> list[Track]:
    """All proposals along some texts."""
    tracks = [
        Track(t.kind, t.sampling.temperature, t.tokens, [[] for _ in t.tokens]) for t in texts
    ]
    for name, model in drafters.items():
        for position, proposed in enumerate(proposals(model, texts)):
            for track, found in zip(tracks, proposed, strict=True):
                if found.tokens:
                    opinion = Opinion(name, found.tokens, found.margins)
                    track.opinions[position].append(opinion)
    for track in tracks:
        for opinions in track.opinions:
            opinions.sort(key=lambda opinion: opinion.drafter)
    return tracks


def agreements(
    model: DraftModel, texts: Sequence[Text], sampling: Sampling | None
) -> list[list[int]]:
    """For each text, how many tokens of the proposal at each position the target agrees with.
    Positions within REACH of the end, where that is not known, are left out."""
    found = [
        [common_length(p.tokens, t.tokens[position:]) for p, t in zip(proposed, texts, strict=True)]
        for position, proposed in enumerate(proposals(model, texts, sampling))
    ]
    return [list(column) for column in zip(*found[: 1 - REACH], strict=True)]


def record_all(family: Family, groups: int, length: int) -> list[Track]:
    """Kinds by turns; what suffix lookup remembers starts anew with each temperature."""
    tracks = []
    for temperature in TEMPERATURES:
        drafters = family.drafters()
        for group in range(groups):
            for kind in KINDS:
                started = time.perf_counter()
                texts = family.texts(kind, temperature, group * AT_A_TIME, length)
                tracks += record(drafters, texts)
                _say(f"record: {kind} at {temperature}, group {group + 1} of {groups}", started)
    return tracks


def record_noise(family: Family, groups: int, length: int, path: Path) -> None:
    """Agreement [drawing, drafter, text, position], of shared noise and of the likeliest token."""
    texts: list[Text] = []
    counts: list[npt.NDArray[np.uint8]] = []
    names = sorted(family.neural())
    for temperature in NOISE_TEMPERATURES:
        for group in range(groups):
            for kind in KINDS:
                started = time.perf_counter()
                some = family.texts(kind, temperature, group * AT_A_TIME, length)
                models = family.neural()
                texts += some
                agreed = [
                    [agreements(models[name], some, sampling) for name in names]
                    for sampling in (None, GREEDY)
                ]
                counts.append(np.array(agreed, np.uint8))
                _say(f"noise: {kind} at {temperature}, group {group + 1} of {groups}", started)
    np.savez_compressed(
        path,
        drawings=np.array(["shared noise", "argmax"]),
        drafters=np.array(names),
        kinds=np.array([text.kind for text in texts]),
        temperatures=np.array([text.sampling.temperature for text in texts]),
        agreed=np.concatenate(counts, axis=2),
    )


def _say(what: str, started: float) -> None:
    print(f"{what}: {time.perf_counter() - started:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=2, help=f"of {AT_A_TIME} prompts of a kind")
    parser.add_argument("--noise-groups", type=int, default=1, help="likewise, 0: none")
    parser.add_argument("--tokens", type=int, default=128, help="of each text")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    family = Family()
    save(arguments.out / "record.npz", record_all(family, arguments.groups, arguments.tokens))
    if arguments.noise_groups:
        path = arguments.out / "noise.npz"
        record_noise(family, arguments.noise_groups, arguments.tokens, path)


if __name__ == "__main__":
    main()
