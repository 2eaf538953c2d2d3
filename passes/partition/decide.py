"""Deciding, op by op, how each is split, and making reshardings explicit.

One walk in program order. For every value the walk knows where it lies (its spec); for every op it
chooses the strategy that moves the fewest bytes (strategy.py), reshards the operands that lie
elsewhere and resolves partial results, each once, where it is cheapest. What is read and written on
the way has files of its own:

- survey.py: what the module holds, found in one walk before;
- hints.py: ops that only speak to propagation, dropped first;
- grid_refinement.py: the axes that specs speak of;
- decisions.py: the strategy of an op, and what has to be moved for it;
- special.py: which factors of an op can be split;
- strategy.py: the strategies that come into question, and the cheapest of them;
- value_specs.py: where values lie, and where the program says that they are to;
- partials.py: which partial values stay partial through an op or a loop; anything else is resolved
  where it is made, straight to the sharding that the value is to have (so a sharded one is
  reduce-scattered);
- reshard_plan.py: the collectives from one spec to another, and what they cost;
- resharder.py: the reshards themselves;
- unruled.py: ops without a rule, and what is said of them;
- regions.py: loops, branches and manual computations.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

from xdsl.dialects.builtin import DenseArrayBase, ModuleOp
from xdsl.dialects.func import CallOp, FuncOp
from xdsl.ir import Block, Operation

from autopar.dialects.autopar import (
    AGAIN,
    FREE_EARLY,
    SHARDING,
    STRATEGY,
    forbid_collectives,
    forbidden_collectives,
    set_arg_shardings,
    set_result_shardings,
)
from autopar.dialects.diagnostics import remark
from autopar.dialects.rules.access import op_label, operands_of
from autopar.dialects.shard import ShardOp
from autopar.dialects.tensors import is_splittable
from autopar.passes.importing.annotations import STATED
from autopar.passes.importing.grid_option import require_grid_op
from autopar.passes.importing.inline import inline
from autopar.passes.importing.shard_ops_to_attributes import shard_ops_to_attributes

from .decisions import Decisions
from .grid_refinement import refine_grid, refinement
from .hints import drop_propagation_ops, has_propagation_ops
from .partials import Partials
from .regions import RegionDecider
from .reshard_plan import ReshardPlanner
from .resharder import Resharder
from .specs import AxisTable, Spec
from .splats import CONSTANTS, splat_of
from .survey import survey
from .unruled import tell_late, tell_unruled
from .value_specs import ValueSpecs


def insert_reshards(module: ModuleOp) -> None:
    """Decides the whole module in place (see the pass)."""
    grid_op = require_grid_op(module, "insert-reshards")
    found = survey(module, STATED)
    if found.holds(CallOp, ShardOp) or has_propagation_ops(found):
        inline(module)  # Local shapes differ from call to call.
        shard_ops_to_attributes(module)  # Either spelling is taken.
        drop_propagation_ops(module)
        found = survey(module, STATED)
    table = refinement(module, found, grid_op.to_grid())
    for op in module.ops:
        if isinstance(op, FuncOp) and op.body.blocks:
            FunctionDecider(op, table).run()
    refine_grid(module, grid_op, table)


class FunctionDecider:
    """Decides one function: walks it, and chooses the strategy of each op."""

    def __init__(self, func: FuncOp, table: AxisTable) -> None:
        self._func = func
        self._table = table
        planner = ReshardPlanner(table)
        self._specs = ValueSpecs(table)
        self._partials = Partials(self._specs)
        self._reshards = Resharder(
            self._specs,
            self._partials,
            planner,
            frees_early=FREE_EARLY in func.attributes,
            without=forbidden_collectives(func),
        )
        forbid_collectives(func, ())
        self._decisions = Decisions(self._specs, self._partials, planner)
        regions = RegionDecider(self._specs, self._partials, self._reshards, self._block)
        self._handlers: dict[str, Callable[[Any], None]] = {
            **regions.handlers(),
            "autopar.constraint": self._reshards.constrain,
            "autopar.reshard": self._reshards.constrain,
            **dict.fromkeys(CONSTANTS, self._constant),
            "stablehlo.optimization_barrier": self._barrier,
        }
        """Ops that are decided in another way than by their sharding rule."""
        self._replicated: list[Operation] = []
        self._has_shardings = False
        """Whether any op says where its results lie, as all do behind propagation."""
        self._late: list[Operation] = []
        """Ops that do not say it, and read values that lie split."""

    # ---- the walk ----

    def run(self) -> None:
        func, specs = self._func, self._specs
        entry = func.body.block
        for arg, spec in zip(
            entry.args, specs.at_boundary(func.arg_attrs, entry.args), strict=True
        ):
            if spec is None or not is_splittable(arg.type):
                spec = specs.replicated(arg)
            specs.of[arg] = spec.with_partial(())
        self._block(entry)
        terminator = entry.last_op
        assert terminator is not None
        returned = operands_of(terminator)
        wanted: list[Spec] = []
        stated = specs.at_boundary(func.res_attrs, returned)
        for index, (value, spec) in enumerate(zip(returned, stated, strict=True)):
            if spec is None:
                spec = specs.resolved(value)
            wanted.append(spec)
            if specs.of[value] != spec:
                self._reshards.bring(terminator, index, spec)
        tell_unruled(self._replicated, self._table.grid.num_devices)
        if self._has_shardings:
            tell_late(self._late, self._table.grid.num_devices)
        set_arg_shardings(func, [self._table.sharding(specs.of[arg]) for arg in entry.args])
        set_result_shardings(func, [self._table.sharding(spec) for spec in wanted])

    def _block(self, block: Block) -> None:
        """Decides the ops of a block; its terminator belongs to whoever asks for the walk."""
        handlers, compute = self._handlers, self._compute
        op = block.first_op
        while op is not None:
            following = op._next_op  # pyright: ignore[reportPrivateUsage]
            if following is not None or op.results:
                handlers.get(op.name, compute)(op)
            op = following

    # ---- ops ----

    def _compute(self, op: Operation) -> None:
        """Any op with a sharding rule; the others are replicated."""
        attributes = op.attributes
        if SHARDING in attributes:
            self._has_shardings = True
        elif any(any(self._specs.of[value].dims) for value in operands_of(op)):
            self._late.append(op)
        again = attributes.pop(AGAIN, None)
        decision = self._decisions.of(op)
        if decision is None:
            self._replicate(op)
            return
        apart: Container[int] = ()
        if again is not None and isinstance(again, DenseArrayBase):
            apart = again.get_values()
        for index, spec in decision.moved:
            if index not in apart:
                self._reshards.bring(op, index, spec)
        for index, spec in decision.moved if apart else ():
            if index in apart:
                self._reshards.bring_again(op, index, spec)
        if decision.gathered:
            self._remark_gathered(op, decision.gathered)
        attributes[STRATEGY] = decision.strategy
        attributes[SHARDING] = decision.shardings
        spec_of = self._specs.of
        for result, spec in zip(op.results, decision.results, strict=True):
            spec_of[result] = spec
        if decision.wanted:
            self._reshards.bring_results(op, decision.results, decision.wanted)

    def _constant(self, op: Operation) -> None:
        """A splat is the same under any sharding; other constants are made whole and sliced."""
        (result,) = op.results
        wanted = self._specs.annotated(result)
        if not any(wanted.dims) or splat_of(result) is not None:
            self._specs.record(op, [wanted])
            return
        natural = self._specs.replicated(result)
        self._specs.record(op, [natural])
        self._reshards.bring_results(op, [natural], [wanted])

    def _barrier(self, op: Operation) -> None:
        """Each operand passes through to a result: it is brought to where that is to lie."""
        specs = [self._specs.annotated(r) for r in op.results]
        for index, spec in enumerate(specs):
            self._reshards.bring(op, index, spec)
        self._specs.record(op, specs)

    def _replicate(self, op: Operation) -> None:
        """An op that cannot be split: whole operands in, whole results out."""
        self._replicated.append(op)
        for index, value in enumerate(op.operands):
            self._reshards.bring(op, index, self._specs.replicated(value))
        wanted = [self._specs.annotated(r) for r in op.results]
        natural = [self._specs.replicated(r) for r in op.results]
        if op.results:
            self._specs.record(op, natural)
            self._reshards.bring_results(op, natural, wanted)

    # ---- remarks ----

    def _remark_gathered(self, op: Operation, gathered: Iterable[tuple[int, int, int]]) -> None:
        for index, dim, size in gathered:
            remark(
                op,
                f"{op_label(op)} cannot keep dimension {dim} of operand {index} sharded: "
                f"it is gathered ({size} bytes a device)",
            )
