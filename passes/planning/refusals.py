"""What is said where no plan does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, OpResult, SSAValue

from autopar.dialects.diagnostics import DiagnosticError, location_names
from autopar.dialects.rules.regions import BARRIER
from autopar.passes.entry import main_function
from autopar.passes.solver.problem import FORBIDDEN
from autopar.passes.walk import inner_ops

from .demands import Demands
from .naming import pattern
from .problems import UNIT_S
from .search import Search
from .words import size_text

_HEAVIEST = 5
"""Kinds of tensors that are named where nothing fits."""


def too_dear(func: FuncOp, demands: Demands | None) -> DiagnosticError:
    """No plan is allowed, or can be counted."""
    if demands is not None and demands.forbidden:
        why = (
            "no plan does without the collectives that the options forbid: allow them, or take "
            "back shardings that demand them"
        )
    else:
        why = (
            f"every plan takes longer than {FORBIDDEN * UNIT_S:.0e} seconds a step, the most that "
            "is planned for: see alpha, beta, and the cluster"
        )
    return DiagnosticError(func, f"auto-shard: {why}")


def not_obeyed(func: FuncOp, kinds: Collection[str]) -> DiagnosticError:
    """The partitioned program of a plan has collectives of these kinds, which options forbid."""
    options = " and ".join(f"allow-{kind.replace('_', '-')}=false" for kind in sorted(kinds))
    return DiagnosticError(
        func,
        f"auto-shard: {options}: the plan that was found is not partitioned without: allow what is "
        "forbidden, or take back shardings that demand it",
    )


def too_large(
    module: ModuleOp, search: Search, chosen: Sequence[int], needed: int, limit: int
) -> DiagnosticError:
    """No plan fits; `chosen` is of the one that needs least."""
    if _rematerialises(module):
        remedy = "use more devices, smaller batches or microbatches (the step rematerialises), or"
    else:
        remedy = (
            "use more devices, smaller batches, microbatches or rematerialisation "
            "(jax.checkpoint), or"
        )
    return DiagnosticError(
        main_function(module),
        f"auto-shard: no plan found fits into {size_text(limit)} a device; of those tried the one "
        f"that needs least takes {size_text(needed)} ({size_text(needed - limit)} too much): "
        f"{remedy} raise memory-per-device",
        _heaviest(search.footprint.when_most(chosen)),
    )


def _rematerialises(module: ModuleOp) -> bool:
    """Whether the step computes values again in its backward phase, as JAX's names tell; without
    names, a barrier that keeps the two apart tells it."""
    has_barrier = has_names = False
    for op in inner_ops(module):
        has_barrier = has_barrier or op.name == BARRIER
        for name in location_names(op.location):
            if "rematted_computation" in name:
                return True
            has_names = True
    return has_barrier and not has_names


def _heaviest(values: Sequence[tuple[SSAValue, int]]) -> list[tuple[SSAValue, str]]:
    """The tensors that take most; those that differ in the layer alone are told as one."""
    alike: dict[tuple[str, int], list[SSAValue]] = defaultdict(list)
    for value, size in values:
        alike[pattern(_name(value)), size].append(value)
    told = sorted(alike.items(), key=lambda item: -item[0][1] * len(item[1]))[:_HEAVIEST]
    return [
        (
            same[0],
            f"{_name(same[0])} takes {size_text(size)} a device"
            if len(same) == 1
            else f"{len(same)} x {name} take {size_text(size * len(same))} a device",
        )
        for (name, size), same in told
    ]


def _name(value: SSAValue) -> str:
    if isinstance(value, BlockArgument):
        said = next(location_names(value.location), f"arg{value.index}")
        return f"argument {said} : {value.type}"
    assert isinstance(value, OpResult)
    return f"'{value.op.name}' : {value.type}"
