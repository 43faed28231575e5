"""python -m benchmarks.peers.transformers: Hugging Face's generate, in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.peers.worker import NEVER_SAID, Job, Prompts, Setup, main


class Transformers:
    """Plain in batches; assisted by a model or by lookup one after another, as it allows."""

    def load(self, setup: Setup) -> str:
        if setup.precision != "fp32":
            raise NotImplementedError("transformers quantizes with packages for GPUs; fp32 only")
        torch.set_num_threads(setup.threads)
        self._mode = setup.mode
        self._target = _model(setup.target)
        self._options: dict[str, Any] = {}
        if setup.draft is not None:
            draft = _model(setup.draft)
            draft.generation_config.num_assistant_tokens = setup.num_draft_tokens
            draft.generation_config.num_assistant_tokens_schedule = "constant"
            draft.generation_config.assistant_confidence_threshold = 0.0
            self._options = {"assistant_model": draft}
        elif setup.mode == "ngram":
            self._options = {"prompt_lookup_num_tokens": setup.num_draft_tokens}
        return f"transformers {transformers.__version__}, torch {torch.__version__}"

    def run(self, job: Job) -> Prompts:
        torch.manual_seed(job.seed)
        batches = job.batches() if self._mode == "plain" else ([p] for p in job.prompts)
        return [tokens for batch in batches for tokens in self._generate(job, batch)]

    def close(self) -> None:
        pass

    def _generate(self, job: Job, batch: Prompts) -> Prompts:
        prompts = torch.tensor(batch)
        sampling: dict[str, Any] = {"do_sample": False}
        if job.temperature:
            sampling = {"do_sample": True, "temperature": job.temperature, "top_k": 0, "top_p": 1.0}
        with torch.inference_mode():
            tokens = self._target.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=job.max_tokens,
                **sampling,
                **self._options,
            )
        # What was looked up last may lead beyond the length asked for.
        first = prompts.shape[1]
        generated: Prompts = tokens[:, first : first + job.max_tokens].tolist()
        return generated


def _model(folder: Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = NEVER_SAID
    return model.eval()


if __name__ == "__main__":
    main(Transformers())
