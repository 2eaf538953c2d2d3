"""The plan of a program, as data and as a table."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from xdsl.ir import Attribute

from autopar.dialects.autopar import GLOBAL, aliases, result_sharding, sharding_of
from autopar.dialects.constants import UnsupportedElementType, element_type_of_dtype
from autopar.dialects.diagnostics import Diagnostic, DiagnosticError, collect_remarks
from autopar.dialects.shard import user_grid
from autopar.dialects.sharding import Grid, Sharding, parse_axis
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.lowering.jax_compat import is_key_dtype
from autopar.passes.collector import collector_off
from autopar.passes.cost.flops import flops_of
from autopar.passes.cost.report import CollectiveUse, collectives_of
from autopar.passes.entry import main_function
from autopar.passes.importing.arguments import argument_kinds
from autopar.passes.importing.meshes import merge_axes
from autopar.passes.planning.modelled import Modelled, modelled
from autopar.passes.planning.words import layout_text, without_numbers

from .argument_avals import ArgumentAval

if TYPE_CHECKING:
    from jax.sharding import NamedSharding
    from xdsl.dialects.builtin import ModuleOp

    from autopar.passes.importing.methods import MethodOptions

    from .decisions import Decisions
    from .explain import Explanations
    from .meshes import MeshChoice
    from .road import Road

_ELEMENT = re.compile(r"(complex<\w+>|[^x<>]+)(?=>$)")
"""The element type of a tensor type's text."""


@dataclass(frozen=True)
class PlannedValue:
    """One flat argument or result."""

    name: str
    """Its place in the pytree: `state['params']['w']`."""
    kind: str
    """parameter, optimizer_state, batch or other; result for results."""
    shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    local_bytes: int
    dims: tuple[tuple[str, ...], ...]
    """The mesh axes of each dimension, major to minor; sub-axes as `x:(1)2`."""

    @property
    def layout(self) -> str:
        """`dims` as text: `-` for a dimension that is whole, `whole` where all are."""
        return layout_text(self.dims)


@dataclass(frozen=True)
class Signature:
    """What a function takes and gives: pytrees, and the rank of each array in them as JAX knows it
    (typed PRNG keys have a dimension less than in the program)."""

    arguments: Any
    """The tree of (positional arguments, keyword arguments)."""
    argument_ranks: tuple[int, ...]
    results: Any
    result_ranks: tuple[int, ...]


@dataclass
class Plan:
    """What was decided for a program; `str(plan)` is a table."""

    method: str
    grid: Grid
    arguments: list[PlannedValue]
    results: list[PlannedValue]
    collectives: list[CollectiveUse]
    flops: int
    """Of one run on one device: dots, convolutions, and ops whose rule states theirs."""
    result_bytes: int
    """Bytes of a device's results that do not share an argument's buffer."""
    batch: str = ""
    """Which arguments are the batch and how that is known."""
    num_micro_batches: int = 1
    remarks: list[Diagnostic] = field(default_factory=list[Diagnostic])
    modelled: Modelled | None = None
    """What a step takes by the cost model; None: the cluster cannot be priced, or not known."""
    temporary_bytes: int | None = None
    """XLA's figure for one device, once the program is compiled."""
    options: MethodOptions | None = field(default=None, repr=False)
    """Of the method, as `annotate-method` takes them."""
    reduction: str = "mean"
    """Of what microbatches give."""
    decisions: Decisions | None = field(default=None, repr=False)
    """Op by op; None: not known."""
    signature: Signature | None = field(default=None, repr=False)
    """None for a plan from a file."""
    own_mesh: Any = field(default=None, repr=False)
    """The jax Mesh that it was made for; None for a plan from a file."""
    road: Road | None = field(default=None, repr=False, compare=False)
    """The program; None for a plan from a file."""

    @property
    def mesh(self) -> Any:
        """The jax Mesh of its shardings; a plan from a file takes the first devices."""
        return self.choice.mesh

    @cached_property
    def choice(self) -> MeshChoice:
        """Says layouts on the plan's mesh. ValueError where there are too few devices."""
        from .meshes import MeshChoice

        return MeshChoice(self.grid, [self.own_mesh], [])

    @property
    def in_shardings(self) -> Any:
        """A NamedSharding for every array of the positional arguments, as `jax.jit` takes them.

        ValueError for a plan from a file, which knows no pytrees (`shardings_of(*args)` does it),
        and of a function that is called with keyword arguments, for which jax.jit has no shardings.
        """
        signature = self._known_signature("in_shardings")
        found = self._named(self.arguments, signature.argument_ranks)
        positional, keywords = jax.tree.unflatten(signature.arguments, found)
        if keywords:
            raise ValueError("in_shardings: jax.jit has none for keyword arguments")
        return positional

    @property
    def out_shardings(self) -> Any:
        """A NamedSharding for every array of the result. ValueError for a plan from a file."""
        signature = self._known_signature("out_shardings")
        found = self._named(self.results, signature.result_ranks)
        return jax.tree.unflatten(signature.results, found)

    def shardings_of(self, *args: Any) -> Any:
        """`in_shardings` for these arguments, also of a plan from a file. ValueError where they
        are not as many arrays as were planned, or of other shapes or dtypes."""
        leaves, tree = jax.tree.flatten(args)
        if len(leaves) != len(self.arguments):
            raise ValueError(
                f"the plan is for {len(self.arguments)} arrays, the arguments are {len(leaves)}"
            )
        types = self.decisions.inputs if self.decisions is not None else ()
        for value, leaf, type_ in zip_longest(self.arguments, leaves, types):
            _check_planned(value, ArgumentAval(leaf), type_)
        ranks = [np.ndim(leaf) for leaf in leaves]
        return jax.tree.unflatten(tree, self._named(self.arguments, ranks))

    def _known_signature(self, what: str) -> Signature:
        if self.signature is None:
            raise ValueError(
                f"{what}: a plan from a file knows names, not pytrees: take shardings_of(*args)"
            )
        return self.signature

    def _named(self, values: Sequence[PlannedValue], ranks: Sequence[int]) -> list[NamedSharding]:
        return [
            self.choice.boundary_sharding(value.dims[:rank])
            for value, rank in zip(values, ranks, strict=True)
        ]

    def apply(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` with a sharding constraint at every planned value: plain JAX, to be jitted,
        differentiated, mapped. StalePlanError, when it is traced, where it is not the function
        that was planned, and here for a plan of microbatches."""
        from .constrained import constrained

        return constrained(self, fn)

    def explain(self, name: str | None = None) -> Explanations:
        """Why a value is sharded so, and what other choices would cost by the cost model; print it.

        `name` is an argument (`params['w']`, `arg3`), a result (`out0`), a place in the source
        (`model.py:41`) or a part of a name stack; None: every argument, as a table. Of a plan from
        a file, which has no program, arguments and results only, without prices. ValueError for a
        name that means nothing.
        """
        from .explain import explain_plan

        return explain_plan(self, name)

    def view(self, path: str | os.PathLike[str], title: str | None = None) -> None:
        """Writes the plan as a page for a browser, which needs no network: the program as layers,
        what is sharded how, collectives, memory over time. Of a plan from a file, which has no
        program, what the file tells. UsageError where the file cannot be written."""
        from .files import output_path
        from .view.command import view_plan

        view_plan(self, output_path(os.fspath(path)), title)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan to a readable file (JSON)."""
        from .plan_files import save_plan

        save_plan(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Plan:
        """A plan from a file that `save` wrote. ValueError says in a line why it is none, OSError
        (FileNotFoundError, IsADirectoryError) why there is nothing to read."""
        from .plan_files import load_plan

        return load_plan(path)

    @staticmethod
    def of(
        road: Road,
        mesh_of: Callable[[Grid], Any],
        names: Sequence[str] = (),
        results: Sequence[str] = (),
        batch: str = "",
    ) -> Plan:
        """The plan of a program; `mesh_of` gives the jax Mesh of its grid."""
        from .explain import terms_of

        with collect_remarks() as remarks:
            module, decisions = road.decided("spmd")
        plan = Plan.read_off(module, decisions, road.options, names, results)
        mesh = mesh_of(plan.grid)
        try:
            terms = terms_of(road, mesh, module)
        except DiagnosticError:  # a method that needs no cluster runs on more devices than it has
            priced = None
        else:
            with collector_off():
                priced = modelled(module, terms.prices, terms.limit)
        return replace(
            plan,
            modelled=priced,
            own_mesh=mesh,
            batch=batch,
            num_micro_batches=road.num_micro_batches,
            remarks=remarks,
            reduction=road.reduction,
            road=road,
        )

    @staticmethod
    def read_off(
        module: ModuleOp,
        decisions: Decisions,
        options: MethodOptions,
        names: Sequence[str] = (),
        results: Sequence[str] = (),
    ) -> Plan:
        """What a partitioned module says, and the decisions it was made by."""
        func = main_function(module)
        grid = user_grid(module)
        args = func.body.block.args
        last = func.body.block.last_op
        assert last is not None
        labels = names or [f"argument {i}" for i in range(len(args))]
        outs = results or [f"result {i}" for i in range(len(last.operands))]
        entries = func.arg_attrs.data if func.arg_attrs else ()
        res_entries = func.res_attrs.data if func.res_attrs else ()
        arguments = [
            _value(name, kind, entry.data.get(GLOBAL), arg.type, sharding_of(arg), grid)
            for name, arg, entry, kind in zip(
                labels, args, entries, argument_kinds(func), strict=True
            )
        ]
        given = [
            _value(name, "result", entry.data.get(GLOBAL), v.type, result_sharding(func, i), grid)
            for i, (name, v, entry) in enumerate(zip(outs, last.operands, res_entries, strict=True))
        ]
        shared = {result for _, result in aliases(func)}
        fresh = sum(v.local_bytes for i, v in enumerate(given) if i not in shared)
        return Plan(
            "auto" if decisions.searched else options.method,
            grid,
            arguments,
            given,
            list(collectives_of(module)),
            flops_of(module),
            fresh,
            options=options,
            decisions=decisions,
        )

    @property
    def collective_bytes(self) -> float:
        """Ring bytes that a device sends in one run."""
        return sum(c.num_bytes * c.times for c in self.collectives)

    @property
    def argument_bytes(self) -> int:
        """Bytes of a device's arguments."""
        return sum(a.local_bytes for a in self.arguments)

    def shardings(self) -> dict[str, str]:
        """The layout of each argument by its place in the pytree."""
        return {a.name: a.layout for a in self.arguments}

    def __str__(self) -> str:
        axes = " x ".join(f"{name}={size}" for name, size in self.grid.axes)
        lines = [f"method {self.method} on a mesh of {axes}"]
        if self.batch:
            lines.append(f"batch: {self.batch}")
        if self.num_micro_batches > 1:
            lines.append(f"{self.num_micro_batches} microbatches a step")
        lines += ["", "arguments", *_value_rows(self.arguments)]
        lines += ["", "results", *_value_rows(self.results)]
        lines += ["", "collectives (ring bytes a device and run)", *self._collective_rows()]
        lines += ["", "per device and run", *self._device_rows()]
        if self.modelled is not None:
            lines += ["", "by the cost model", *(f"  {line}" for line in self.modelled.lines())]
        if self.remarks:
            lines += ["", "remarks", *self._remark_rows()]
        return "\n".join(lines)

    def _collective_rows(self) -> Iterator[str]:
        totals: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0, 0.0])
        for use in self.collectives:
            total = totals[(use.kind, use.where)]
            total[0] += 1
            total[1] += use.times
            total[2] += use.num_bytes * use.times
        for (kind, where), (count, runs, sent) in sorted(totals.items()):
            often = "" if runs == count else f" ({int(runs)} runs)"
            over = f"over {where}"
            yield f"  {int(count):4} x {kind:16} {over:20} {sent:14,.0f} bytes{often}"
        yield f"  in all {self.collective_bytes:,.0f} bytes"

    def _device_rows(self) -> Iterator[str]:
        yield f"  {self.flops:16,} FLOPs"
        yield f"  {self.argument_bytes:16,} bytes of arguments"
        yield f"  {self.result_bytes:16,} bytes of results beside donated arguments"
        if self.temporary_bytes is not None:
            yield f"  {self.temporary_bytes:16,} bytes of temporaries (XLA)"

    def _remark_rows(self) -> Iterator[str]:
        for text, count in Counter(r.text for r in self.remarks).items():
            yield f"  {text}" + (f" ({count} times)" if count > 1 else "")


def _check_planned(value: PlannedValue, given: ArgumentAval, type_: str | None) -> None:
    """ValueError where an argument has another shape, or another element type than `type_`."""
    known = given.dtype is not None
    is_key = known and is_key_dtype(given.dtype)
    shape = value.shape[: len(given.shape)] if is_key else value.shape
    planned = _ELEMENT.search(type_) if type_ is not None else None
    try:
        own = str(element_type_of_dtype(given.dtype)) if known and not is_key else None
    except UnsupportedElementType:
        own = str(given.dtype)
    if is_key or planned is None:
        own = element = ""
    else:
        element = planned[0]
    if shape != given.shape or own != element:
        kind = f"tensor<{'x'.join([*map(str, value.shape), element or '?'])}>"
        raise ValueError(
            f"{value.name} is {given}, in the plan {kind}: plan for these arguments "
            "(autopar.plan), or pass those that were planned"
        )


def _value(
    name: str,
    kind: str,
    whole: Attribute | None,
    local: Attribute,
    sharding: Sharding | None,
    grid: Grid,
) -> PlannedValue:
    local_shape = shape_of(local)
    shape = shape_of(whole) if whole is not None else local_shape
    return PlannedValue(name, kind, shape, local_shape, num_bytes(local), _dims(sharding, grid))


def _dims(sharding: Sharding | None, grid: Grid) -> tuple[tuple[str, ...], ...]:
    if sharding is None:
        return ()
    found: list[tuple[str, ...]] = []
    for dim in sharding.dim_axes:
        axes = merge_axes([parse_axis(axis.spelled) for axis in dim], grid.axes)
        found.append(tuple(axis.spelled for axis in axes))
    return tuple(found)


def _value_rows(values: Iterable[PlannedValue]) -> Iterator[str]:
    """A row for each value; values whose paths differ in numbers only share one."""
    rows: dict[tuple[str, str, str, str], list[PlannedValue]] = defaultdict(list)
    for value in values:
        shape = "x".join(map(str, value.shape)) or "scalar"
        rows[(without_numbers(value.name), value.kind, shape, value.layout)].append(value)
    table = [
        (
            f"{len(same)} x {pattern}" if len(same) > 1 else same[0].name,
            kind,
            shape,
            layout,
            f"{sum(v.local_bytes for v in same):,} bytes",
        )
        for (pattern, kind, shape, layout), same in rows.items()
    ]
    widths = [max(len(row[column]) for row in table) for column in range(5)] if table else []
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=False)]
        yield "  " + "  ".join([*cells, row[4].rjust(widths[4])])
