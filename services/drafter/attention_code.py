"""Attention over a cache in LLVM's language: pure.

Of a slot and a layer the cache holds, in 16 bits, keys, by vectors of places, of each vector one
number of all its keys after the other, so that products for a vector of places need no sum across
it; and behind them values, [KV heads, places, head size].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

from llvmlite import ir

from services.drafter.vector_code import Vectors, exponential
from shared.llvm import FLOATS, HALF, HALVES, I32, I64, LONGS

HEADS_AT_ONCE = 4
"""Queries that share keys and values while those are in registers."""
_CHAINS = 2
"""Sums of a product that go side by side, since each waits for itself."""
_NEVER = -1e30


@dataclass(frozen=True, slots=True)
class Attention:
    """For tokens [count] of `slots` and at `places`, whose rows qkv hold all heads' queries, then
    keys, then values."""

    v: Vectors
    num_heads: int
    num_kv_heads: int
    head_size: int
    max_context: int
    """A multiple of a vector's lanes."""
    scale: float
    slot_numbers: int
    """From a slot's cache to the next one's."""

    @property
    def row(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_size

    @property
    def head_numbers(self) -> int:
        """Keys, or values, of a KV head."""
        return self.max_context * self.head_size

    def turn(self) -> ir.Function:
        """`turn(cos, sin, cache, qkv, slots, places, count)`: queries and keys turned by their
        places, in place; keys and values into the cache."""
        v = self.v
        kinds = [FLOATS, FLOATS, HALVES, FLOATS, LONGS, LONGS, I64]
        function = v.begin("turn", kinds, "noinline")
        cos, sin, cache, qkv, slots, places, count = function.args
        build, half = v.build, self.head_size // 2
        with v.loop(I64(0), count) as number:
            place = build.load(build.gep(places, [number]))
            own = self._cache(cache, slots, number)
            angles = [v.at(each, (place, half)) for each in (cos, sin)]
            with v.loop(I64(0), I64(self.num_heads + self.num_kv_heads)) as head:
                self._rotate(v.at(qkv, (number, self.row), (head, self.head_size)), *angles)
            for head in range(self.num_kv_heads):
                key = v.at(qkv, (number, self.row), (self.num_heads + head, self.head_size))
                value = v.at(key, (self.num_kv_heads, self.head_size))
                self._keep(own, head, place, key, value)
        build.ret_void()
        return function

    def attend(self) -> ir.Function:
        """`attend(cache, qkv, slots, places, count, target, scores)`: what each query sees in its
        slot up to its place, into the target [count, heads x head size]."""
        v = self.v
        kinds = [HALVES, FLOATS, LONGS, LONGS, I64, FLOATS, FLOATS]
        function = v.begin("attend", kinds, "noinline")
        cache, qkv, slots, places, count, target, scores = function.args
        build, group = v.build, self.num_heads // self.num_kv_heads
        with v.loop(I64(0), count) as number, v.loop(I64(0), I64(self.num_kv_heads)) as kv_head:
            place = build.load(build.gep(places, [number]))
            keys = v.at(self._cache(cache, slots, number), (kv_head, self.head_numbers))
            values = v.at(keys, (self.num_kv_heads, self.head_numbers))
            for first in range(0, group, HEADS_AT_ONCE):
                heads = range(first, min(group, first + HEADS_AT_ONCE))
                starts = [build.add(build.mul(kv_head, I64(group)), I64(head)) for head in heads]
                queries = [v.at(qkv, (number, self.row), (h, self.head_size)) for h in starts]
                own = [v.at(scores, (head, self.max_context)) for head in range(len(heads))]
                totals = self._weigh(keys, place, queries, own)
                size = self.num_heads * self.head_size
                targets = [v.at(target, (number, size), (h, self.head_size)) for h in starts]
                self._mix(values, place, own, totals, targets)
        build.ret_void()
        return function

    def _cache(self, cache: ir.Value, slots: ir.Value, number: ir.Value) -> ir.Value:
        slot = self.v.build.load(self.v.build.gep(slots, [number]))
        return self.v.at(cache, (slot, self.slot_numbers))

    def _rotate(self, head: ir.Value, cos: ir.Value, sin: ir.Value) -> None:
        """Of two halves of a head, each number with its counterpart."""
        v, build, half = self.v, self.v.build, self.head_size // 2
        for start in v.vectors(half):
            first, second = (v.at(head, (start + part, 1)) for part in (0, half))
            x, y, c, s = map(v.read, (first, second, v.at(cos, (start, 1)), v.at(sin, (start, 1))))
            v.write(build.fsub(build.fmul(x, c), build.fmul(y, s)), first)
            v.write(build.fadd(build.fmul(y, c), build.fmul(x, s)), second)

    def _keep(
        self, own: ir.Value, head: int, place: ir.Value, key: ir.Value, value: ir.Value
    ) -> None:
        v, build = self.v, self.v.build
        vector, lane = build.udiv(place, I64(v.lanes)), build.urem(place, I64(v.lanes))
        keys = v.at(own, (head, self.head_numbers), (vector, self.head_size * v.lanes), (lane, 1))
        with v.loop(I64(0), I64(self.head_size)) as number:
            own_key = build.fptrunc(build.load(build.gep(key, [number])), HALF)
            build.store(own_key, v.at(keys, (number, v.lanes)))
        values = v.at(own, (self.num_kv_heads + head, self.head_numbers), (place, self.head_size))
        for start in v.vectors(self.head_size):
            narrow = build.fptrunc(v.read(v.at(value, (start, 1))), ir.VectorType(HALF, v.lanes))
            v.store(narrow, v.at(values, (start, 1)), 2)

    def _weigh(
        self,
        keys: ir.Value,
        place: ir.Value,
        queries: Sequence[ir.Value],
        scores: Sequence[ir.Value],
    ) -> list[ir.Value]:
        """Weights of all places, by the largest product, into the scores; their sums."""
        v, build = self.v, self.v.build
        stop = build.add(build.udiv(place, I64(v.lanes)), I64(1))
        best = [v.variable(v.constant(_NEVER)) for _ in queries]
        lanes = ir.Constant(ir.VectorType(I32, v.lanes), list(range(v.lanes)))
        with v.loop(I64(0), stop) as vector:
            first = build.trunc(build.mul(vector, I64(v.lanes)), I32)
            number = build.add(v.splat(first, v.lanes), lanes)
            is_seen = build.icmp_signed("<=", number, v.splat(build.trunc(place, I32), v.lanes))
            products = self._products(v.at(keys, (vector, self.head_size * v.lanes)), queries)
            for product, own, largest in zip(products, scores, best, strict=True):
                scaled = build.fmul(product, v.constant(self.scale))
                scaled = build.select(is_seen, scaled, v.constant(_NEVER))
                v.write(scaled, v.at(own, (vector, v.lanes)))
                largest.set(v.larger(scaled, largest.get()))
        highest = [v.splat(v.largest(each.get()), v.lanes) for each in best]
        totals = [v.variable(v.zeros()) for _ in queries]
        with v.loop(I64(0), stop) as vector:
            for own, most, total in zip(scores, highest, totals, strict=True):
                at = v.at(own, (vector, v.lanes))
                weight = exponential(v, build.fsub(v.read(at), most))
                v.write(weight, at)
                total.set(build.fadd(total.get(), weight))
        return [v.sum(total.get()) for total in totals]

    def _products(self, keys: ir.Value, queries: Sequence[ir.Value]) -> list[ir.Value]:
        """Of each query with a vector of keys."""
        v, build = self.v, self.v.build
        sums = [[v.variable(v.zeros()) for _ in range(_CHAINS)] for _ in queries]
        with v.loop(I64(0), I64(self.head_size), _CHAINS) as number:
            for chain in range(_CHAINS):
                at = build.add(number, I64(chain))
                own = v.halves(v.at(keys, (at, v.lanes)))
                for query, each in zip(queries, sums, strict=True):
                    value = v.splat(build.load(build.gep(query, [at])), v.lanes)
                    each[chain].set(v.fused(value, own, each[chain].get()))
        return [reduce(build.fadd, [chain.get() for chain in each]) for each in sums]

    def _mix(
        self,
        values: ir.Value,
        place: ir.Value,
        scores: Sequence[ir.Value],
        totals: Sequence[ir.Value],
        targets: Sequence[ir.Value],
    ) -> None:
        """Values by their weights."""
        v, build = self.v, self.v.build
        starts = v.vectors(self.head_size)
        sums = [[v.variable(v.zeros()) for _ in starts] for _ in scores]
        with v.loop(I64(0), build.add(place, I64(1))) as number:
            row = v.at(values, (number, self.head_size))
            parts = [v.halves(v.at(row, (start, 1))) for start in starts]
            for own, each in zip(scores, sums, strict=True):
                weight = v.splat(build.load(build.gep(own, [number])), v.lanes)
                for part, total in zip(parts, each, strict=True):
                    total.set(v.fused(weight, part, total.get()))
        for each, total, target in zip(sums, totals, targets, strict=True):
            whole = v.splat(total, v.lanes)
            for start, own in zip(starts, each, strict=True):
                v.write(build.fdiv(own.get(), whole), v.at(target, (start, 1)))
