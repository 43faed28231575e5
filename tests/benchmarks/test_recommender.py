"""The recommender's benchmark: systems find the same, the limit touches what the gather reads, and
figures say what samples say."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import recommender_models as models
from benchmarks.peers_recommender import numpy as by_numpy
from benchmarks.peers_recommender import onnxruntime as by_onnxruntime
from benchmarks.peers_recommender import quorum
from benchmarks.peers_recommender.tables import load_tables
from benchmarks.peers_recommender.touching import ByTable, by_item
from benchmarks.peers_recommender.worker import Engine, serve
from benchmarks.recommender_models import Prepared
from benchmarks.recommender_report import Found, Latency, Rest, Sample, figures, read, tables, write
from benchmarks.recommender_rest import HEADER, request
from services.gateway.recommendation.inference import read_inference
from services.recommender.generate import generate
from services.recommender.kernel import Kernel
from services.recommender.planning import Limits
from services.recommender.profile_file import read_profile
from services.recommender.program import Access, Column, Program, Read
from services.recommender.restructure import read_source, restructure
from tests.recommender import twin

BATCHES = (1, 64, 600)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The small model with a thousandth of its rows, and a product of two tables."""
    folder = tmp_path_factory.mktemp("recommender")
    source, served = folder / "tables", folder / "microrec-small"
    generate("small", source, 1e-3, 0, lambda *_: None)
    limits = Limits("fp32", max_growth=1.0, multiply=(("table16", "table45"),))
    layout, _ = restructure(
        read_source(source), served, read_profile("epyc"), limits, lambda *_: None
    )
    assert len(layout.stored) < len(layout.tables)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.NUM_IDS, "small", 2000)
        ids = models.write_ids(folder, "small", layout)
    made = Prepared("small", {"fp32": served}, layout, ids, source)
    models.write_for_peers(made)
    return made


def answers(engine: Engine, prepared: Prepared, *jobs: dict[str, object]) -> list[dict]:
    setup = {
        "tables": str(prepared.tables),
        "weights": str(prepared.weights),
        "graphs": str(prepared.graphs),
        "served": {name: str(folder) for name, folder in prepared.served.items()},
        "ids": str(prepared.ids),
        "threads": 2,
        "max_batch": max(BATCHES),
        "work": str(prepared.ids.parent),
    }
    given = "".join(json.dumps(line) + "\n" for line in (setup, *jobs))
    written = io.StringIO()
    serve(engine, io.StringIO(given), written)
    return [json.loads(line) for line in written.getvalue().splitlines()]


@pytest.mark.parametrize(
    "engine", [by_numpy.Numpy(), by_onnxruntime.OnnxRuntime(), quorum.Quorum()], ids=type
)
def test_all_systems_find_the_same_rows_and_scores(engine: Engine, prepared: Prepared) -> None:
    (ready,) = answers(engine, prepared)
    folder, ids = prepared.ids.parent, prepared.read_ids()
    jobs = [
        {"system": system, "what": what, "batch": batch, "first": 0, "calls": 1, "warm_up": 1,
         "save": f"{folder}/{system}-{what}-{batch}.npy"}
        for system, does in ready["systems"].items()
        for what in does
        for batch in BATCHES
    ]  # fmt: skip
    _, *done = answers(engine, prepared, *jobs)
    for job, answer in zip(jobs, done, strict=True):
        assert len(answer["ns"]) == 1, answer
        found, batch = np.load(str(job["save"])), job["batch"]
        if job["what"] == "score":
            assert np.abs(found - prepared.scores(ids[:batch])).max() < 1e-4
        elif not str(job["system"]).startswith("limit:"):
            assert np.array_equal(found, prepared.features(ids[:batch]))
    assert {job["what"] for job in jobs} == {"lookup", "score"}


def test_each_call_can_be_timed_and_an_unknown_system_is_an_error(prepared: Prepared) -> None:
    job = {"system": "numpy:take", "what": "lookup", "batch": 3, "first": 1990, "calls": 20,
           "warm_up": 2}  # fmt: skip
    _, each, wrong, again = answers(
        by_numpy.Numpy(), prepared, {**job, "is_each": True}, {**job, "system": "none"}, job
    )
    assert len(each["ns"]) == 20
    assert "none" in wrong["error"]
    assert len(again["ns"]) == 1


def test_the_arena_holds_what_the_tables_hold(prepared: Prepared) -> None:
    ids = np.array(prepared.read_ids()[:50])
    served = Prepared("small", prepared.served, prepared.layout, prepared.ids, None)
    assert np.array_equal(served.features(ids), prepared.features(ids))


def test_tables_of_one_width_lie_one_behind_the_other(prepared: Prepared) -> None:
    assert prepared.tables is not None
    loaded = load_tables(prepared.tables)
    assert loaded.width == 352
    for group in loaded.fused:
        for first, array in zip(group.firsts, loaded.arrays[group.tables], strict=True):
            assert np.shares_memory(group.rows, array)
            assert np.array_equal(group.rows[first : first + len(array)], array)
    assert sum(len(group.firsts) for group in loaded.fused) == len(loaded.arrays)


def test_the_limit_touches_each_line_that_the_gather_reads() -> None:
    """Rows of a quarter of a line, of two lines, across lines, and of a product in fp16."""
    columns = (Column(9), Column(5), Column(7), Column(3), Column(4))
    accesses = (
        Access(0, 16, "fp32", (Read(0, 1, 0, 4, 0, 0),)),
        Access(192, 128, "fp32", (Read(1, 1, 0, 32, 0, 4),)),
        Access(832, 96, "fp32", (Read(2, 1, 0, 24, 0, 36),)),
        Access(1536, 64, "fp16", (Read(3, 4, 0, 8, 0, 60), Read(4, 1, 16, 24, 0, 68))),
    )
    program = Program(columns, accesses, (92,))
    touching = by_item(program)
    for before, after in zip(accesses, touching.accesses, strict=True):
        assert (before.base, before.stride, before.radices) == (
            after.base,
            after.stride,
            after.radices,
        )
        for row in range(7):
            start = before.base + row * before.stride
            size = sum(r.dim for r in before.reads) * (4 if before.element == "fp32" else 2)
            lines = {(start + byte) // 64 for byte in range(size)}
            assert {(start + read.offset) // 64 for read in after.reads} == lines
    rng = np.random.default_rng(0)
    arena = rng.integers(0, 100, 2304, dtype=np.uint8)
    ids = np.stack([rng.integers(0, column.num_rows, 40) for column in columns], axis=1)
    found, missing = twin.run_kernel(Kernel(touching, arena, 4), ids)
    assert found[0].tobytes() == twin.gather(touching, arena, ids)[0][0].tobytes()
    assert not missing.any()


def test_table_by_table_the_same_words_are_read() -> None:
    columns = (Column(9), Column(5))
    reads = (Read(0, 1, 0, 4, 0, 0),), (Read(1, 1, 0, 4, 0, 4),)
    accesses = tuple(Access(192 * k, 16, "fp32", own) for k, own in enumerate(reads))
    arena = np.random.default_rng(0).standard_normal(68, np.float32).view(np.uint8)
    kernel = ByTable(Program(columns, accesses, (8,)), arena)
    assert kernel.columns == [[0], [1]]
    own = [np.array([3, 8, 1]), np.array([4, 0, 2])]
    addresses = np.array([ids.ctypes.data for ids in own])
    out, missing = np.zeros((3, 1), np.float32), np.zeros(1, np.int64)
    places = np.array([out.ctypes.data])
    kernel.gather(addresses.ctypes.data, 3, places.ctypes.data, missing.ctypes.data)
    assert out[:, 0].tolist() == arena.view(np.float32)[48 + 4 * own[1]].tolist()


def test_a_request_is_one_user_and_many_candidates_in_the_protocols_form() -> None:
    ids = np.arange(12, dtype=np.int64).reshape(4, 3)
    made = request("shop", ["age", "city", "item"], ids)
    head, _, body = made.wire.partition(b"\r\n\r\n")
    lines = dict(line.split(": ") for line in head.decode().split("\r\n")[1:])
    assert head.startswith(b"POST /v2/models/shop/infer HTTP/1.1\r\n")
    assert int(lines["Content-Length"]) == len(body)
    wanted, inputs = read_inference(body, lines[HEADER], 1 << 20)
    assert wanted.is_binary
    found = {name: np.frombuffer(t.data, "<i8").tolist() for name, t in inputs.items()}
    assert found == {"age": [0], "city": [1], "item": [2, 5, 8, 11]}
    assert made.ids.tolist() == [[0, 1, 2], [0, 1, 5], [0, 1, 8], [0, 1, 11]]


def results() -> dict[str, Found]:
    small, rest, large = Found(), Found(), Found()
    for system, lookup in (("quorum", 100), ("torch:fused", 400), ("tensorflow:xla", 900),
                           ("limit:by-item", 90), ("limit:by-table", 80)):  # fmt: skip
        for batch in (1, 64, 2048):
            small.samples += [Sample(system, "lookup", batch, lookup * f) for f in (0.5, 1, 9)]
    for system, score in (("quorum:fp32", 10_000), ("quorum:int8", 4000), ("numpy:take", 12_000),
                          ("tensorflow:graph", 20_000)):  # fmt: skip
        small.samples += [Sample(system, "score", b, score * 2048 / b) for b in (256, 2048)]
    small.latencies = [Latency("quorum:int8", 5000, p50, 2 * p50) for p50 in (50.0, 60.0, 90.0)]
    for model, factor in (("m-int8", 1), ("m", 10)):
        for loop, speed in (("closed 4", 1e5), ("closed 8", 2e5)):
            rest.rest += [Rest(model, loop, speed * factor), Rest(model, loop, 1)] * 2
            rest.rest.append(Rest(model, loop, speed * factor))
        rest.rest.append(Rest(model, "open", 1e5, 3.0, 7.0 * factor))
        rest.rest.append(Rest(model, "open, half of the goal", 5e4, 2.0, 6.0 * factor))
    large.samples = [Sample("quorum:int8", "score", 2048, 8000.0)]
    return {"small": small, "rest": rest, "large": large}


def test_figures_compare_medians_with_the_best_of_the_others() -> None:
    assert figures(results()) == {
        "lookup_speedup_b2048": 4.0,
        "lookup_speedup_b64": 4.0,
        "lookup_speedup_b1": 4.0,
        "lookup_fraction_of_limit": 0.8,
        "e2e_items_per_s": 250_000.0,
        "e2e_speedup_int8_tf": 5.0,
        "e2e_speedup_int8": 3.0,
        "e2e_speedup_fp32": 1.2,
        "single_item_us_p50": 60.0,
        "single_item_us_p99": 120.0,
        "rest_items_per_s": 200_000.0,
        "rest_p99_ms": 6.0,
        "rest_p99_ms_at_half_of_most": 7.0,
        "large_items_per_s": 125_000.0,
    }
    assert figures({}) == {}


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "recommender.json"
    assert read(file) == {}
    write(results(), file)
    again = read(file)
    assert again == results()
    assert json.loads(file.read_text())["e2e_speedup_int8"] == 3.0
    write({}, file)
    assert read(file) == {}


def test_tables_show_medians_with_the_spread() -> None:
    shown = tables(results()["small"])
    assert "| torch:fused | 400 (200 to 3,600) | 400 (200 to 3,600) |" in shown
    assert "| quorum:int8 | 31,250 (31,250 to 31,250) | 250,000 (250,000 to 250,000) |" in shown
    assert "quorum:int8, one item: p50 60 (50 to 90) us, p99 120 (100 to 180) us" in shown
    assert "REST, m-int8, open: 100,000 (100,000 to 100,000) items/s, p99 7 (7 to 7) ms" in tables(
        results()["rest"]
    )
