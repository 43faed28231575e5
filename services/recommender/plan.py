"""python -m services.recommender.plan SOURCE [--profile P] [--explain] [...]

How the tables of SOURCE (as of the restructure command) would be stored for a machine, without
writing anything: what it costs, and what more memory would buy. `--explain` lists every stored
table with its members, size, tier, cost and the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from services.recommender.layout import Stored, Table
from services.recommender.planner.profiles import Profile
from services.recommender.planning import Limits, Planned, plan
from services.recommender.profile_file import read_profile
from services.recommender.restructure import add_limits, limits_of, read_source
from services.recommender.source import Source
from shared.command_line import parser_of
from shared.errors import ModelError
from shared.output import quietly

GROWTHS = (0.0, 0.01, 0.05, 0.2, 1.0)
"""Of what products may add, beside what was asked for."""


def explain(tables: Sequence[Table], planned: Planned) -> Iterator[str]:
    """A line for each stored table, what is read most for its size first."""
    dims = {table.name: table.dim for table in tables}
    yield (
        f"{'rows':>12} {'dim':>4} {'type':4} {'bytes':>15} {'tier':8} {'bank':>4} {'ns':>8}  "
        "tables, reason"
    )
    for stored in planned.stored:
        yield (
            f"{stored.num_rows:>12,} {_dim(stored, dims):>4} {stored.element:4} "
            f"{stored.num_bytes:>15,} {stored.tier:8} {stored.bank:>4} {stored.ns:>8.1f}  "
            f"{stored.name}: {stored.reason}"
        )


def summary(planned: Planned, profile: Profile, limits: Limits) -> Iterator[str]:
    """Totals against what is allowed."""
    num_bytes = sum(stored.num_bytes for stored in planned.stored)
    share = num_bytes / planned.bytes_alone
    allowed = f"{1 + limits.max_growth:.1%}"
    if limits.max_bytes is not None:
        allowed += f" and {limits.max_bytes:,} bytes"
    yield (f"{num_bytes:,} bytes, {share:.1%} of the tables alone; {allowed} are allowed")
    yield (
        f"{len(planned.stored)} accesses, {planned.ns:.0f} ns an item by profile {profile.name}; "
        f"each table alone {planned.ns_alone:.0f} ns"
    )


def offers(source: Source, profile: Profile, limits: Limits) -> Iterator[str]:
    """What an item would take with less and with more memory for products."""
    for growth in sorted({*GROWTHS, limits.max_growth}):
        other = _plan(source, profile, replace(limits, max_growth=growth))
        num_bytes = sum(stored.num_bytes for stored in other.stored)
        mark = "*" if growth == limits.max_growth else " "
        yield (
            f"{mark} up to {growth:>5.0%} more: {num_bytes:>15,} bytes, {len(other.stored):>4} "
            f"accesses, {other.ns:>8.0f} ns an item"
        )


def _dim(stored: Stored, dims: dict[str, int]) -> int:
    return sum(dims[part.table] for part in stored.parts)


def _plan(source: Source, profile: Profile, limits: Limits) -> Planned:
    return plan(source.fields, source.tables, source.lookups, profile, limits)


def main(argv: list[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = parser_of("services.recommender.plan", __doc__)
    parser.add_argument("source", type=Path, help="folder of tables and dense graph, or a graph")
    parser.add_argument("--explain", action="store_true", help="every stored table, with reasons")
    add_limits(parser)
    arguments = parser.parse_args(argv)
    limits = limits_of(arguments)
    try:
        profile = read_profile(arguments.profile)
        source = read_source(arguments.source)
        planned = _plan(source, profile, limits)
        if arguments.explain:
            print("\n".join(explain(source.tables, planned)))
        print("\n".join(summary(planned, profile, limits)))
        print("\n".join(offers(source, profile, limits)))
    except ModelError as error:
        print(f"plan: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(quietly(main))
