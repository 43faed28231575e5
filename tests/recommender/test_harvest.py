"""What the import model learns from: imports by `ast`, splits by path."""

from pathlib import Path

from models.train_recommender.dataset import gather_names, make_examples
from models.train_recommender.harvest import SourceFile, harvest, installed_roots

SPLITS = ("train", "validation", "test")
TREE = {
    "lone.py": "import os, sys\nimport os\n",
    "copy.py": "import os, sys\nimport os\n",
    "pack/__init__.py": "from . import tools\nfrom .sub import deep as d\n",
    "pack/tools.py": "from __future__ import annotations\nfrom collections.abc import Set\n",
    "pack/sub/__init__.py": "def f():\n    import json.decoder\n",
    "pack/sub/deep.py": (
        "from ..tools import x\nfrom .. import sub, __version__\nimport pack.tools\n"
    ),
    "pack/broken.py": "import (\n",
    "pack/far.py": "from ... import beyond\n",
    "pack/empty.py": "",
    "pack/__pycache__/x.py": "import re\n",
    "site-packages/other.py": "import re\n",
}


def write(root: Path) -> None:
    for path, text in TREE.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_imports_are_absolute_in_order_and_once(tmp_path: Path) -> None:
    write(tmp_path)
    files = {file.path: file for file in harvest([tmp_path])}
    copies = {"lone.py", "copy.py"} & files.keys()
    assert len(copies) == 1
    lone = files.pop(copies.pop())
    assert (lone.package, lone.imports) == ("", ("os", "sys"))
    assert {path: (file.package, file.imports) for path, file in files.items()} == {
        "pack/__init__.py": ("pack", ("pack.tools", "pack.sub.deep")),
        "pack/tools.py": ("pack", ("collections.abc",)),
        "pack/sub/__init__.py": ("pack.sub", ("json.decoder",)),
        "pack/sub/deep.py": ("pack.sub", ("pack.tools", "pack.sub", "pack")),
    }


def test_the_harvest_is_the_same_again(tmp_path: Path) -> None:
    write(tmp_path)
    assert harvest([tmp_path]) == harvest([tmp_path])


def test_every_path_is_in_one_split_and_the_shares_are_as_stated() -> None:
    files = [SourceFile(f"p/m{i}.py", "p", ("os",)) for i in range(20_000)]
    splits = {split: {f.path for f in files if f.split == split} for split in SPLITS}
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == 20_000
    assert 0.07 < len(splits["test"]) / 20_000 < 0.09
    assert 0.03 < len(splits["validation"]) / 20_000 < 0.05


def test_an_example_sees_only_what_came_before_its_target() -> None:
    training = [SourceFile(f"p/{i}.py", "p.q", ("a", "a.b", "c")) for i in range(3)]
    names = gather_names(training)
    assert (names.modules, names.packages, names.roots) == (
        ["a", "a.b", "c"],
        ["p", "p.q"],
        ["a", "c"],
    )
    examples, num_missed = make_examples(
        [SourceFile("p/n.py", "p.new", ("c", "rare", "a.b"))], names
    )
    assert num_missed == 1
    assert [(e.target, e.imported) for e in examples] == [(2, []), (1, [2])]
    # package: its known parent; imports: the rare one is the default row; last; roots.
    assert [e.rows for e in examples] == [
        [[1], [], [], []],
        [[1], [3, 0], [0], [2, 0]],
    ]


def test_this_interpreter_has_a_library_to_harvest() -> None:
    assert all(root.is_dir() for root in installed_roots())
