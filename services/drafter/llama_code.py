"""A small Llama's pass in LLVM's language: pure.

One function for the whole model and several tokens one after the other: between two of them nothing
returns to Python, and a node of a graph costs nothing by itself. Weights are bytes, widened on the
way; all else is in 32 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from llvmlite import ir

from services.drafter.attention_code import Attention
from services.drafter.linear_code import LinearCode, linear
from services.drafter.pick_code import NUM_DRAW_WORDS, pick
from services.drafter.vector_code import Vectors, exponential
from shared.llvm import BYTES, FLOAT, FLOATS, HALVES, I64, LONGS


@dataclass(frozen=True, slots=True)
class LayerCode:
    """Where the parts of the first layer lie."""

    norm: int
    qkv: LinearCode
    out: LinearCode
    mlp_norm: int
    gate_up: LinearCode
    down: LinearCode


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of a model, and where what it reads lies, in bytes from the start of all weights."""

    num_layers: int
    hidden: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    inner: int
    vocab_size: int
    max_context: int
    epsilon: float
    scale: float
    layer: LayerCode
    layer_bytes: int
    """From one layer's weights to the next one's."""
    norm: int
    """The last one."""
    head: LinearCode
    embedding: int
    """Rows of bytes, one for each token."""
    embedding_scales: int
    cos: int
    sin: int

    @property
    def columns(self) -> int:
        """Logits of a token, with those that fill a vector."""
        return self.head.num_columns

    @property
    def num_query(self) -> int:
        return self.num_heads * self.head_size

    @property
    def num_qkv(self) -> int:
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_size

    def cache_numbers(self) -> int:
        """Of a slot: keys and values of all layers."""
        return self.num_layers * 2 * self.num_kv_heads * self.max_context * self.head_size

    def work_floats(self) -> int:
        """What each token of a pass works on: `Work` says where."""
        return 2 * self.hidden + self.num_qkv + self.num_query + 2 * self.inner + self.num_scratch

    @property
    def num_scratch(self) -> int:
        """In floats: a row of inputs as bytes."""
        parts = (self.layer.qkv, self.layer.out, self.layer.gate_up, self.layer.down, self.head)
        return max(part.row_bytes for part in parts) // 4


PASS = [BYTES, HALVES, FLOATS, I64, LONGS, LONGS, LONGS, I64, LONGS, I64, FLOATS]


@dataclass(frozen=True, slots=True)
class Pass:
    """The arguments of a function that runs one."""

    weights: ir.Value
    cache: ir.Value
    work: ir.Value
    """With room for `max_tokens` tokens."""
    max_tokens: ir.Value
    tokens: ir.Value
    slots: ir.Value
    places: ir.Value
    num_tokens: ir.Value
    wanted: ir.Value
    num_wanted: ir.Value
    logits: ir.Value


@dataclass(frozen=True, slots=True)
class Work:
    """Rows that a pass works on, each for all of its tokens."""

    x: ir.Value
    """[tokens, hidden], to which each layer adds."""
    normed: ir.Value
    qkv: ir.Value
    attended: ir.Value
    inner: ir.Value
    """[tokens, 2 x inner]"""
    scratch: ir.Value
    """What multiplications make of their inputs."""
    scores: ir.Value
    """[query heads of a key-value head, max_context]"""


class LlamaCode(Vectors):
    """Writes the module."""

    def __init__(self, shape: LlamaShape, lanes: int, triple: str, *, has_dots: bool) -> None:
        super().__init__("llama", triple, lanes, has_dots=has_dots)
        self._shape = shape

    def written(self) -> str:
        """`forward(PASS)`: the pass over `num_tokens` tokens, each with its slot and its place in
        it; the logits [num_wanted, V] of those whose numbers are `wanted`, ascending.

        `draft(PASS, count, draws, drafted, margins)`: the same, then the token that each wanted one
        draws (pick_code.py), which is the next pass's, `count` times; int64 and float32
        [num_wanted, count]. `tokens`, `slots`, `places` and `wanted` are overwritten."""
        step = self._step()
        function = self.begin("forward", PASS)
        self.build.call(step, function.args)
        self.build.ret_void()
        self._draft(step)
        return str(self.module)

    def _step(self) -> ir.Function:
        shape = self._shape
        layer = self._layer()
        norm, embed = self._norm(), self._embed()
        head = linear(self, "head", shape.head, adds=False)
        step = self.begin("step", PASS, "noinline")
        own = Pass(*step.args)
        work, build = self._work(own), self.build
        build.call(embed, [own.weights, own.tokens, own.num_tokens, work.x])
        with self.loop(I64(0), I64(shape.num_layers)) as number:
            build.call(layer, [*step.args, number])
        with self.loop(I64(0), own.num_wanted) as row:
            chosen = build.load(build.gep(own.wanted, [row]))
            for place in self.vectors(shape.hidden):
                # Of ascending ones, what is overwritten was read.
                values = self.read(self.at(work.x, (chosen, shape.hidden), (place, 1)))
                self.write(values, self.at(work.x, (row, shape.hidden), (place, 1)))
        factors = self._floats(own.weights, shape.norm)
        build.call(norm, [factors, work.x, own.num_wanted, work.normed])
        build.call(head, [own.weights, work.normed, own.num_wanted, own.logits, work.scratch])
        build.ret_void()
        return step

    def _layer(self) -> ir.Function:
        """`layer(PASS, number)`"""
        shape = self._shape
        qkv = linear(self, "qkv", shape.layer.qkv, adds=False)
        out = linear(self, "out", shape.layer.out, adds=True)
        gate_up = linear(self, "gate_up", shape.layer.gate_up, adds=False)
        down = linear(self, "down", shape.layer.down, adds=True)
        attention = Attention(
            self,
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_size,
            shape.max_context,
            shape.scale,
            shape.cache_numbers(),
        )
        turn, attend = attention.turn(), attention.attend()
        norm, activate = self._norm(), self._activate()
        layer = self.begin("layer", [*PASS, I64], "noinline")
        own, number = Pass(*layer.args[:-1]), layer.args[-1]
        work, call = self._work(own), self.build.call
        weights = self.at(own.weights, (number, shape.layer_bytes))
        cache = self.at(own.cache, (number, shape.cache_numbers() // shape.num_layers))
        angles = [self._floats(own.weights, start) for start in (shape.cos, shape.sin)]
        which, count = [own.slots, own.places, own.num_tokens], own.num_tokens
        call(norm, [self._floats(weights, shape.layer.norm), work.x, count, work.normed])
        call(qkv, [weights, work.normed, count, work.qkv, work.scratch])
        call(turn, [*angles, cache, work.qkv, *which])
        call(attend, [cache, work.qkv, *which, work.attended, work.scores])
        call(out, [weights, work.attended, count, work.x, work.scratch])
        call(norm, [self._floats(weights, shape.layer.mlp_norm), work.x, count, work.normed])
        call(gate_up, [weights, work.normed, count, work.inner, work.scratch])
        call(activate, [work.inner, count])
        call(down, [weights, work.inner, count, work.x, work.scratch])
        self.build.ret_void()
        return layer

    def _draft(self, step: ir.Function) -> None:
        chosen = pick(self, self._shape.vocab_size, self._shape.columns)
        function = self.begin("draft", [*PASS, I64, LONGS, LONGS, FLOATS])
        own = Pass(*function.args[: len(PASS)])
        count, draws, drafted, margins = function.args[len(PASS) :]
        build = self.build
        num_now = self.variable(own.num_tokens)
        with self.loop(I64(0), count) as number:
            now = replace(own, num_tokens=num_now.get())
            build.call(step, [getattr(now, field.name) for field in fields(now)])
            with self.loop(I64(0), own.num_wanted) as row:
                last = build.load(build.gep(own.wanted, [row]))
                slot = build.load(build.gep(own.slots, [last]))
                place = build.add(build.load(build.gep(own.places, [last])), I64(1))
                at = build.add(build.mul(row, count), number)
                token, margin = build.gep(drafted, [at]), build.gep(margins, [at])
                scores = self.at(own.logits, (row, self._shape.columns))
                draw = self.at(draws, (row, NUM_DRAW_WORDS))
                build.call(chosen, [scores, draw, place, token, margin])
                build.store(build.load(token), build.gep(own.tokens, [row]))
                build.store(slot, build.gep(own.slots, [row]))
                build.store(place, build.gep(own.places, [row]))
                build.store(row, build.gep(own.wanted, [row]))
            num_now.set(own.num_wanted)
        build.ret_void()

    def _work(self, own: Pass) -> Work:
        shape = self._shape
        sizes = [shape.hidden, shape.hidden, shape.num_qkv, shape.num_query, 2 * shape.inner]
        starts = [own.work]
        for size in (*sizes, shape.num_scratch):
            starts.append(self.at(starts[-1], (own.max_tokens, size)))
        x, normed, qkv, attended, inner, scratch, scores = starts
        scratch = self.build.bitcast(scratch, BYTES)
        return Work(x, normed, qkv, attended, inner, scratch, scores)

    def _floats(self, own: ir.Value, start: int) -> ir.Value:
        return self.build.bitcast(self.at(own, (start, 1)), FLOATS)

    def _embed(self) -> ir.Function:
        """`embed(weights, tokens, count, x)`"""
        shape = self._shape
        function = self.begin("embed", [BYTES, LONGS, I64, FLOATS], "noinline")
        weights, tokens, count, x = function.args
        build = self.build
        with self.loop(I64(0), count) as row:
            token = build.load(build.gep(tokens, [row]))
            scale = build.load(build.gep(self._floats(weights, shape.embedding_scales), [token]))
            factors = self.splat(scale, self.lanes)
            for place in self.vectors(shape.hidden):
                start = shape.embedding + place
                values = self.widened(self.at(weights, (token, shape.hidden), (start, 1)))
                self.write(build.fmul(values, factors), self.at(x, (row, shape.hidden), (place, 1)))
        build.ret_void()
        return function

    def _norm(self) -> ir.Function:
        """`norm(factors, x, count, target)`: each row [hidden] over the root of its mean square."""
        if "norm" in self.module.globals:
            return self.module.globals["norm"]
        shape = self._shape
        function = self.begin("norm", [FLOATS, FLOATS, I64, FLOATS], "noinline")
        factors, x, count, target = function.args
        build = self.build
        with self.loop(I64(0), count) as row:
            total = self.zeros()
            for place in self.vectors(shape.hidden):
                values = self.read(self.at(x, (row, shape.hidden), (place, 1)))
                total = self.fused(values, values, total)
            mean = build.fdiv(self.sum(total), FLOAT(shape.hidden))
            root = self.call("llvm.sqrt.f32", FLOAT, build.fadd(mean, FLOAT(shape.epsilon)))
            inverse = self.splat(build.fdiv(FLOAT(1.0), root), self.lanes)
            for place in self.vectors(shape.hidden):
                values = self.read(self.at(x, (row, shape.hidden), (place, 1)))
                own = self.read(self.at(factors, (place, 1)))
                values = build.fmul(build.fmul(values, inverse), own)
                self.write(values, self.at(target, (row, shape.hidden), (place, 1)))
        build.ret_void()
        return function

    def _activate(self) -> ir.Function:
        """`activate(inner, count)`: of each row [gate, up] silu(gate) x up, in the place of the
        gate; rows move together to [inner]."""
        shape = self._shape
        function = self.begin("activate", [FLOATS, I64], "noinline")
        inner, count = function.args
        build = self.build
        one = self.constant(1.0)
        with (
            self.loop(I64(0), count) as row,
            self.loop(I64(0), I64(shape.inner), self.lanes) as place,
        ):
            gate = self.read(self.at(inner, (row, 2 * shape.inner), (place, 1)))
            up = self.read(self.at(inner, (row, 2 * shape.inner), (place, 1), (shape.inner, 1)))
            decay = exponential(self, build.fsub(self.zeros(), gate))
            silu = build.fdiv(gate, build.fadd(one, decay))
            self.write(build.fmul(silu, up), self.at(inner, (row, shape.inner), (place, 1)))
        build.ret_void()
        return function
