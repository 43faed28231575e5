"""Caches in numpy arrays keep what they hold, however long they get; those on a GPU, with host
memory in its place, give the same bits."""

import ctypes
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.drafter.config import DrafterConfig
from services.verifier.config import VerifierConfig
from shared.config import load
from shared.errors import ConfigError, ModelError
from shared.lm.caches import Caches, CudaMemory, DeviceCaches, HostCaches
from shared.lm.decoder import CPU, CUDA, GRAPH_FILE, Row, load_decoder, open_session
from shared.lm.in_place_decoder import STEP, InPlaceDecoder
from shared.lm.manifest import Manifest, load_manifest
from shared.lm.self_test import check_rows
from tests.toy import MAX_CONTEXT, VOCAB_SIZE, write_toy

NUM_SLOTS = 5


class HostRuntime:
    """CUDA's functions, over host memory."""

    def __init__(self) -> None:
        self.status = 0
        self.num_unfinished = 0

    def cudaMemcpy2D(self, to, to_pitch, source, pitch, width, rows, kind) -> int:
        assert kind == 4
        assert width.value <= min(to_pitch.value, pitch.value) or rows.value == 0
        for row in range(rows.value if width.value else 0):
            ctypes.memmove(
                to.value + row * to_pitch.value, source.value + row * pitch.value, width.value
            )
        self.num_unfinished += 1
        return self.status

    def cudaDeviceSynchronize(self) -> int:
        self.num_unfinished = 0
        return self.status


class HostMemory(CudaMemory):
    device = "cpu"


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> HostRuntime:
    runtime = HostRuntime()
    libraries: list[str] = []
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.1")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libraries.append(name) or runtime)
    yield runtime
    assert set(libraries) == {"libcudart.so.13"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "m")


def decoder(folder: Path, kind: str) -> InPlaceDecoder:
    manifest = load_manifest(folder)
    session = open_session(folder / GRAPH_FILE, 1)
    caches: Caches
    if kind == "device":
        caches = DeviceCaches(manifest, NUM_SLOTS, HostMemory())
    else:
        caches = HostCaches(manifest, NUM_SLOTS)
    return InPlaceDecoder(manifest, session, NUM_SLOTS, caches)


def tokens(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB_SIZE, count).tolist()


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return load_manifest(write_toy(tmp_path_factory.mktemp("toy") / "m"))


@given(steps=st.lists(st.tuples(st.integers(1, 300), st.integers(0, NUM_SLOTS)), max_size=12))
def test_what_slots_hold_survives_any_lengths(
    shape: Manifest, steps: list[tuple[int, int]]
) -> None:
    """Each slot is full at the start; a slot keeps what each length left room for."""
    caches = HostCaches(shape, NUM_SLOTS)
    caches.resize(100, 0)
    block_shape = (2 * shape.num_layers, shape.num_kv_heads, 100, shape.head_size)
    held = [np.random.default_rng(n).random(block_shape, np.float32) for n in range(NUM_SLOTS)]
    for slot, block in enumerate(held):
        caches.write(slot, 0, block)
    for length, num_slots in steps:
        caches.resize(length, num_slots)
        held = [block[:, :, :length] for block in held[:num_slots]]
    for slot, block in enumerate(held):
        assert np.array_equal(caches.read(slot, 0, block.shape[2]), block)


@given(lengths=st.lists(st.integers(1, 300), max_size=12))
def test_a_length_that_was_there_needs_no_fresh_memory(shape: Manifest, lengths: list[int]) -> None:
    caches = HostCaches(shape, NUM_SLOTS)
    for _ in range(2):  # at the second time the spare piece is as large as the others
        caches.resize(300, NUM_SLOTS)
    pieces = {id(piece) for piece in [*caches._memory, caches._spare]}
    assert len(pieces) == 2 * shape.num_layers + 1
    for length in lengths:
        caches.resize(length, NUM_SLOTS)
        assert {id(piece) for piece in [*caches._memory, caches._spare]} == pieces


def test_device_caches_give_the_bits_of_host_caches(folder: Path, runtime: HostRuntime) -> None:
    results = []
    for kind in ("host", "device"):
        model = decoder(folder, kind)
        texts = {slot: tokens(slot, 60 + slot) for slot in range(NUM_SLOTS)}
        logits = model.forward([Row(s, 0, text[:40], 3) for s, text in texts.items()])
        # Some slots only, so that a binding starts in the middle of the buffers.
        logits += model.forward([Row(s, 40, texts[s][40:50], 10) for s in (2, 4)])
        model.move(4, 1, 50)
        logits += model.forward([Row(1, 50, texts[4][50:], 5), Row(3, 40, texts[3][40:], 5)])
        long = tokens(9, MAX_CONTEXT)
        for start in range(0, MAX_CONTEXT, 128):
            logits += model.forward([Row(0, start, long[start : start + 128], 1)])
        logits += model.forward([Row(1, 60, tokens(7, 9), 9), Row(2, 50, texts[2][50:], 2)])
        logits += [model.read(4, 7, 39), model.read(1, 0, 1)]
        model.write(0, 7, logits[-2])
        logits += [model.read(0, 3, 41), *model.forward([Row(0, 39, tokens(8, 4), 2)])]
        results.append(logits)
        assert runtime.num_unfinished == 0
    assert MAX_CONTEXT > 4 * STEP  # the buffers grew on the way
    for host, device in zip(*results, strict=True):
        assert np.array_equal(host, device)


def test_the_self_test_finds_every_row_equal(folder: Path, runtime: HostRuntime) -> None:
    assert check_rows(decoder(folder, "device")).num_unequal == 0


def test_an_error_of_cuda_is_not_passed_over(folder: Path, runtime: HostRuntime) -> None:
    model = decoder(folder, "device")
    runtime.status = 700
    with pytest.raises(ModelError, match="CUDA error 700"):
        model.move(0, 1, 1)


def test_without_the_gpu_package_cuda_is_refused_in_a_sentence(folder: Path) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(ModelError, match=r"needs the package onnxruntime-gpu .* CPUExecution"):
        load_decoder(folder, max_slots=1, num_threads=1, device="cuda")


def test_a_silent_fall_back_to_the_cpu_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FellBack:
        def __init__(self, path: str, options: object, providers: list[object]) -> None:
            assert providers == [(CUDA, {"use_tf32": "0"}), CPU]

        def get_providers(self) -> list[str]:
            return [CPU]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", FellBack)
    with pytest.raises(ModelError, match="could not use a GPU"):
        load_decoder(folder, max_slots=1, num_threads=1, device="cuda")


def test_without_cudas_runtime_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "cuda_version", "999.0")
    with pytest.raises(ModelError, match=r"cannot be loaded: libcudart\.so\.999"):
        CudaMemory()


@pytest.mark.parametrize(
    ("config", "name"), [(VerifierConfig, "VERIFIER"), (DrafterConfig, "DRAFTER")]
)
def test_no_other_device_is_a_setting(config: type, name: str) -> None:
    assert load(config, {f"{name}_DEVICE": "cuda"}).device == "cuda"
    with pytest.raises(ConfigError, match=f"{name}_DEVICE='tpu'"):
        load(config, {f"{name}_DEVICE": "tpu"})
