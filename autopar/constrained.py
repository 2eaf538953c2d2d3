"""A function with the constraints of a plan: plain JAX, without our runtime.

The function is traced and lowered as for planning, with numbers of its equations in the names of
the ops. These are the ops that were planned, in the same order: an equation's values lie where
those of its ops do.
"""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import NamedSharding
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from autopar.dialects import make_context
from autopar.dialects.rules.access import operands_of
from autopar.dialects.tensors import shape_of
from autopar.lowering.importer import import_module
from autopar.lowering.jax_compat import (
    EQUATION,
    evaluate_numbered,
    lower_traced,
    number_equations,
)
from autopar.lowering.mlir_context import merge_equal_ops
from autopar.lowering.program import Layout
from autopar.passes.importing.arguments import main_function
from autopar.passes.manager import run_passes
from autopar.passes.pipelines import IMPORT
from autopar.passes.planning.places import planned_ops

from .decisions import Decisions, StalePlanError, parsed_sharding
from .lowered import ArgumentAval
from .meshes import MeshChoice
from .plans import Plan, PlannedValue
from .road import declare_mesh

Path = tuple[int, ...]
"""An equation: the numbers of the equations that it is in, and its own."""
Result = tuple[tuple[int, ...], NamedSharding | None]
"""The shape of an op's result, and where it lies; None where nothing is demanded."""


def constrained(plan: Plan, fn: Callable[..., Any]) -> Callable[..., Any]:
    """`Plan.apply`."""
    decisions = plan.decisions
    if decisions is None:
        raise ValueError("the plan does not say what was decided for the ops of its program")
    if plan.num_micro_batches > 1:
        raise StalePlanError(
            f"the plan is of a program that runs in {plan.num_micro_batches} microbatches, the "
            "function of a whole batch: plan with num_micro_batches=1"
        )

    @functools.wraps(fn)
    def apply(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        abstract = [ArgumentAval(leaf).abstract(leaf, None) for leaf in leaves]
        return _Constraints.of(plan, decisions, fn, tree, abstract)(leaves)

    return apply


@dataclass(frozen=True)
class _Constraints:
    """Those of a traced function."""

    plan: Plan
    numbered: Any
    results: dict[Path, list[Result]]

    @staticmethod
    def of(
        plan: Plan, decisions: Decisions, fn: Callable[..., Any], tree: Any, abstract: list[Any]
    ) -> _Constraints:
        """StalePlanError where the function is not what was planned."""
        _check_arguments(plan, abstract)
        args, kwargs = jax.tree.unflatten(tree, abstract)
        numbered = number_equations(jax.jit(fn, keep_unused=True).trace(*args, **kwargs))
        if len(numbered.jaxpr.in_avals) != len(abstract):
            raise ValueError(
                "the function reads values of the function around it that JAX is tracing: make "
                "them its arguments"
            )
        lowered = lower_traced(numbered, plan.mesh.devices.flat[0].platform)
        native = lowered.compiler_ir("stablehlo")
        merge_equal_ops(native)
        module = import_module(native)
        declare_mesh(module, plan.grid)
        run_passes(module, IMPORT, make_context())
        decisions.check_program(module)
        return _Constraints(plan, numbered, _results(module, decisions, plan.choice))

    def __call__(self, leaves: Sequence[Any]) -> Any:
        placed = self._bound(leaves, self.plan.arguments)
        found = evaluate_numbered(self.numbered.jaxpr, placed, self._constrain)
        return jax.tree.unflatten(self.numbered.out_tree, self._bound(found, self.plan.results))

    def _bound(self, values: Sequence[Any], planned: Sequence[PlannedValue]) -> list[Any]:
        choice = self.plan.choice
        return [
            jax.lax.with_sharding_constraint(value, choice.boundary_sharding(known.dims))
            if _is_array(value) and jax.numpy.shape(value)
            else value
            for value, known in zip(values, planned, strict=True)
        ]

    def _constrain(self, path: Path, values: Sequence[Any]) -> Sequence[Any]:
        ops = self.results.get(path)
        if ops is None:
            return values
        shapes = [tuple(jax.numpy.shape(v)) if _is_array(v) else None for v in values]
        same = ops[-len(values) :] if values else []
        if [shape for shape, _ in same] != shapes:
            same = [r for r in ops if [r[0]] == shapes][-1:] or [((), None)] * len(values)
        return [
            value if sharding is None else jax.lax.with_sharding_constraint(value, sharding)
            for value, (_, sharding) in zip(values, same, strict=True)
        ]


def _is_array(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    return dtype is not None and not jax.numpy.issubdtype(dtype, jax.dtypes.extended)


def _check_arguments(plan: Plan, abstract: Sequence[Any]) -> None:
    """StalePlanError in the words of the caller, where arrays are not as many or as large."""
    if len(abstract) != len(plan.arguments):
        raise StalePlanError(
            f"the plan is for {len(plan.arguments)} arrays, the function is called with "
            f"{len(abstract)}"
        )
    for known, value in zip(plan.arguments, abstract, strict=True):
        shape = tuple(getattr(value, "shape", ()))
        if (value is None or _is_array(value)) and shape != known.shape:
            raise StalePlanError(f"{known.name} has the shape {shape}, in the plan {known.shape}")


def _results(
    module: ModuleOp, decisions: Decisions, choice: MeshChoice
) -> dict[Path, list[Result]]:
    """The results of the ops of each equation."""
    decided = {op.number: op for op in decisions.ops if op.number is not None}
    found: dict[Path, list[Result]] = defaultdict(list)
    places: dict[int, Path] = {}
    free: set[SSAValue] = set()

    @functools.cache
    def sharding(text: str | None) -> NamedSharding | None:
        own = parsed_sharding(text)
        if own is None or own.partial or not own.rank:
            return None  # a partial sum is XLA's to put together where it is read
        dims = tuple(tuple(axis.spelled for axis in dim) for dim in own.dim_axes)
        return choice.sharding(Layout(dims, (), None))

    for number, op in enumerate(planned_ops(main_function(module))):
        path = places.get(id(op.location))
        if path is None:
            path = places[id(op.location)] = _path(op)
        if _is_free(op, free):
            free.update(op.results)
            texts: Sequence[str | None] = [None] * len(op.results)
        else:
            texts = decided[number].shardings if number in decided else [None] * len(op.results)
        for result, text in zip(op.results, texts, strict=True):
            found[path].append((tuple(shape_of(result.type)), sharding(text)))
    return dict(found)


def _path(op: Operation) -> Path:
    return tuple(int(number) for number in EQUATION.findall(str(op.location)))


def _is_free(op: Operation, free: set[SSAValue]) -> bool:
    """Whether an op is computed from constants alone: each of its readers may have its own."""
    if op.regions or op.name == "stablehlo.custom_call":
        return False
    return all(value in free for value in operands_of(op))
