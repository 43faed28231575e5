"""The shipped model: small, whole, documented, and of some use."""

from pathlib import Path

import pytest

from services.recommender.folder import load_model
from services.recommender.manifest import load_manifest
from services.recommender.model import Model
from services.recommender.ranking import top

FOLDER = Path(__file__).parent.parent.parent / "models" / "import-next"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(FOLDER, num_threads=1)


def best(model: Model, package: list[str], imports: list[str], k: int = 10) -> list[str]:
    ranking = model.read({"package": package, "imports": imports}, None)
    (scores,) = model.rank([ranking.query])
    return [model.names.items.name(item) for item in ranking.items[top(scores, k)].tolist()]


def test_it_is_small_and_every_file_is_listed() -> None:
    files = {file.name for file in FOLDER.iterdir()}
    assert files == {*load_manifest(FOLDER).files, "manifest.json", "README.md"}
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 3_000_000


def test_its_card_holds_data_licence_and_figures_beside_the_baselines() -> None:
    card = (FOLDER / "README.md").read_text()
    for word in ("recall@10", "AUC", "| popularity |", "licence", "held-out", "seed"):
        assert word in card
    assert "$" not in card


@pytest.mark.parametrize(
    ("package", "imports", "expected"),
    [
        ("networkx.algorithms", [], "networkx"),
        ("asyncio", ["socket", "ssl"], "asyncio.base_events"),
        ("", ["unittest"], "test.support"),
        ("unheard.of", ["numpy"], "numpy.testing"),
    ],
)
def test_it_recommends_what_such_files_import(
    model: Model, package: str, imports: list[str], expected: str
) -> None:
    names = best(model, [package] if package else [], imports)
    assert expected in names
    assert not set(imports) & set(names)


def test_its_scores_are_the_same_bits_alone_and_together(model: Model) -> None:
    packages = [["asyncio"], [], ["torch.nn"], ["new"], ["email"]]
    queries = [model.read({"package": p, "imports": ["os"]}, ["re", "sys"]) for p in packages]
    queries += [model.read({"package": p}, None) for p in packages]
    queries += [model.read({"package": p}, ["json"]) for p in packages]
    together = model.rank([ranking.query for ranking in queries])
    alone = [model.rank([ranking.query])[0] for ranking in queries]
    assert [s.tobytes() for s in together] == [s.tobytes() for s in alone]
