"""The data of a page from what is in a file: a plan, or a report of auto-shard.

They have no places of ops, no prices of ops, no memory over time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autopar.decisions import parsed_sharding, parsed_strategy
from autopar.dialects.sharding import Grid
from autopar.passes.cost.report import axes_text
from autopar.passes.planning.report import proof_of

from .data import Header, head, layout_number, merged, strategy_text
from .tree import ProgramTree, Table

if TYPE_CHECKING:
    from autopar.plans import Plan, PlannedValue


def plan_data(plan: Plan, title: str) -> dict[str, Any]:
    """Of a plan from a file: no places, no prices, no memory over time."""
    layouts, tree = Table(), ProgramTree()
    decisions = plan.decisions
    ops = () if decisions is None else decisions.ops
    for op in ops:
        if op.types:
            sharding = parsed_sharding(op.shardings[0])
            layout = -1 if sharding is None else layout_number(sharding, 0, layouts)
            how = "" if op.strategy is None else strategy_text(parsed_strategy(op.strategy))
            tree.add_text(op.op, ", ".join(op.types), layout, how)
    header = Header(title, plan.method)
    moved: dict[tuple[str, str], list[float]] = {}
    for use in plan.collectives:
        row = moved.setdefault((use.kind, use.where), [0, 0.0])
        row[0] += use.times
        row[1] += use.times * use.num_bytes
    return {
        **head(header, plan.grid),
        "objective": None,
        "memory": None,
        "collectives": [_collective(*key, *row) for key, row in moved.items()],
        "arguments": merged([_planned(value, layouts) for value in plan.arguments]),
        "results": merged([_planned(value, layouts) for value in plan.results]),
        "program": tree.as_json() if ops else None,
        "layouts": layouts.values,
    }


def _planned(value: PlannedValue, layouts: Table) -> list[Any]:
    shape = "x".join(map(str, value.shape)) or "scalar"
    number = layouts.number(tuple(",".join(axes) for axes in value.dims))
    return [value.name, value.kind, shape, number, value.local_bytes]


def _collective(kind: str, axes: str, count: float, size: float) -> dict[str, Any]:
    facts = {"kind": kind, "axes": axes, "count": int(count), "bytes": round(size)}
    return {**facts, "seconds": None, "places": [], "more": 0}


def report_data(report: dict[str, Any], title: str) -> dict[str, Any]:
    """Of a report of auto-shard. KeyError where it is none."""
    layouts = Table()
    objective, memory, solver = report["objective"], report["memory"], report["solver"]
    grid = Grid("mesh", tuple(report["grid"].items()))
    arguments = [
        [
            f"arg{row['index']}",
            row["kind"],
            row["type"],
            layouts.number(tuple(",".join(axes) for axes in row["sharding"] or ())),
            None,
        ]
        for row in report["arguments"]
    ]
    return {
        **head(Header(title, "auto", solver_data(solver)), grid),
        "objective": {key.removesuffix("_s"): value for key, value in objective.items()},
        "memory": {
            **{key.removesuffix("_bytes"): value for key, value in memory.items()},
            "points": [],
        },
        "collectives": [
            _collective(
                row["kind"], axes_text(row["axes"], row["group"]), row["count"], row["ring_bytes"]
            )
            for row in report["collectives"]
        ],
        "arguments": [[[row[0]], *row[1:]] for row in arguments],
        "results": [],
        "program": None,
        "layouts": layouts.values,
    }


def solver_data(solver: dict[str, Any]) -> dict[str, Any]:
    """What a page says of the search, from a report's facts."""
    kept = ("reproducible", "nodes", "edges", "seconds")
    return {"proof": proof_of(solver), **{key: solver[key] for key in kept}}
