"""Whoever is turned away at the door is counted, by the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from services.gateway.keys import main
from tests.gateway.conftest import Stage, wait_for_cancel

PATH = "/v1/completions"
ASK = {"prompt": "x", "max_tokens": 4}


def rejections(reason: str) -> float:
    return REGISTRY.get_sample_value("admission_rejections_total", {"reason": reason}) or 0.0


async def test_a_drain_counts_whom_it_refuses_and_stays_alive(stage: Stage) -> None:
    before = rejections("draining")
    stage.verifier.script = wait_for_cancel
    async with stage.http.post(stage.url + PATH, json={**ASK, "stream": True}) as under_way:
        await under_way.content.readline()
        stage.gateway.drain()
        for _ in range(2):
            status, body, _ = await stage.post(PATH, ASK)
            assert (status, body["error"]["code"]) == (503, "unavailable")
        assert rejections("draining") == before + 2
        for path, status in (("/health/live", 200), ("/health/ready", 503)):
            async with stage.http.get(stage.url + path) as response:
                assert response.status == status


class TestKeys:
    @pytest.fixture
    def secrets(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
        made = {}
        file = str(tmp_path / "keys.json")
        for name, more in (
            ("slow", ["--requests-per-minute", "1"]),
            ("other", ["--rights", "write"]),
        ):
            assert main([file, "add", name, *more]) == 0
            made[name] = capsys.readouterr().out.strip()
        return made

    @pytest.fixture
    def gateway_settings(self, secrets: dict[str, str], tmp_path: Path) -> dict[str, object]:
        assert secrets
        return {"keys": tmp_path / "keys.json"}

    async def test_keys_are_counted_by_what_is_wrong_with_them(
        self, stage: Stage, secrets: dict[str, str]
    ) -> None:
        async def ask(secret: str) -> int:
            headers = {"Authorization": f"Bearer {secret}"}
            async with stage.http.post(stage.url + PATH, json=ASK, headers=headers) as response:
                return response.status

        wanted = (("unauthorized", "qk-none", 401), ("forbidden", secrets["other"], 403),
                  ("key", secrets["slow"], 429))  # fmt: skip
        assert await ask(secrets["slow"]) == 200
        for reason, secret, status in wanted:
            before = rejections(reason)
            assert await ask(secret) == status
            assert rejections(reason) == before + 1
