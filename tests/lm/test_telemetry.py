"""onnxruntime reports nothing: it would keep an identifier of the machine in the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LOADS = {
    "decoder": "from shared.lm.decoder import load_decoder\n"
    "load_decoder(Path('models/quorum-draft-small'), max_slots=1, num_threads=1)",
    "recommender": "from services.recommender.dense import Dense\n"
    "import onnxruntime; onnxruntime.InferenceSession('models/import-next/dense.onnx')",
}


def home_after(script: str, home: Path, **environment: str) -> list[str]:
    """Files in an empty home once the script has run, as on a machine that is no CI's."""
    kept = {name: value for name, value in os.environ.items() if name not in (
        "CI", "ORT_DISABLE_TELEMETRY", "PYTEST_CURRENT_TEST", "XDG_CACHE_HOME")}  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path\n{script}"],
        cwd=ROOT, env={**kept, "HOME": str(home), **environment}, check=True,
    )  # fmt: skip
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("load", LOADS)
def test_nothing_is_kept_for_a_report(load: str, tmp_path: Path) -> None:
    assert home_after(LOADS[load], tmp_path) == []


def test_a_user_may_want_it_otherwise(tmp_path: Path) -> None:
    script = "import os, shared; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert home_after(f"{script}\nassert os.environ['ORT_DISABLE_TELEMETRY'] == '0'", tmp_path,
                      ORT_DISABLE_TELEMETRY="0") == []  # fmt: skip
