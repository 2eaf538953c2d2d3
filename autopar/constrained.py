"""A function with the constraints of a plan: plain JAX, without our runtime.

The function is traced and lowered as for planning, with numbers of its equations in the names of
the ops. These are the ops that were planned, in the same order: an equation's values lie where
those of its ops do. Where an op with a strategy reads or makes a value otherwise than the value
lies, there is a constraint for both: XLA would move the larger of two operands at times.
"""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.sharding import AbstractMesh, NamedSharding, use_abstract_mesh
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from autopar.dialects import make_context
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.core import FactorKind, TensorMapping
from autopar.dialects.rules.registry import op_classes, partitioned_rule
from autopar.dialects.sharding import Axes
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
from autopar.passes.entry import main_function
from autopar.passes.manager import run_passes
from autopar.passes.pipelines import IMPORT
from autopar.passes.planning.places import planned_ops

from .argument_avals import ArgumentAval
from .decisions import Decisions, StalePlanError, parsed_sharding, parsed_strategy
from .meshes import MeshChoice, automatic
from .plans import Plan, PlannedValue
from .road import declare_mesh

Path = tuple[int, ...]
"""An equation: the numbers of the equations that it is in, and its own."""
Shape = tuple[int, ...]
Demand = tuple[Shape, tuple[NamedSharding, ...]]
"""The shape of a value at an op, and where it is to lie: one after the other."""


@dataclass
class _Ends:
    """The values of an equation's ops."""

    operands: list[list[Demand]] = field(default_factory=list[list[Demand]])
    """Of each op that may read them otherwise than they lie."""
    results: list[Demand] = field(default_factory=list[Demand])
    """Of all ops."""


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
    ends: dict[Path, _Ends]

    @staticmethod
    def of(
        plan: Plan, decisions: Decisions, fn: Callable[..., Any], tree: Any, abstract: list[Any]
    ) -> _Constraints:
        """StalePlanError where the function is not what was planned, as it is called, or under the
        plan's mesh, or under none: under a mesh JAX makes other ops of some functions."""
        _check_arguments(plan, abstract)
        refused: StalePlanError | None = None
        meshes = automatic(plan.mesh).abstract_mesh, AbstractMesh((), ())
        for context in (nullcontext(), *map(use_abstract_mesh, meshes)):
            try:
                with context:
                    return _Constraints._traced(plan, decisions, fn, tree, abstract)
            except StalePlanError as error:
                refused = refused or error
        assert refused is not None
        raise refused

    @staticmethod
    def _traced(
        plan: Plan, decisions: Decisions, fn: Callable[..., Any], tree: Any, abstract: list[Any]
    ) -> _Constraints:
        """Those of the function as it is traced here."""
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
        return _Constraints(plan, numbered, _ends(module, decisions, plan.choice))

    def __call__(self, leaves: Sequence[Any]) -> Any:
        placed = self._bound(leaves, self.plan.arguments)
        found = evaluate_numbered(self.numbered.jaxpr, placed, self)
        return jax.tree.unflatten(self.numbered.out_tree, self._bound(found, self.plan.results))

    def _bound(self, values: Sequence[Any], planned: Sequence[PlannedValue]) -> list[Any]:
        choice = self.plan.choice
        return [
            jax.lax.with_sharding_constraint(value, choice.boundary_sharding(known.dims))
            if _is_array(value) and jax.numpy.shape(value)
            else value
            for value, known in zip(values, planned, strict=True)
        ]

    def operands(self, path: Path, values: Sequence[Any]) -> Sequence[Any]:
        """Those of an equation, as the op that stands for it needs them."""
        ends = self.ends.get(path)
        shapes = _shapes(values)
        for demands in reversed(ends.operands if ends is not None else []):
            if [shape for shape, _ in demands] == shapes:
                return _with_demands(values, demands)
        return values

    def results(self, path: Path, values: Sequence[Any]) -> Sequence[Any]:
        """Those of an equation, as the last of its ops with such results make them."""
        ends = self.ends.get(path)
        if ends is None:
            return values
        shapes = _shapes(values)
        same = ends.results[-len(values) :] if values else []
        if [shape for shape, _ in same] != shapes:
            same = [r for r in ends.results if [r[0]] == shapes][-1:] or [((), ())] * len(values)
        return _with_demands(values, same)


def _shapes(values: Sequence[Any]) -> list[Shape | None]:
    return [tuple(jax.numpy.shape(v)) if _is_array(v) else None for v in values]


def _with_demands(values: Sequence[Any], demands: Sequence[Demand]) -> list[Any]:
    found = list(values)
    for index, (_, shardings) in enumerate(demands):
        for sharding in shardings:
            found[index] = jax.lax.with_sharding_constraint(found[index], sharding)
    return found


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


def _ends(module: ModuleOp, decisions: Decisions, choice: MeshChoice) -> dict[Path, _Ends]:
    """What is demanded of the values of each equation."""
    decided = {op.number: op for op in decisions.ops if op.number is not None}
    found: dict[Path, _Ends] = defaultdict(_Ends)
    paths: dict[int, Path] = {}
    free: set[SSAValue] = set()
    classes = op_classes()

    @functools.cache
    def laid(dims: tuple[Axes, ...] | None) -> tuple[NamedSharding, ...]:
        if not dims:  # a scalar, or nothing is said
            return ()
        spelled = tuple(tuple(axis.spelled for axis in axes) for axes in dims)
        sharding = choice.sharding(Layout(spelled, (), None))
        return () if sharding is None else (sharding,)

    for number, op in enumerate(planned_ops(main_function(module))):
        path = paths.get(id(op.location))
        if path is None:
            path = paths[id(op.location)] = _path(op)
        own = decided.get(number)
        if is_free := _is_free(op, free):
            free.update(op.results)
        if own is None or is_free:
            found[path].results += [(_shape(result), ()) for result in op.results]
            continue
        needs, makes = _by_strategy(op, own.strategy)
        if len(op.operands) > 1 and classes.get(op.name) != "elementwise":
            pairs = zip(operands_of(op), needs, strict=True)
            demands = [(_shape(v), () if v in free else laid(dims)) for v, dims in pairs]
            found[path].operands.append(demands)
        for result, text, made in zip(op.results, own.shardings, makes, strict=True):
            kept = _kept(text)
            both = (laid(made) if made != kept else ()) + laid(kept)
            found[path].results.append((_shape(result), both))
    return dict(found)


def _shape(value: SSAValue) -> Shape:
    return tuple(shape_of(value.type))


def _kept(text: str | None) -> tuple[Axes, ...] | None:
    """Where a value lies; None for a partial sum, which is XLA's to put together where it is read,
    and where nothing is said."""
    own = parsed_sharding(text)
    return None if own is None or own.partial else own.dim_axes


Layouts = list[tuple[Axes, ...] | None]


def _by_strategy(op: Operation, text: str | None) -> tuple[Layouts, Layouts]:
    """How an op reads its operands and makes its results, where its strategy says so."""
    rule = None if text is None else partitioned_rule(op)
    if text is None or rule is None:
        return [None] * len(operands_of(op)), [None] * len(op.results)
    factors = parsed_strategy(text).data
    sums = {
        factor
        for factor, axes in enumerate(factors)
        if axes and rule.kinds[factor] is FactorKind.REDUCTION
    }
    makes = [
        None if sums - {f for dim in mapping for f in dim} else _axes_of(mapping, factors)
        for mapping in rule.results
    ]
    return [_axes_of(mapping, factors) for mapping in rule.operands], makes


def _axes_of(mapping: TensorMapping, factors: Sequence[Axes]) -> tuple[Axes, ...] | None:
    """The axes of a tensor's dimensions; None where a dimension is split inside, which the axes of
    a dimension cannot say."""
    if any(factors[factor] for dim in mapping for factor in dim[1:]):
        return None
    return tuple(factors[dim[0]] if dim else () for dim in mapping)


def _path(op: Operation) -> Path:
    return tuple(int(number) for number in EQUATION.findall(str(op.location)))


def _is_free(op: Operation, free: set[SSAValue]) -> bool:
    """Whether an op is computed from constants alone: each of its readers may have its own."""
    if op.regions or op.name == "stablehlo.custom_call":
        return False
    return all(value in free for value in operands_of(op))
