"""Language models of random weights, as transformers saves them. Needs torch, when called."""

from __future__ import annotations

import warnings
from pathlib import Path

from tokenizers import Tokenizer

END = "<|im_end|>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write_source(
    folder: Path, architecture: str, tokenizer: Tokenizer, context: int, template: str | None
) -> Path:
    """A random model with its tokenizer, as a training leaves them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers and its dependencies warn of their future
        import torch
        import transformers

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
