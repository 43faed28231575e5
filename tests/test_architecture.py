"""The rules of ARCHITECTURE.md that a machine can check: who imports whom, how long files get."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for folder in ("services", "shared", "deploy") for path in ROOT.glob(f"{folder}/**/*.py")
)
SERVICES = {"gateway", "drafter", "voter", "verifier", "recommender"}
MAX_FILE_LINES = 330
MAX_FUNCTION_LINES = 60

# Third-party package -> the only places that may import it.
CONFINED = {
    "redis": ["shared/bus/"],
    "uvloop": ["shared/runner.py"],
    "aiohttp": ["services/gateway/", "services/cli/client.py", "deploy/autoscaler/"],
    "docker": ["deploy/autoscaler/fleet.py"],
    "requests": ["deploy/autoscaler/fleet.py"],
    "msgpack": ["shared/codec.py"],
    "msgspec": ["shared/codec.py", "shared/wire.py"],
    "onnxruntime": [
        "shared/lm/",
        "services/recommender/dense.py",
        "services/recommender/quantize.py",
        "services/verifier/precision.py",
    ],
    "torch": [],
    "transformers": ["services/verifier/export.py"],
    "onnx": ["services/verifier/", "services/recommender/"],
    "tokenizers": ["services/gateway/", "services/drafter/vocabulary.py"],
    "llvmlite": [
        "shared/jit.py",
        "shared/llvm.py",
        "services/drafter/attention_code.py",
        "services/drafter/compiled.py",
        "services/drafter/linear_code.py",
        "services/drafter/llama_code.py",
        "services/drafter/pick_code.py",
        "services/drafter/vector_code.py",
        "services/recommender/by_registers.py",
        "services/recommender/by_tiles.py",
        "services/recommender/kernel.py",
        "services/recommender/layer_block.py",
        "services/recommender/layers_code.py",
        "services/recommender/layers_kernel.py",
        "services/recommender/machine_code.py",
        "services/recommender/row_code.py",
    ],
    "jinja2": ["services/gateway/"],
    "typer": ["services/cli/app.py"],
    "rich": ["services/cli/"],
    "opentelemetry": ["shared/open_telemetry.py"],
    "llguidance": ["services/verifier/grammar.py"],
}
# The science: no I/O, no clock, no bus, no global random state.
PURE = [
    "services/voter/vote.py",
    "services/voter/weights.py",
    "services/voter/length_controller.py",
    "services/voter/estimator.py",
    "services/voter/useful_length.py",
    "services/verifier/acceptance.py",
    "services/verifier/draft_lengths.py",
    "services/verifier/drafting.py",
    "services/verifier/logprobs.py",
    "services/verifier/pace.py",
    "services/verifier/pass_cost.py",
    "services/drafter/attention_code.py",
    "services/drafter/linear_code.py",
    "services/drafter/llama_code.py",
    "services/drafter/model.py",
    "services/drafter/ngram.py",
    "services/drafter/pick_code.py",
    "services/drafter/suffix.py",
    "services/drafter/translation.py",
    "services/drafter/vector_code.py",
    "services/gateway/tally.py",
    "services/cli/findings.py",
    "services/cli/paint.py",
    "services/cli/report.py",
    "services/cli/snapshot.py",
    "services/cli/tables.py",
    "services/recommender/arrays.py",
    "services/recommender/by_registers.py",
    "services/recommender/by_tiles.py",
    "services/recommender/description.py",
    "services/recommender/layer_block.py",
    "services/recommender/layers_code.py",
    "services/recommender/layout.py",
    "services/recommender/machine_code.py",
    "services/recommender/program.py",
    "services/recommender/query.py",
    "services/recommender/row_code.py",
    "services/recommender/sorting.py",
    "services/recommender/wiring.py",
    "services/recommender/planner/physical.py",
    "services/recommender/planner/profiles.py",
    "services/recommender/planner/search.py",
    "shared/generation.py",
    "shared/llvm.py",
    "shared/lm/sampling.py",
    "shared/tokens.py",
    "deploy/autoscaler/rule.py",
]
PURE_MAY_IMPORT = {
    "__future__",
    "collections",
    "dataclasses",
    "bisect",
    "heapq",
    "math",
    "re",
    "typing",
    "numpy",
    "itertools",
    "contextlib",
    "functools",
    "llvmlite",  # as a builder of text
}
PURE_MAY_USE = {
    "shared.messages",
    "shared.tensor_messages",
    "shared.errors",
    "shared.wire",
    *(p[:-3].replace("/", ".") for p in PURE),
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_service_imports_shared_and_itself_only(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    own = parts[1] if parts[0] == "services" and len(parts) > 2 else None
    if parts == ("services", "__main__.py"):
        return
    for module in imports(path):
        if module.split(".")[0] == "services":
            assert own is not None, f"{parts[0]} imports {module}"
            assert module.split(".")[1] == own, f"{own} imports {module}"
        assert module.split(".")[0] not in ("models", "tests", "benchmarks")
        assert module.split(".")[0] != "deploy" or parts[0] == "deploy", module


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_third_party_packages_stay_in_their_rooms(path: Path) -> None:
    for module in imports(path):
        rooms = CONFINED.get(module.split(".")[0])
        assert rooms is None or any(name(path).startswith(room) for room in rooms), module


@pytest.mark.parametrize("path", PURE)
def test_pure_modules_stay_pure(path: str) -> None:
    for module in imports(ROOT / path):
        assert module.split(".")[0] in PURE_MAY_IMPORT or module in PURE_MAY_USE, module
    assert "np.random" not in (ROOT / path).read_text()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_can_be_read_in_one_go(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    source = path.read_text()
    assert not source.strip() or ast.get_docstring(ast.parse(source))


def test_opentelemetry_is_imported_only_where_traces_are_wanted() -> None:
    """Its module is no top-level import of any other."""
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "open_telemetry" not in ast.unparse(node), path


def test_no_code_path_asks_which_bus_it_has() -> None:
    for path in SOURCES:
        # Only the composition root says which bus it is.
        if not name(path).startswith("shared/bus/") and name(path) != "services/__main__.py":
            assert not re.search(r"MemoryBus|RedisBus|embedded", path.read_text()), path


def test_nothing_unsafe_is_used() -> None:
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        called = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"eval", "exec"}, path
        assert not {"pickle", "marshal", "shelve"} & set(imports(path)), path
