"""The members of the family: Llama architecture throughout, one tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import LlamaConfig, LlamaForCausalLM

from models.train.tokenizer import VOCAB_SIZE

MAX_CONTEXT = 1024
PAD_ID, END_OF_TEXT_ID, START_OF_TURN_ID, END_OF_TURN_ID = range(4)


@dataclass(frozen=True, slots=True)
class Member:
    """One model's size."""

    name: str
    num_layers: int
    width: int
    mlp_width: int
    num_heads: int
    num_kv_heads: int


TARGET = Member("quorum-6m", 6, 256, 704, 8, 4)
# Two drafters that err differently: a narrow block, and two wider ones that can look back for a
# repetition.
DRAFTERS = (
    Member("quorum-draft-small", 1, 128, 384, 4, 2),
    Member("quorum-draft-wide", 2, 192, 512, 6, 3),
)


def build(member: Member) -> LlamaForCausalLM:
    """A freshly initialised model."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=member.width,
            intermediate_size=member.mlp_width,
            num_hidden_layers=member.num_layers,
            num_attention_heads=member.num_heads,
            num_key_value_heads=member.num_kv_heads,
            max_position_embeddings=MAX_CONTEXT,
            rms_norm_eps=1e-5,
            rope_theta=10_000.0,
            tie_word_embeddings=True,
            initializer_range=0.02,
            bos_token_id=None,
            pad_token_id=PAD_ID,
            eos_token_id=[END_OF_TEXT_ID, END_OF_TURN_ID],
        )
    )
