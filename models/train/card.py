"""The model card, filled in from what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.train import family
from models.train.corpus import HELD_OUT_PERCENT, MAX_PACKAGE_CHARS, PACKAGES
from models.train.distillation import BATCH, NUM_GENERATED
from models.train.tokenizer import VOCAB_SIZE

if TYPE_CHECKING:
    from models.train.finish import Acceptance


def render(
    member: family.Member,
    place: dict[str, float],
    perplexity: dict[str, float],
    acceptances: Sequence[Acceptance],
    is_continued: bool = False,
) -> str:
    """README.md of one model."""
    is_target = member is family.TARGET
    num_parameters = family.build(member).num_parameters()
    role = (
        "The target model of the shipped family: it decides every token."
        if is_target
        else f"A draft model of the shipped family: it proposes tokens to `{family.TARGET.name}`."
    )
    taught = (
        "next-token prediction"
        if is_target
        else f"KL divergence to `{family.TARGET.name}`, {NUM_GENERATED} of {BATCH} windows the target's own text, the others the corpus"
    )
    begun = "" if is_target or not is_continued else "; begun from the weights released before"
    return f"""# {member.name}

{role}

| | |
|---|---|
| Architecture | Llama: {member.num_layers} layers, width {member.width}, MLP {member.mlp_width}, {member.num_heads} heads, {member.num_kv_heads} KV heads, tied embeddings |
| Parameters | {num_parameters / 1e6:.2f} M |
| Tokenizer | byte-level BPE, {VOCAB_SIZE} tokens, shared by the family; ChatML-like template |
| Context | {family.MAX_CONTEXT} tokens (trained on windows of 512) |
| Weights | stored in fp16, computed in fp32 |
| Data | source files of the Python standard library and of {len(PACKAGES)} packages (no tests; at most {MAX_PACKAGE_CHARS / 1e6:g} MB of a package), and questions and answers made from their docstrings; {HELD_OUT_PERCENT} % of the files, by hash of their path, held out |
| Licence | the data is permissively licensed: PSF-2.0 (the standard library), {_licences()}; the weights are under this repository's licence |
| Training | {taught}; Muon and AdamW; {place["step"]:.0f} steps, {place["num_tokens"] / 1e6:.1f} M tokens, {place["elapsed_s"] / 60:.0f} minutes on two CPU cores that {"other work" if is_target else "the other drafter and other work"} shared{begun} |
| Training loss | {place["loss"]:.3f} |
| Held-out perplexity | code {perplexity["code"]:.1f}, chat {perplexity["chat"]:.1f} (per token of this tokenizer) |

{"" if is_target else _acceptance(acceptances)}## Limits

Small, and trained for {place["elapsed_s"] / 60:.0f} minutes: it writes what looks like Python and like docstrings, and
knows little. It is here so that Quorum runs, is tested and is measured with real models.

Train it again: `make train` (module `models.train`).
"""


def _licences() -> str:
    by_licence: dict[str, list[str]] = {}
    for name, licence in PACKAGES.items():
        by_licence.setdefault(licence, []).append(name)
    return ", ".join(f"{licence} ({', '.join(names)})" for licence, names in by_licence.items())


def _acceptance(acceptances: Sequence[Acceptance]) -> str:
    return f"""## Acceptance against the target

Share of the target's tokens that a drafter proposes, along the target's own continuation of
held-out prompts: greedy, and at temperature 1 with the target's own random numbers.

| temperature | {" | ".join(acceptances[0].alone)} | all of them | at least one |
|---|{"---|" * len(acceptances[0].alone)}---|---|
{chr(10).join(_row(acceptance) for acceptance in acceptances)}

"""


def _row(acceptance: Acceptance) -> str:
    shares = [*acceptance.alone.values(), acceptance.all_of_them, acceptance.any_of_them]
    return f"| {acceptance.temperature:g} | {' | '.join(f'{share:.2f}' for share in shares)} |"
