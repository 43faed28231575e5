"""The training loop: Muon beside torch's own, and a stopped run beside one that was not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from models.train import distillation, family, finish, training
from models.train.data import KINDS, Stream
from models.train.family import Member
from models.train.muon import Muon, orthogonal
from models.train.training import Budget, Run, train

pytestmark = pytest.mark.reference

TINY = Member("tiny", 1, 32, 48, 2, 1)


@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (32, 32)])
def test_orthogonal_keeps_the_singular_vectors(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonal(matrix) @ v.T
    assert torch.allclose(turned, torch.diag(torch.diagonal(turned)), atol=1e-4)
    assert 0.65 < torch.diagonal(turned).min() <= torch.diagonal(turned).max() < 1.25


def test_muon_steps_as_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((48, 32), (32, 48))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    muons = [
        Muon(ours, lr=1e-2, weight_decay=0.05),
        torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.05),
    ]
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            other.grad = mine.grad.clone()
        for muon in muons:
            muon.step()
    for mine, other in zip(ours, theirs, strict=True):
        # Four steps of 1e-2; theirs are rounded to the 8 bits of bf16.
        assert (mine - other).abs().max() < 4 * 1e-2 * 2**-6


def _run(folder: Path) -> Run:
    torch.manual_seed(1)
    return Run(family.build(TINY), folder, Budget(3600))


def _loss(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    loss = model(input_ids=ids, labels=ids).loss
    assert isinstance(loss, torch.Tensor)
    return loss


def _advance(run: Run, num_steps: int) -> None:
    for _ in range(num_steps):
        rng = np.random.default_rng(run.step)
        # The rate falls with the clock, which no two runs share.
        run.budget.spent_s = 0.0
        run.advance(rng.integers(4, 4096, (6, 16)), _loss)


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    unbroken = _run(tmp_path / "unbroken")
    _advance(unbroken, 5)
    _advance(stopped := _run(tmp_path / "stopped"), 3)
    stopped.save()
    _advance(resumed := _run(tmp_path / "stopped"), 2)
    assert (resumed.step, resumed.num_tokens) == (5, 5 * 6 * 16)
    assert resumed.loss == pytest.approx(unbroken.loss, abs=1e-9)
    pairs = zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_micro_batches_add_up_to_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _advance(split := _run(tmp_path / "split"), 2)
    monkeypatch.setattr(training, "MICRO_BATCH", 6)
    _advance(whole := _run(tmp_path / "whole"), 2)
    assert split.loss == pytest.approx(whole.loss, abs=1e-5)
    for one, other in zip(split.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-4)


def test_a_tiny_model_learns_a_repeated_text(tmp_path: Path) -> None:
    run = _run(tmp_path / "learns")
    text = np.tile(np.arange(4, 12), (4, 4))
    first = float(_loss(run.model, torch.from_numpy(text)).detach())
    for _ in range(100):
        run.budget.spent_s = 0.0
        run.advance(text, _loss)
    assert float(_loss(run.model, torch.from_numpy(text)).detach()) < first / 4


def test_drafters_learn_the_target_from_what_it_says_once(tmp_path: Path) -> None:
    torch.manual_seed(2)
    target = family.build(TINY).eval()
    target.model.embed_tokens.weight.data *= 20  # so that it says something
    budget = Budget(3600)
    runs = [Run(family.build(TINY), tmp_path / name, budget) for name in ("one", "other")]
    loss_of = distillation._divergence_from(target)
    rng = np.random.default_rng(0)
    text = rng.integers(4, 40, (8, 16))
    first = float(loss_of(runs[0].model, torch.from_numpy(text)).detach())
    asked: list[int] = []
    target.register_forward_hook(lambda *_: asked.append(1))
    steps: list[int] = []

    def next_batch(step: int) -> np.ndarray:
        steps.append(step)
        budget.spent_s = 0.0 if step < 99 else budget.seconds
        return rng.permuted(text, axis=1)

    train(runs, next_batch, loss_of)
    assert steps == list(range(100))
    assert len(asked) == 100 * 8 // training.MICRO_BATCH
    assert [run.step for run in runs] == [100, 100]
    assert all(run.loss < 0.7 * first for run in runs)
    assert all((tmp_path / name / "place.json").exists() for name in ("one", "other"))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_whoever_is_the_target_agrees_with_all_of_its_text(
    temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "NUM_TEXTS", 4)
    monkeypatch.setattr(finish, "TEXT_LENGTH", 8)
    torch.manual_seed(3)
    target, other = family.build(TINY).eval(), family.build(TINY).eval()
    # Untrained, both would say the last token again, and noise would outweigh what they say.
    target.model.norm.weight.data *= 20
    other.model.norm.weight.data *= -20
    small, wide = (member.name for member in family.DRAFTERS)
    tokens = np.random.default_rng(3).integers(4, 4096, 500).astype(np.uint16)
    found = finish._acceptance(
        {family.TARGET.name: target, small: target, wide: other},
        dict.fromkeys(KINDS, Stream(tokens)),
        temperature,
    )
    assert found.alone[small] == found.any_of_them == 1.0
    assert found.alone[wide] == found.all_of_them < 0.5
