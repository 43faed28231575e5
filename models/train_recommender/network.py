"""The model in torch: embedding tables, dot products of fields, an MLP; and its training.

The dense part is that of services/recommender/graph.py, with the first layer taken apart, so that
a candidate's share of it is computed once for all contexts of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.train_recommender.dataset import CONTEXT_FIELDS, Example, Names, bags
from services.recommender.graph import Layer

DIM = 32
HIDDEN = (128, 64)
NUM_CANDIDATE_FIELDS = 2
BATCH = 256
NUM_NEGATIVES = 256
DROPOUT = 0.2
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-5
MASKED_SHARE = 0.25
"""Of training examples whose package is taken away, so that the model serves without one."""


class Network(nn.Module):
    """Scores every (context, candidate) pair of a batch."""

    def __init__(self, names: Names, candidate_rows: Tensor) -> None:
        super().__init__()
        sizes = [len(names.of(field.vocabulary)) + 1 for field in CONTEXT_FIELDS]
        self.context = nn.ModuleList(
            nn.EmbeddingBag(size, DIM, mode=field.pooling)
            for size, field in zip(sizes, CONTEXT_FIELDS, strict=True)
        )
        self.module = nn.Embedding(len(names.modules) + 1, DIM)
        self.root = nn.Embedding(len(names.roots) + 1, DIM)
        for table in (*self.context, self.module, self.root):
            nn.init.normal_(table.weight, std=0.1)
        num_context = DIM * len(CONTEXT_FIELDS)
        num_candidate = DIM * NUM_CANDIDATE_FIELDS
        num_dots = len(CONTEXT_FIELDS) * NUM_CANDIDATE_FIELDS
        self.from_context = nn.Linear(num_context, HIDDEN[0])
        self.from_candidate = nn.Linear(num_candidate, HIDDEN[0], bias=False)
        self.from_dots = nn.Linear(num_dots, HIDDEN[0], bias=False)
        self.hidden = nn.Linear(*HIDDEN)
        self.score = nn.Linear(HIDDEN[1], 1)
        self.dropout = nn.Dropout(DROPOUT)
        self.register_buffer("candidate_rows", candidate_rows)

    def forward(self, inputs: Sequence[tuple[Tensor, Tensor]], candidates: Tensor) -> Tensor:
        """Scores [contexts, candidates]."""
        fields = [table(*bag) for table, bag in zip(self.context, inputs, strict=True)]
        context = self.dropout(torch.stack(fields, 1))
        rows = self.candidate_rows[candidates]
        candidate = torch.stack([self.module(rows[:, 0]), self.root(rows[:, 1])], 1)
        candidate = self.dropout(candidate)
        dots = torch.einsum("bcd,kid->bkic", context, candidate).flatten(2)
        hidden = (
            self.from_context(context.flatten(1))[:, None]
            + self.from_candidate(candidate.flatten(1))[None]
            + self.from_dots(dots)
        )
        return self.score(self.hidden(hidden.relu()).relu())[..., 0]

    def layers(self) -> list[Layer]:
        """The dense part in one piece."""
        first = [self.from_context.weight, self.from_candidate.weight, self.from_dots.weight]
        pairs = [
            (torch.cat(first, 1), self.from_context.bias),
            (self.hidden.weight, self.hidden.bias),
            (self.score.weight, self.score.bias),
        ]
        return [Layer(_array(weight.T), _array(bias)) for weight, bias in pairs]

    def tables(self) -> dict[str, np.ndarray]:
        """Each table's rows, by the manifest's name."""
        named = {
            field.table: table for field, table in zip(CONTEXT_FIELDS, self.context, strict=True)
        }
        named |= {"module": self.module, "module_root": self.root}
        return {name: _array(table.weight) for name, table in named.items()}


def train(
    network: Network,
    examples: Sequence[Example],
    counts: Sequence[int],
    num_epochs: int,
    seed: int,
    end_batch: Callable[[], object],
    end_epoch: Callable[[int, float], None],
) -> None:
    """Softmax over the target and sampled modules, corrected for how often each is sampled."""
    rng = np.random.default_rng(seed)
    popular = np.array(counts, np.float64) ** 0.75
    odds = 0.5 * popular / popular.sum() + 0.5 / len(popular)
    log_odds = torch.from_numpy(np.log(odds)).float()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    num_negatives = min(NUM_NEGATIVES, len(odds) // 2)
    num_steps = num_epochs * -(-len(examples) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, num_steps)
    for epoch in range(1, num_epochs + 1):
        network.train()
        order = rng.permutation(len(examples))
        losses = []
        for start in range(0, len(order), BATCH):
            batch = [examples[i] for i in order[start : start + BATCH]]
            negatives = rng.choice(len(odds), num_negatives, replace=False, p=odds)
            loss = _loss(network, batch, negatives, log_odds, rng)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            end_batch()
        end_epoch(epoch, float(np.mean(losses)))


def inputs_of(examples: Sequence[Example]) -> list[tuple[Tensor, Tensor]]:
    """Rows and offsets of each context field."""
    return [
        (torch.from_numpy(flat), torch.from_numpy(starts))
        for flat, starts in (bags(examples, field) for field in range(len(CONTEXT_FIELDS)))
    ]


def _loss(
    network: Network,
    batch: Sequence[Example],
    negatives: np.ndarray,
    log_odds: Tensor,
    rng: np.random.Generator,
) -> Tensor:
    targets = np.array([example.target for example in batch])
    shown = [_mask(example, rng) for example in batch]
    candidates = torch.from_numpy(np.unique(np.concatenate([targets, negatives])))
    scores = network(inputs_of(shown), candidates)
    place = torch.searchsorted(candidates, torch.from_numpy(targets))
    corrected = scores - log_odds[candidates]
    blocked = torch.zeros_like(scores, dtype=torch.bool)
    for number, example in enumerate(batch):
        imported = torch.tensor(example.imported, dtype=torch.int64)
        blocked[number] = torch.isin(candidates, imported)
    return functional.cross_entropy(corrected.masked_fill(blocked, -torch.inf), place)


def _mask(example: Example, rng: np.random.Generator) -> Example:
    """The example, in some cases as if its package were new (default row) or not said."""
    draw = rng.random()
    if draw > MASKED_SHARE:
        return example
    package = [CONTEXT_FIELDS[0].default_row] if draw < MASKED_SHARE / 2 else []
    return Example([package, *example.rows[1:]], example.imported, example.target, "")


def _array(value: Tensor) -> np.ndarray:
    return np.ascontiguousarray(value.detach().numpy(), np.float32)
