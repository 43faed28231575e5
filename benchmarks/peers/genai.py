"""python -m benchmarks.peers.genai: onnxruntime-genai."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai

from benchmarks.peers.worker import NEVER_SAID, Job, Prompts, Setup, converted, main

NGRAM_SIZE = 3
"""The documentation's advice, and of 2 to 4 the fastest here: the last two tokens are looked up."""


class GenAI:
    """Plain in batches; with a draft model or by n-grams one after another, as it allows."""

    def load(self, setup: Setup) -> str:
        self._mode = setup.mode
        self._speculation: dict[str, Any] = {}
        if setup.mode != "plain":
            self._speculation["max_draft_tokens"] = setup.num_draft_tokens
        if setup.mode == "ngram":
            self._speculation |= {"ngram_size": NGRAM_SIZE, "ngram_chained_lookup": True}
        self._model = onnxruntime_genai.Model(str(_composed(setup)))
        runtime = metadata.version("onnxruntime")
        return f"onnxruntime-genai {onnxruntime_genai.__version__}, onnxruntime {runtime}"

    def run(self, job: Job) -> Prompts:
        batches = job.batches() if self._mode == "plain" else ([p] for p in job.prompts)
        return [tokens for batch in batches for tokens in self._generate(job, batch)]

    def close(self) -> None:
        pass

    def _generate(self, job: Job, batch: Prompts) -> Prompts:
        prompts = np.array(batch, np.int32)
        length = prompts.shape[1] + job.max_tokens
        params = onnxruntime_genai.GeneratorParams(self._model)
        sampling: dict[str, Any] = {"do_sample": False}
        if job.temperature:
            sampling = {
                "do_sample": True,
                "temperature": job.temperature,
                "top_k": 0,
                "top_p": 1.0,
                "random_seed": job.seed,
            }
        params.set_search_options(batch_size=len(batch), max_length=length, **sampling)
        if self._speculation:
            params.set_speculative_options(**self._speculation)
        generator = onnxruntime_genai.Generator(self._model, params)
        generator.append_tokens(prompts if len(batch) > 1 else prompts[0])
        while not generator.is_done():
            generator.generate_next_token()
        return [
            [int(token) for token in generator.get_sequence(number)[prompts.shape[1] :]]
            for number in range(len(batch))
        ]


def _export(setup: Setup, model: Path, precision: str) -> Path:
    def convert(out: Path) -> None:
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        files = ["--input", str(model), "--output", str(out), "--cache_dir", str(out / "cache")]
        kind = ["--precision", precision, "--execution_provider", "cpu"]
        subprocess.run([*builder, *files, *kind], check=True, stdout=sys.stderr)

    return converted(setup, model, precision, "genai", convert)


def _composed(setup: Setup) -> Path:
    """A folder that names the exported models, with the setup in its configuration. Paths in it
    may not lead out of it, but links may."""
    target = _export(setup, setup.target, setup.precision)
    folder = setup.work / f"genai-{setup.mode}-{setup.precision}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "target").symlink_to(target.absolute())
    config = json.loads((target / "genai_config.json").read_text())
    config["model"]["decoder"] |= _decoder(config, "target", setup.threads)
    config["model"]["eos_token_id"] = NEVER_SAID
    if setup.draft is not None:
        draft = _export(setup, setup.draft, setup.draft_precision)
        (folder / "draft").symlink_to(draft.absolute())
        # A second pool of threads would spin against the target's.
        drafting = json.loads((draft / "genai_config.json").read_text())
        config["model"]["draft"] = _decoder(drafting, "draft", 1)
    (folder / "genai_config.json").write_text(json.dumps(config))
    return folder


def _decoder(config: dict[str, Any], folder: str, threads: int) -> dict[str, Any]:
    decoder: dict[str, Any] = config["model"]["decoder"]
    options = decoder["session_options"] | {"intra_op_num_threads": threads}
    return decoder | {
        "filename": f"{folder}/{decoder['filename']}",
        "session_options": options,
    }


if __name__ == "__main__":
    main(GenAI())
