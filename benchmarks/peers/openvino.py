"""python -m benchmarks.peers.openvino: OpenVINO GenAI, continuous batching."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from benchmarks.peers.worker import Job, Prompts, Setup, converted, main

NGRAM_SIZE = 3
CACHE_GB = 1


class OpenVINO:
    """Any number of prompts at a time in every mode."""

    def load(self, setup: Setup) -> str:
        self._setup = setup
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        # A prompt comes several times: it shall be computed each time.
        scheduler.enable_prefix_caching = False
        scheduler.dynamic_split_fuse = True
        options = _options(setup)
        speculation: dict[str, Any] = {}
        if setup.draft is not None:
            draft = _export(setup, setup.draft, setup.draft_precision)
            speculation["draft_model"] = openvino_genai.draft_model(draft, "CPU", **options)
        elif setup.mode == "ngram":
            speculation["prompt_lookup"] = True
        target = _export(setup, setup.target, setup.precision)
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            target, scheduler, "CPU", {**options, **speculation}
        )
        return f"openvino-genai {openvino_genai.__version__}, openvino {openvino.__version__}"

    def run(self, job: Job) -> Prompts:
        config = self._generation(job)
        running: dict[int, openvino_genai.GenerationHandle] = {}
        generated: dict[int, list[int]] = {}
        waiting = iter(enumerate(job.prompts))
        while len(generated) < len(job.prompts):
            for number, prompt in islice(waiting, job.concurrency - len(running)):
                tokens = openvino.Tensor(np.array([prompt], np.int64))
                running[number] = self._pipeline.add_request(number, tokens, config)
            self._pipeline.step()
            for number, handle in list(running.items()):
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                    generated[number] = list(handle.read_all()[0].generated_ids)
                    del running[number]
        return [generated[number] for number in range(len(job.prompts))]

    def close(self) -> None:
        pass

    def _generation(self, job: Job) -> openvino_genai.GenerationConfig:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = job.max_tokens
        config.ignore_eos = True
        if job.temperature:
            config.do_sample = True
            config.temperature = job.temperature
            config.rng_seed = job.seed
        if self._setup.mode != "plain":
            config.num_assistant_tokens = self._setup.num_draft_tokens
        if self._setup.mode == "ngram":
            config.max_ngram_size = NGRAM_SIZE
        return config


def _options(setup: Setup) -> dict[str, Any]:
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": setup.threads}
    if setup.precision == "fp32":
        # By default the cache is of 8-bit integers, and passes are of bf16 where the CPU has it.
        options |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    return options


def _export(setup: Setup, model: Path, precision: str) -> Path:
    def convert(out: Path) -> None:
        exporter = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino"]
        kind = ["--task", "text-generation-with-past", "--weight-format", precision]
        subprocess.run(
            [*exporter, "--model", str(model), *kind, str(out)], check=True, stdout=sys.stderr
        )

    return converted(setup, model, precision, "openvino", convert)


if __name__ == "__main__":
    main(OpenVINO())
