"""The list of what is served: read as it was written, and every mistake in it a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.verifier.config import VerifierConfig
from shared import served
from shared.errors import ModelError
from shared.lm.vocabulary import vocabulary_digest
from tests.toy import write_toy, write_toy_tokenizer


def test_what_is_written_is_read_in_its_order(tmp_path: Path) -> None:
    targets = [
        served.Target(tmp_path / "second", drafters=("a", "b"), translated=("b",)),
        served.Target(tmp_path / "first"),
    ]
    served.write(tmp_path, targets)
    assert served.read(tmp_path) == targets
    assert [path.name for path in tmp_path.iterdir()] == [served.FILE_NAME]


def test_a_models_own_folder_is_the_only_target(tmp_path: Path) -> None:
    folder = write_toy(tmp_path / "toy")
    assert served.read(folder) == [served.Target(folder, served.stamp(folder))]
    assert not served.is_list(folder)


def test_the_shipped_list_names_the_shipped_models() -> None:
    (target,) = served.read(VerifierConfig().model)
    for folder in (target.folder, *(target.folder.parent / name for name in target.drafters)):
        assert (folder / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is no JSON"),
        ("[]", "is no object of at most 64 targets"),
        (json.dumps({f"m{n}": {} for n in range(65)}), "is no object of at most 64 targets"),
        ('{"../m": {}}', "'../m' should be a target"),
        ('{"m": []}', "'m' should be a target"),
        ('{"m": {"drafter": []}}', "m: unknown drafter"),
        ('{"m": {"drafters": "a"}}', "'drafters' should be a list of names"),
        ('{"m": {"drafters": ["a/b"]}}', "'drafters' should be a list of names"),
        ('{"m": {"translated": ["a"]}}', "names what is not among `drafters`"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / served.FILE_NAME).write_text(content)
    with pytest.raises(ModelError, match=reason):
        served.read(tmp_path)


def test_a_folder_of_neither_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it has no manifest.json; nor does it list models"):
        served.read(tmp_path)


def test_too_many_targets_are_not_written(tmp_path: Path) -> None:
    targets = [served.Target(tmp_path / f"m{number}") for number in range(65)]
    with pytest.raises(ModelError, match="64 targets at most"):
        served.write(tmp_path, targets)
    assert not served.is_list(tmp_path)


def test_a_vocabulary_is_told_by_its_tokens_alone(tmp_path: Path) -> None:
    one, same, other, none = (tmp_path / name for name in ("one", "same", "other", "none"))
    for folder in (one, same, other):
        write_toy_tokenizer(write_toy(folder))
    content = json.loads((same / "tokenizer.json").read_text())
    content["post_processor"], content["truncation"] = None, None
    (same / "tokenizer.json").write_text(json.dumps(content, indent=4))
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    assert vocabulary_digest(one) == vocabulary_digest(same) != vocabulary_digest(other)
    assert vocabulary_digest(none) == ""
    (other / "tokenizer.json").write_text("[")
    assert vocabulary_digest(other) == ""


def test_pieces_with_scores_are_numbered_by_their_place(tmp_path: Path) -> None:
    digests = []
    for name, vocabulary in (("list", [["a", -1.0], ["b", -2.0]]), ("object", {"b": 1, "a": 0})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(
            json.dumps({"model": {"vocab": vocabulary}})
        )
        digests.append(vocabulary_digest(tmp_path / name))
    assert digests[0] == digests[1] != ""
