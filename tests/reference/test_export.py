"""Exported models against transformers, which nobody here wrote: logits, greedy texts, refusals."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.verifier.export import export, main
from services.verifier.precision import PRECISIONS
from shared.errors import ModelError
from shared.generation import Sampling
from shared.lm.decoder import Decoder, Row, load_decoder
from shared.lm.self_test import check_rows
from tests.system import decode_plainly

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.reference, pytest.mark.timeout(300)]

VOCAB_SIZE, CONTEXT, WINDOW = 160, 256, 24
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Windows are shorter than the texts, and caps low enough to bend the scores.
ARCHITECTURES: dict[str, dict[str, object]] = {
    "Llama": {"rope_theta": 10_000.0},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
    "Mistral": {"sliding_window": WINDOW},
    "Phi3": {"original_max_position_embeddings": CONTEXT, "sliding_window": None},
    "Gemma2": {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
    },
}


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    # transformers and its dependencies warn about their own future.
    warnings.simplefilter("ignore")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(request.param, tmp_path_factory.mktemp(request.param) / "hf")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source("Llama", tmp_path_factory.mktemp("Llama") / "hf")


def write_source(name: str, folder: Path) -> Path:
    """A tiny random model as transformers saves it, its weights large enough to matter."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config")(**SIZES, **ARCHITECTURES[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    model.save_pretrained(folder)
    shipped = Path(__file__).parent.parent.parent / "models" / "quorum-6m"
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(shipped / file, folder)
    return folder


def reference(source: Path):
    return transformers.AutoModelForCausalLM.from_pretrained(
        source, attn_implementation="eager"
    ).eval()


def texts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCAB_SIZE, length).tolist() for length in lengths]


@pytest.fixture(scope="module")
def exported(source: Path) -> Path:
    """The export in fp32, built once; other precisions are made from it."""
    export(str(source), source.parent / "exported")
    return source.parent / "exported"


def load(source: Path, out: Path, precision: str = "fp32") -> Decoder:
    export(str(source), out, precision)
    return load_decoder(out, max_slots=4, num_threads=2)


def test_logits_of_ragged_batches_are_those_of_transformers(source: Path, exported: Path) -> None:
    decoder, model = load_decoder(exported, max_slots=4, num_threads=2), reference(source)
    batch = texts(70, 40, 55)
    pieces: list[list[np.ndarray]] = [[] for _ in batch]
    for start, end in ((0, 20), (20, 21), (21, 38), (38, 70)):
        rows = [
            Row(slot, start, text[start:end], len(text[start:end]))
            for slot, text in enumerate(batch)
            if text[start:end] and not (slot == 1 and start == 38)
        ]
        for row, logits in zip(rows, decoder.forward(rows), strict=True):
            pieces[row.slot].append(logits)
    for text, got in zip(batch, pieces, strict=True):
        logits = np.concatenate(got)
        with torch.no_grad():
            expected = model(torch.tensor([text])).logits[0].numpy()[: len(logits)]
        assert expected.std() > 0.5
        assert np.abs(expected - logits).max() < 1e-4


def test_greedy_continuation_is_that_of_generate(source: Path, exported: Path) -> None:
    decoder, model = load_decoder(exported, max_slots=4, num_threads=2), reference(source)
    (prompt,) = texts(30)
    with torch.no_grad():
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=48, do_sample=False, eos_token_id=None
        )[0].tolist()[30:]
    assert decode_plainly(decoder, prompt, 48, Sampling(temperature=0.0)) == expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_are_equal_bit_for_bit(exported: Path, tmp_path: Path, precision: str) -> None:
    result = check_rows(load(exported, tmp_path / "out", precision))
    assert result.num_compared > 300
    assert result.num_unequal == 0


def test_an_exported_model_can_change_its_precision(llama: Path, tmp_path: Path) -> None:
    (prompt,) = texts(40)
    exact = load(llama, tmp_path / "fp32").forward([Row(0, 0, prompt, 40)])[0]
    # Root mean square of the error over that of the logits: the largest error differs by machine.
    tolerances = (("fp16", 0.002), ("half", 0.01), ("int8", 0.1), ("int4", 0.6))
    for precision, tolerance in tolerances:
        again = load(tmp_path / "fp32", tmp_path / precision, precision)
        assert again.manifest.precision == precision
        (logits,) = again.forward([Row(0, 0, prompt, 40)])
        assert 0 < np.square(exact - logits).mean() ** 0.5 / exact.std() < tolerance
    for computed in ("half", "int8"):
        with pytest.raises(ModelError, match="convert from fp32 or fp16"):
            export(str(tmp_path / computed), tmp_path / "again", "fp32")
    # fp16 storage and back gives the same graph again.
    back = load(tmp_path / "fp16", tmp_path / "back", "fp32").forward([Row(0, 0, prompt, 40)])[0]
    stored = load_decoder(tmp_path / "fp16", max_slots=1, num_threads=1)
    assert np.array_equal(back, stored.forward([Row(0, 0, prompt, 40)])[0])


def test_a_plain_decoder_with_past_runs_unchanged(llama: Path, tmp_path: Path) -> None:
    """A graph by concatenation, with the Llama's own weights, as found on model hubs."""
    plain = tmp_path / "plain"
    shutil.copytree(llama, plain)
    onnx.save(concat_graph(reference(llama)), plain / "model.onnx")
    decoder = load(plain, tmp_path / "out")
    assert decoder.manifest.graph == "concat"
    before = (plain / "model.onnx").read_bytes()
    assert (tmp_path / "out" / "model.onnx").read_bytes() == before
    model = reference(llama)
    long, short = texts(50, 20)
    decoder.forward([Row(0, 0, long[:30], 0), Row(1, 0, short, 1)])
    (logits,) = decoder.forward([Row(0, 25, long[25:], 25)])
    with torch.no_grad():
        expected = model(torch.tensor([long])).logits[0].numpy()[25:]
        text = model.generate(
            torch.tensor([short]), max_new_tokens=30, do_sample=False, eos_token_id=None
        )[0].tolist()[20:]
    assert np.abs(expected - logits).max() < 1e-4
    assert decode_plainly(decoder, short, 30, Sampling(temperature=0.0)) == text


def concat_graph(model) -> onnx.ModelProto:
    """The Llama as a plain decoder-with-past graph, written out op by op."""
    config = model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    size = config.hidden_size // heads
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(value: object, kind: type = np.float32) -> str:
        constants.append(numpy_helper.from_array(np.array(value, kind), f"c{len(constants)}"))
        return constants[-1].name

    def add(kind: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"n{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    def weight(name: str) -> str:
        return constant(model.state_dict()[name].numpy().T)

    def norm(x: str, name: str) -> str:
        mean = add("ReduceMean", add("Mul", x, x), constant([-1], np.int64))
        root = add("Sqrt", add("Add", mean, constant(config.rms_norm_eps)))
        return add("Mul", add("Div", x, root), constant(model.state_dict()[name].numpy()))

    def split(x: str, count: int) -> str:
        shaped = add("Reshape", x, constant([0, 0, count, size], np.int64))
        return add("Transpose", shaped, perm=[0, 2, 1, 3])

    inverse = 10_000.0 ** (-np.arange(0, size, 2) / size)
    places = add("Cast", "position_ids", to=TensorProto.FLOAT)
    angles = add("Mul", add("Unsqueeze", places, constant([1, 3], np.int64)), constant(inverse))
    angles = add("Concat", angles, angles, axis=-1)
    cos, sin = add("Cos", angles), add("Sin", angles)

    def rotate(x: str) -> str:
        half = constant([size // 2, size // 2], np.int64)
        nodes.append(helper.make_node("Split", [x, half], [f"{x}a", f"{x}b"], axis=-1))
        turned = add("Concat", add("Neg", f"{x}b"), f"{x}a", axis=-1)
        return add("Add", add("Mul", x, cos), add("Mul", turned, sin))

    total = add("Shape", "attention_mask", start=1, end=2)
    keys = add("Range", constant(0, np.int64), add("Squeeze", total), constant(1, np.int64))
    queries = add("Unsqueeze", "position_ids", constant([1, 3], np.int64))
    mask = add("Where", add("LessOrEqual", keys, queries), constant(0.0), constant(-1e9))
    x = add(
        "Gather", constant(model.state_dict()["model.embed_tokens.weight"].numpy()), "input_ids"
    )
    repeat = constant(np.repeat(np.arange(kv_heads), heads // kv_heads), np.int64)
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        n = norm(x, f"{layer}.input_layernorm.weight")
        q, k, v = (
            split(add("MatMul", n, weight(f"{layer}.self_attn.{p}_proj.weight")), count)
            for p, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        present = []
        for part, new in (("key", rotate(k)), ("value", v)):
            name = f"present.{i}.{part}"
            past = f"past_key_values.{i}.{part}"
            nodes.append(helper.make_node("Concat", [past, new], [name], axis=2))
            present.append(add("Gather", name, repeat, axis=1))
        scores = add("MatMul", rotate(q), add("Transpose", present[0], perm=[0, 1, 3, 2]))
        scores = add("Add", add("Mul", scores, constant(size**-0.5)), mask)
        mixed = add("MatMul", add("Softmax", scores, axis=-1), present[1])
        mixed = add("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = add("Reshape", mixed, constant([0, 0, heads * size], np.int64))
        x = add("Add", x, add("MatMul", mixed, weight(f"{layer}.self_attn.o_proj.weight")))
        n = norm(x, f"{layer}.post_attention_layernorm.weight")
        gate = add("MatMul", n, weight(f"{layer}.mlp.gate_proj.weight"))
        up = add("MatMul", n, weight(f"{layer}.mlp.up_proj.weight"))
        hidden = add("Mul", add("Mul", gate, add("Sigmoid", gate)), up)
        x = add("Add", x, add("MatMul", hidden, weight(f"{layer}.mlp.down_proj.weight")))
    head = weight("lm_head.weight")
    nodes.append(helper.make_node("MatMul", [norm(x, "model.norm.weight"), head], ["logits"]))
    info = helper.make_tensor_value_info

    def shape(length: str) -> list[object]:
        return ["b", kv_heads, length, size]

    parts = [f"{i}.{part}" for i in range(config.num_hidden_layers) for part in ("key", "value")]
    inputs = [
        *(info(name, TensorProto.INT64, ["b", "t"]) for name in ("input_ids", "position_ids")),
        info("attention_mask", TensorProto.INT64, ["b", "total"]),
        *(info(f"past_key_values.{p}", TensorProto.FLOAT, shape("past")) for p in parts),
    ]
    outputs = [
        info("logits", TensorProto.FLOAT, ["b", "t", VOCAB_SIZE]),
        *(info(f"present.{p}", TensorProto.FLOAT, shape("total")) for p in parts),
    ]
    graph = helper.make_graph(nodes, "plain", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("case", ["missing", "empty", "file", "taken", "quantized"])
def test_what_cannot_be_exported_is_refused_with_a_sentence(
    llama: Path, tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = llama, tmp_path / "out"
    if case == "missing":
        source = tmp_path / "nowhere"
    elif case == "empty":
        source = tmp_path / "empty"
        source.mkdir()
    elif case == "file":
        source = llama / "config.json"
    elif case == "taken":
        out.mkdir()
        (out / "precious").touch()
    else:
        export(str(llama), tmp_path / "int8", "int8")
        source = tmp_path / "int8"
    assert main([str(source), str(out), "--precision", "int4"]) == 1
    complaint = capfd.readouterr().err
    assert "export: " in complaint
    assert "Traceback" not in complaint
    assert not (out / "model.onnx").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_an_export_over_an_earlier_one_replaces_it(llama: Path, tmp_path: Path) -> None:
    load(llama, tmp_path / "out")
    assert load(llama, tmp_path / "out", "int8").manifest.precision == "int8"


def test_an_unknown_architecture_is_refused(llama: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    shutil.copytree(llama, odd)
    config = (odd / "config.json").read_text().replace("LlamaForCausalLM", "OddForCausalLM")
    (odd / "config.json").write_text(config.replace('"llama"', '"odd"'))
    with pytest.raises(ModelError, match="could not be built"):
        export(str(odd), tmp_path / "out")
