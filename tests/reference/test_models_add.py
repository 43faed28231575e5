"""Models as transformers saves them, added and served: not one token is another."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from models import library
from shared.errors import ModelError
from shared.lm.manifest import load_manifest
from tests.drafter.test_translated import GREEDY, WARM, generate, plain
from tests.vocabularies import byte_level

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]

END = "<|im_end|>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    # transformers and its dependencies warn about their own future.
    warnings.simplefilter("ignore")


def write_source(
    folder: Path, architecture: str, tokenizer: Tokenizer, context: int, template: str | None
) -> Path:
    """A random model with its tokenizer, as a training leaves them."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=tokenizer.get_vocab_size() + 4,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=None,
    )
    model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    model.save_pretrained(folder)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


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
