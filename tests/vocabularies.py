"""Small tokenizers of several kinds, trained here: what a target and a draft model may bring."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from shared.lm.manifest import FORMAT, Manifest

TEXTS = (
    "def read_lines(path):\n    with open(path) as file:\n        return file.readlines()\n",
    "The quick brown fox jumps over the lazy dog, and over the lazier one once more.\n",
    "for number in range(100):\n    print(number, number * number)\n\n\n",
    "Fünf größere Bären, naïve café, Привет мир, 日本語のテキスト, 🎉🎈 done.\n",
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(size: int, markers: Sequence[str], *, trim_offsets: bool = False) -> Tokenizer:
    """As GPT-2's and Qwen's are: every byte is a token, words begin with their space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=list(markers),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    return tokenizer


def sentence_piece(size: int, markers: Sequence[str]) -> Tokenizer:
    """As Llama 2's is: spaces are letters, one comes before each text, characters without a token
    are bytes, and a text begins with a marker."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", *markers]
    tokenizer.train_from_iterator(
        TEXTS * 4,
        BpeTrainer(vocab_size=size, special_tokens=[*special, *BYTES], show_progress=False),
    )
    # The trainer makes markers of bytes, which they are not.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] in special]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", special.index("<s>"))]
    )
    return tokenizer


@cache
def kinds() -> dict[str, Tokenizer]:
    """By name. All share the marker `<|im_end|>`, and each has one of its own."""
    return {
        "bytes": byte_level(258, ["<|bytes|>", "<|im_end|>"]),
        "small": byte_level(300, ["<|im_end|>", "<|small|>"]),
        "large": byte_level(700, ["<|large|>", "<|im_end|>"], trim_offsets=True),
        "pieces": sentence_piece(600, ["<|im_end|>", "<|pieces|>"]),
    }


def write_vocabulary(folder: Path, tokenizer: Tokenizer, end_tokens: Sequence[int]) -> Path:
    """A folder that holds as much of an exported model as a translation reads."""
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    Manifest(
        format=FORMAT,
        name=folder.name,
        architecture="Toy",
        precision="fp32",
        graph="in-place",
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_size=1,
        vocab_size=tokenizer.get_vocab_size(),
        max_context=512,
        eos_token_ids=list(end_tokens),
        files={},
    ).save(folder)
    return folder
