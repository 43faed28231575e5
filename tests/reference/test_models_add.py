"""Models as transformers saves them, added and served: not one token is another."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from models import library
from shared.errors import ModelError
from shared.lm.manifest import load_manifest
from tests.drafter.test_translated import GREEDY, WARM, generate, plain
from tests.random_models import END, TEMPLATE, write_source
from tests.vocabularies import byte_level

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    # transformers and its dependencies warn about their own future.
    warnings.simplefilter("ignore")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sources")
    same, odd = byte_level(300, [END]), byte_level(290, ["<|odd|>", END])
    write_source(root / "llama", "Llama", same, 256, TEMPLATE)
    write_source(root / "qwen", "Qwen2", same, 128, None)
    write_source(root / "odd", "Qwen2", odd, 256, None)
    return root


@pytest.mark.parametrize("drafter", ["qwen", "odd"])
async def test_what_was_added_generates_what_the_target_alone_would(
    sources: Path, tmp_path: Path, drafter: str
) -> None:
    out = tmp_path / "models"
    added = library.add(
        str(sources / "llama"),
        [f"other={sources / drafter}"],
        out,
        name="target",
        translate=drafter == "odd",
    )
    assert [m.architecture for m in (added.target, *added.drafters)] == [
        "LlamaForCausalLM",
        "Qwen2ForCausalLM",
    ]
    assert not [
        remark for remark in added.remarks if "template" in remark or "end of text" in remark
    ]
    assert any("beyond 128 tokens" in remark for remark in added.remarks) == (drafter == "qwen")
    assert ("other" in added.agreement) == (drafter == "qwen")
    prompts = [[5, 60, 70, 80], list(range(20, 90))]
    samplings = [GREEDY, WARM]
    answers = await generate(out, prompts, samplings, 40)
    for prompt, sampling, (tokens, finished) in zip(prompts, samplings, answers, strict=True):
        assert tokens == plain(out, prompt, sampling, 40)
        assert sum(drafted for drafted, _ in finished.report.per_round) > 0


def test_other_tokens_are_refused_before_anything_is_exported(
    sources: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    with pytest.raises(ModelError, match="odd has other tokens than llama: token 0 is"):
        library.add(str(sources / "llama"), [str(sources / "odd")], tmp_path, say=lines.append)
    assert lines == ["comparing the tokens of odd with those of llama"]
    assert not list(tmp_path.iterdir())


def test_an_addition_may_change_the_precision(sources: Path, tmp_path: Path) -> None:
    library.add(str(sources / "llama"), [], tmp_path, precision="int8")
    assert load_manifest(tmp_path / "llama").precision == "int8"
    with pytest.raises(ModelError, match="convert from fp32 or fp16"):
        library.add(str(tmp_path / "llama"), [], tmp_path, name="again", precision="int4")
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "served.json"}
