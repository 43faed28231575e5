"""Token streams of the corpus, and seeded windows out of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from models.train import corpus, tokenizer

IntArray = npt.NDArray[np.int64]
KINDS = ("code", "chat")


class Stream:
    """The tokens of one kind of document on one side of the split, end to end."""

    def __init__(self, tokens: npt.NDArray[np.uint16]) -> None:
        self.tokens = tokens

    def windows(self, count: int, length: int, rng: np.random.Generator) -> IntArray:
        """`count` random windows [count, length]."""
        starts = rng.integers(0, len(self.tokens) - length, count)
        return self.tokens[starts[:, None] + np.arange(length)].astype(np.int64)

    def consecutive(self, length: int) -> IntArray:
        """All windows that do not overlap [n, length]."""
        whole = len(self.tokens) // length * length
        return self.tokens[:whole].reshape(-1, length).astype(np.int64)


def prepare(work: Path) -> tuple[Tokenizer, dict[str, Stream], dict[str, Stream]]:
    """Tokenizer, training streams and held-out streams by kind; made once, then read back."""
    folder = work / "corpus"
    if not (folder / "done").exists():
        _make(work, folder)
    trained = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
    sides = (
        {k: Stream(np.load(folder / f"{s}-{k}.npy")) for k in KINDS} for s in ("train", "test")
    )
    train, test = sides
    return trained, train, test


def _make(work: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    everything = list(corpus.documents())
    training = [document for document in everything if not document.is_held_out]
    trained = tokenizer.train(document.text for document in training)
    tokenizer.save(trained, work / "tokenizer")
    end = trained.token_to_id(tokenizer.END_OF_TEXT)
    for kind in KINDS:
        for side, held_out in (("train", False), ("test", True)):
            texts = [d.text for d in everything if d.kind == kind and d.is_held_out == held_out]
            ids = [id_ for e in trained.encode_batch(texts) for id_ in (*e.ids, end)]
            np.save(folder / f"{side}-{kind}.npy", np.array(ids, np.uint16))
            print(f"corpus: {side} {kind}: {len(texts)} documents, {len(ids)} tokens", flush=True)
    (folder / "done").touch()
