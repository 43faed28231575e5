"""The corpus of the shipped models: split by file, permissively licensed, bounded."""

from __future__ import annotations

import re
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import pytest

from models.train import corpus
from models.train.corpus import Document

INSTALLED = [
    name for name in corpus.PACKAGES if any(metadata.distributions(name=name))
]  # torch and transformers come with the training alone


@pytest.fixture(scope="module")
def package_documents() -> list[Document]:
    return [file for name in INSTALLED for file in corpus.package_files(name)]


def test_five_per_cent_of_the_files_are_held_out_and_their_chats_with_them() -> None:
    files = list(corpus.library_files())
    held_out = [file for file in files if file.is_held_out]
    assert 0.03 < len(held_out) / len(files) < 0.07
    for file in held_out:
        assert all(chat.is_held_out for chat in corpus.chats(file.path, file.text))


def test_the_split_depends_on_the_path_alone() -> None:
    assert Document("json/decoder.py", "code", "a") == Document("json/decoder.py", "code", "a")
    for path in ("json/decoder.py", "numpy/_core/numeric.py"):
        assert len({Document(path, kind, path[:n]).is_held_out for kind in ("code", "chat")
                    for n in range(3)}) == 1  # fmt: skip


def test_no_tests_and_no_file_of_another_root_are_in_it(package_documents: list[Document]) -> None:
    paths = [Path(file.path) for file in (*corpus.library_files(), *package_documents)]
    assert paths
    assert not [path for path in paths if path.is_absolute() or ".." in path.parts]
    assert not [path for path in paths if corpus.SKIPPED_FOLDERS & set(path.parts)]


def test_no_package_drowns_the_others(package_documents: list[Document]) -> None:
    sizes: dict[str, int] = defaultdict(int)
    for file in package_documents:
        sizes[file.path.partition("/")[0]] += len(file.text)
    assert {"numpy", "aiohttp", "redis", "pydantic"} <= set(sizes)
    assert max(sizes.values()) <= corpus.MAX_PACKAGE_CHARS


@pytest.mark.parametrize("name", INSTALLED)
def test_a_package_states_the_licence_that_the_cards_give(name: str) -> None:
    stated = metadata.metadata(name)
    words = [
        *(stated.get_all("License-Expression") or ()),
        *(stated.get_all("License") or ()),
        *(c for c in stated.get_all("Classifier") or () if c.startswith("License ::")),
    ]
    family = {"Apache-2.0": "Apache", "MIT": "MIT", "BSD-3-Clause": "BSD"}
    assert any(family[corpus.PACKAGES[name]] in word for word in words), words
    assert not [word for word in words if re.search(r"\bL?GPL|AGPL", word)]


def test_every_package_is_pinned() -> None:
    constraints = Path(corpus.__file__).parents[2] / "constraints.txt"
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in constraints.read_text().splitlines()
    }
    assert {name.lower().replace("_", "-") for name in corpus.PACKAGES} <= pinned


PILE = '''class Pile:
    "Things."

    def top(self):
        """The last one."""
        return self.things[-1]
'''
TOP = """```python
def top(self):
    \"\"\"The last one.\"\"\"
    return self.things[-1]
```"""


def test_chats_ask_for_docstrings_and_short_sources() -> None:
    turns = [
        ("What does heap.pile.Pile do?", "Things."),
        ("What does heap.pile.Pile.top do?", "The last one."),
        ("Show me the source of heap.pile.Pile.top.", TOP),
    ]
    assert [chat.text for chat in corpus.chats("heap/pile.py", PILE)] == [
        corpus.render([("user", question), ("assistant", answer)]) for question, answer in turns
    ]


def test_what_does_not_parse_has_no_chats() -> None:
    assert list(corpus.chats("broken.py", "def f(:\n")) == []
