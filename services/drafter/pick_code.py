"""The draw of a token from its logits in LLVM's language: pure.

As shared/lm/sampling.py draws, with the same random numbers, for requests without penalties or
filters. Only tokens near the best get noise: that another one should win happens less than once in
a thousand draws, which costs a draft token and nothing else.
"""

from __future__ import annotations

from llvmlite import ir

from services.drafter.vector_code import Vectors
from shared.llvm import FLOAT, FLOATS, I1, I32, I64, LONGS, Variable

NUM_DRAW_WORDS = 2
"""What a draw depends on: the inverse temperature, as the bits of a float32, 0 for none; and the
request's seed, mixed (`sampling.mixed_seed`)."""
_CONTENDERS = 8.0
_NEVER = -1e30
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_DOUBLE = ir.DoubleType()


def pick(v: Vectors, vocab_size: int, places: int) -> ir.Function:
    """`pick(logits, draw, place, token, margin)`: the token at `place` of its context, and by how
    much it won over the next best. Overwrites the logits [places], whole vectors."""
    noise = _noise(v)
    scan = _scan(v, places)
    function = v.begin("pick", [FLOATS, LONGS, I64, LONGS, FLOATS], "noinline")
    logits, draw, place, token, margin = function.args
    build = v.build
    if places > vocab_size:
        start = places - v.lanes
        own = [number + start < vocab_size for number in range(v.lanes)]
        at = v.at(logits, (start, 1))
        is_token = ir.Constant(ir.VectorType(I1, v.lanes), own)
        v.write(build.select(is_token, v.read(at), v.constant(_NEVER)), at)
    inverse = build.bitcast(build.trunc(build.load(draw), I32), FLOAT)
    with build.if_then(build.fcmp_ordered(">", inverse, FLOAT(0.0))):
        seed = build.load(build.gep(draw, [I64(1)]))
        key = _mixed(v, build.xor(seed, build.mul(place, I64(_GOLDEN))))
        _perturb(v, noise, logits, places, inverse, key)
    build.call(scan, [logits, token, margin])
    build.ret_void()
    return function


def _perturb(
    v: Vectors, noise: ir.Function, logits: ir.Value, places: int, inverse: ir.Value, key: ir.Value
) -> None:
    """Tempered, with noise where it can decide; what cannot win is gone."""
    build = v.build
    factor = v.splat(inverse, v.lanes)
    best = v.variable(v.constant(_NEVER))
    with v.loop(I64(0), I64(places), v.lanes) as start:
        at = v.at(logits, (start, 1))
        scaled = build.fmul(v.read(at), factor)
        v.write(scaled, at)
        best.set(v.larger(scaled, best.get()))
    least = build.fsub(v.splat(v.largest(best.get()), v.lanes), v.constant(_CONTENDERS))
    bits = ir.IntType(v.lanes)
    with v.loop(I64(0), I64(places), v.lanes) as start:
        at = v.at(logits, (start, 1))
        scaled = v.read(at)
        is_near = build.fcmp_ordered(">", scaled, least)
        v.write(build.select(is_near, scaled, v.constant(_NEVER)), at)
        near = v.variable(build.bitcast(is_near, bits))
        count = v.call(f"llvm.ctpop.i{v.lanes}", bits, near.get())
        with v.loop(I64(0), build.zext(count, I64)):
            rest = near.get()
            lane = v.call(f"llvm.cttz.i{v.lanes}", bits, rest, I1(1))
            near.set(build.and_(rest, build.sub(rest, bits(1))))
            token = build.add(start, build.zext(lane, I64))
            build.call(noise, [build.gep(logits, [token]), token, key])


def _noise(v: Vectors) -> ir.Function:
    """`noise(score, token, key)`: standard Gumbel noise added to a token's score."""
    function = v.begin("noise", [FLOATS, I64, I64], "noinline")
    score, token, key = function.args
    build = v.build
    state = build.add(key, build.mul(build.add(token, I64(1)), I64(_GOLDEN)))
    bits = build.uitofp(build.lshr(_mixed(v, state), I64(11)), _DOUBLE)
    uniform = build.fmul(build.fadd(bits, _DOUBLE(0.5)), _DOUBLE(2.0**-53))
    value = uniform
    for _ in range(2):
        value = build.fsub(_DOUBLE(0.0), v.call("llvm.log.f64", _DOUBLE, value))
    build.store(build.fadd(build.load(score), build.fptrunc(value, FLOAT)), score)
    build.ret_void()
    return function


def _mixed(v: Vectors, value: ir.Value) -> ir.Value:
    """The finalizer of SplitMix64."""
    build = v.build
    for shift, factor in _MIX:
        value = build.mul(build.xor(value, build.lshr(value, I64(shift))), I64(factor))
    return build.xor(value, build.lshr(value, I64(31)))


def _scan(v: Vectors, places: int) -> ir.Function:
    """`scan(scores, token, margin)`: the largest, of equal ones the first, and by how much."""
    function = v.begin("scan", [FLOATS, LONGS, FLOATS], "noinline")
    scores, token, margin = function.args
    build = v.build
    integers = ir.VectorType(I32, v.lanes)
    best, second = v.variable(v.constant(_NEVER)), v.variable(v.constant(_NEVER))
    where = v.variable(ir.Constant(integers, [0] * v.lanes))
    with v.loop(I64(0), I64(places), v.lanes) as start:
        values = v.read(v.at(scores, (start, 1)))
        is_better = build.fcmp_ordered(">", values, best.get())
        loser = build.select(is_better, best.get(), values)
        second.set(v.larger(loser, second.get()))
        best.set(build.select(is_better, values, best.get()))
        number = v.splat(build.trunc(start, I32), v.lanes)
        where.set(build.select(is_better, number, where.get()))
    highest = v.largest(best.get())
    # Of the lanes with the largest, the one whose token is the lowest.
    lanes = ir.Constant(integers, list(range(v.lanes)))
    numbers = build.add(where.get(), lanes)
    chosen, next_best = Variable(v, I32(places)), Variable(v, FLOAT(_NEVER))
    for lane in range(v.lanes):
        value = build.extract_element(best.get(), I32(lane))
        number = build.extract_element(numbers, I32(lane))
        is_first = build.and_(
            build.fcmp_ordered("==", value, highest), build.icmp_signed("<", number, chosen.get())
        )
        chosen.set(build.select(is_first, number, chosen.get()))
    for lane in range(v.lanes):
        number = build.extract_element(numbers, I32(lane))
        is_chosen = build.icmp_signed("==", number, chosen.get())
        own = build.extract_element(best.get(), I32(lane))
        other = build.extract_element(second.get(), I32(lane))
        value = build.select(is_chosen, other, own)
        is_more = build.fcmp_ordered(">", value, next_best.get())
        next_best.set(build.select(is_more, value, next_best.get()))
    build.store(build.sext(chosen.get(), I64), token)
    build.store(build.fsub(highest, next_best.get()), margin)
    build.ret_void()
    return function
