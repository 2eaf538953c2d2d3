"""The road of one program: from an in-memory StableHLO module to a per-device program.

A `Road` keeps the native module and what was asked for; each level of the IR is made by running the
passes of `passes/pipelines.py` on a fresh import, so that any level can be shown at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    FileLineColLoc,
    IntAttr,
    ModuleOp,
    StringAttr,
    UnitAttr,
    i32,
    i64,
)
from xdsl.dialects.func import FuncOp
from xdsl.passes import ModulePass

from autopar.dialects import make_context
from autopar.dialects.autopar import (
    ALIASING_OUTPUT,
    BATCH_DIM,
    KIND,
    NEXT,
    OWN_SIZES,
    arg_shardings,
    entries_of,
    result_shardings,
    set_arg_shardings,
    set_result_sharding,
)
from autopar.dialects.diagnostics import (
    Diagnostic,
    DiagnosticError,
    collect_remarks,
    emit,
    user_frame,
)
from autopar.dialects.rules.registry import load_families
from autopar.dialects.sdy import Mesh, MeshOp
from autopar.dialects.shard import grid_of
from autopar.dialects.sharding import AxisRef, DimSharding, Grid, Sharding
from autopar.dialects.tensors import shape_of
from autopar.dialects.unverified import dictionary, integer_attr
from autopar.lowering.importer import import_module
from autopar.lowering.program import DeviceProgram, device_program
from autopar.passes import load_pass
from autopar.passes.collector import collector_off
from autopar.passes.entry import main_function
from autopar.passes.importing.annotate_method import AnnotateMethodPass
from autopar.passes.importing.arguments import (
    KINDS,
    state_kind,
)
from autopar.passes.importing.methods import MethodOptions
from autopar.passes.importing.phases import PhaseNames
from autopar.passes.manager import run_passes
from autopar.passes.pipelines import IMPORT, LEVELS, PROPAGATE
from autopar.passes.pipelining.microbatches import check_result_shapes
from autopar.passes.pipelining.split_step import SplitStepPass

from .decisions import Decisions, Recorder
from .dump import Dump
from .plugins import load_installed_plugins
from .terminal import passes_shown

if TYPE_CHECKING:
    from autopar.passes.planning.auto_shard import AutoShardPass

LAST_LEVEL = "per-device"
_UNDECIDED = "undecided"
"""A level of its own, inside "sharded"."""

# Every program takes them: loaded with this module, they are not waited for in its first compile.
load_families()
for _name in chain(*LEVELS.values()):
    load_pass(_name)


@dataclass(frozen=True)
class ArgumentInfo:
    """What `parallelize` knows of one flat argument."""

    kind: str
    """`state` (parameter or optimizer state, told apart by what reads it), `batch` or `other`."""
    batch_dim: int = 0
    alias: int | None = None
    """The result whose buffer it shares (donation)."""
    next: int | None = None
    """The result that is its next value, -1: none does; None: not looked for."""
    axes: tuple[tuple[str, ...], ...] | None = None
    """The mesh axes of each dimension where the module itself could not say it (a microbatch that
    is too small for them)."""


@dataclass
class Road:
    """One program and how it is to be partitioned."""

    native: Any
    """The StableHLO module, as jaxlib's in-memory object."""
    arguments: Sequence[ArgumentInfo]
    grid: Grid | None
    """The mesh asked for; None: the module's own."""
    options: MethodOptions
    num_micro_batches: int = 1
    reduction: str = "mean"
    """How gradients and float scalars of microbatches are put together: mean or sum."""
    result_axes: Mapping[int, tuple[tuple[str, ...], ...]] = field(
        default_factory=dict[int, tuple[tuple[str, ...], ...]]
    )
    """As `ArgumentInfo.axes`, of results."""
    result_shapes: Sequence[tuple[int, ...] | None] | None = None
    """The shapes of the whole batch's results (None: not known), where there are microbatches."""
    sizes_known: bool = True
    """Whether a microbatch's program tells all that comes of the batch's size."""
    planner: AutoShardPass | None = None
    """What decides in the place of propagation."""
    decisions: Decisions | None = None
    """A plan to be used again, without a search."""
    place: tuple[str, int] | None = None
    """File and line of the user's function, which JAX does not tell."""
    keys: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())
    """Arguments and results that are PRNG keys: a search keeps their words whole, since a sharding
    of the key has no place for them."""
    _found: Decisions | None = field(default=None, init=False, repr=False)
    """What the search decided, once it ran: one search serves all levels and the plan."""
    _said: list[Diagnostic] = field(default_factory=list[Diagnostic], init=False, repr=False)
    """What it had to say, which belongs to all of these."""

    def at(self, level: str) -> ModuleOp:
        """The program at a level (README.md, the road a program travels); ValueError names them."""
        if level not in LEVELS:
            raise ValueError(f"level {level!r} is unknown; levels: {', '.join(LEVELS)}")
        with collector_off():
            return self._at(level)

    def decided(self, level: str) -> tuple[ModuleOp, Decisions]:
        """The program at a level that comes after deciding, and what was decided."""
        recorder = Recorder()
        with collector_off():
            module = self._at(level, recorder)
        assert recorder.decisions is not None, "the level comes before deciding"
        return module, recorder.decisions

    def undecided(self) -> ModuleOp:
        """The program as it is when all is known of its arguments, and nothing decided yet."""
        with collector_off():
            return self._at(_UNDECIDED)

    def _at(self, level: str, recorder: Recorder | None = None) -> ModuleOp:
        load_installed_plugins()
        module = import_module(self.native)
        self._place(main_function(module))
        context = make_context()
        passes = self._passes_with_options()
        if recorder is None and self.planner is not None and self._found is None:
            recorder = Recorder()
        dump = Dump(module, context) if level == LAST_LEVEL else None
        for name, pass_names in LEVELS.items():
            for pass_name in pass_names:
                self._prepare(pass_name, module)
                if pass_name == PROPAGATE[0] and level == _UNDECIDED:
                    return module
                if pass_name == PROPAGATE[0]:
                    self._decide(module, context, passes.get(pass_name, pass_name), recorder)
                else:
                    run_passes(module, [passes.get(pass_name, pass_name)], context)
                if pass_name == IMPORT[-1]:
                    self._imported(module, recorder)
                if pass_name == SplitStepPass.name and self.result_shapes is not None:
                    check_result_shapes(main_function(module), self.result_shapes)
            if dump is not None:
                dump.write(name, module)
            if name == level:
                break
        return module

    def _place(self, func: FuncOp) -> None:
        if self.place is not None and user_frame(func.location) is None:
            filename, line = self.place
            func.location = FileLineColLoc(StringAttr(filename), IntAttr(line), IntAttr(1))

    def _imported(self, module: ModuleOp, recorder: Recorder | None) -> None:
        if self.decisions is not None:
            self.decisions.check_program(module)
        if recorder is not None:
            recorder.imported(module)

    def _decide(
        self, module: ModuleOp, context: Context, how: ModulePass | str, recorder: Recorder | None
    ) -> None:
        """Propagation, a search, or what a plan says already."""
        if recorder is not None:
            recorder.before(module)
        if self.decisions is not None:
            self.decisions.check_boundary(module)
        reused = self.decisions or self._found
        if reused is not None and reused.searched:
            reused.write(module)
        else:
            with passes_shown("autopar"), collect_remarks() as self._said:
                run_passes(module, [how], context)
        if reused is None or reused is self._found:
            for said in self._said:
                emit(said)
        if recorder is not None:
            was_searched = self.planner is not None if reused is None else reused.searched
            recorder.after(module, was_searched)
            self._found = recorder.decisions if was_searched else None

    def _passes_with_options(self) -> dict[str, ModulePass]:
        """The passes that have options on this road, by name."""
        reduction: Any = self.reduction  # the passes check these two
        method: Any = self.options.method
        made = (
            SplitStepPass(self.num_micro_batches, reduction),
            AnnotateMethodPass(
                method,
                batch_axis=self.options.batch_axis,
                small_tensor_elements=self.options.small_tensor_elements,
            ),
        )
        passes: dict[str, ModulePass] = {pass_.name: pass_ for pass_ in made}
        if self.planner is not None:
            passes[PROPAGATE[0]] = self.planner
        return passes

    def _prepare(self, pass_name: str, module: ModuleOp) -> None:
        """Writes into the module what a pass is to read and only `parallelize` knows."""
        if pass_name == "import-sdy" and self.grid is not None:
            declare_mesh(module, self.grid)
        elif pass_name == SplitStepPass.name:
            self._describe_arguments(main_function(module))
        elif pass_name == AnnotateMethodPass.name:
            self._place_boundary(main_function(module), grid_of(module))

    def program(self) -> DeviceProgram:
        """The program for one device."""
        return device_program(self.at(LAST_LEVEL))

    def _describe_arguments(self, func: FuncOp) -> None:
        """Writes kinds and aliases as the attributes that passes read."""
        args = func.body.block.args
        phases = PhaseNames()
        entries = entries_of(func.arg_attrs, len(args))
        kinds = {kind: StringAttr(kind) for kind in KINDS}
        for index, (arg, info) in enumerate(zip(args, self.arguments, strict=True)):
            kind = state_kind(arg, phases) if info.kind == "state" else info.kind
            data = dict(entries[index].data.items())
            data[KIND] = kinds[kind]
            if info.kind == "batch":
                data[BATCH_DIM] = integer_attr(info.batch_dim, i64)
            if info.next is not None:
                data[NEXT] = integer_attr(info.next, i32)
            if info.alias is not None:
                data[ALIASING_OUTPUT] = integer_attr(info.alias, i32)
            entries[index] = dictionary(data)
        func.properties["arg_attrs"] = ArrayAttr(entries)
        if not self.sizes_known:
            func.attributes[OWN_SIZES] = UnitAttr()

    def _place_boundary(self, func: FuncOp, grid: Grid) -> None:
        shardings = arg_shardings(func)
        for index, info in enumerate(self.arguments):
            if info.axes is not None:
                shardings[index] = _sharding(func, grid, info.axes)
        if any(info.axes is not None for info in self.arguments):
            set_arg_shardings(func, shardings)
        if self.planner is not None or (self.decisions is not None and self.decisions.searched):
            self._keep_keys_whole(func, grid)
        for index, axes in self.result_axes.items():
            set_result_sharding(func, index, _sharding(func, grid, axes))

    def _keep_keys_whole(self, func: FuncOp, grid: Grid) -> None:
        arguments, results = self.keys
        types = func.function_type
        given = arg_shardings(func)
        for index in arguments:
            if given[index] is None:
                rank = len(shape_of(types.inputs.data[index]))
                given[index] = _sharding(func, grid, [()] * rank)
        if arguments:
            set_arg_shardings(func, given)
        for index in results:
            if result_shardings(func)[index] is None:
                rank = len(shape_of(types.outputs.data[index]))
                set_result_sharding(func, index, _sharding(func, grid, [()] * rank))


def _sharding(func: FuncOp, grid: Grid, axes: Sequence[Sequence[str]]) -> Sharding:
    for name in (name for dim in axes for name in dim):
        if name not in grid.sizes:
            raise DiagnosticError(
                func,
                f"the batch is on mesh axis {name!r}, the program's mesh has the axes "
                f"{', '.join(grid.axis_names)}: use one mesh",
            )
    return Sharding(
        grid.name, tuple(DimSharding(tuple(AxisRef(name) for name in dim)) for dim in axes)
    )


def declare_mesh(module: ModuleOp, grid: Grid) -> None:
    """Adds the mesh to a program that was written without one.

    JAX declares meshes of one device for callbacks and random bits: these are no mesh to run on.
    """
    if not any(isinstance(op, MeshOp) and op.mesh.data.num_devices > 1 for op in module.ops):
        name = "mesh"
        while any(isinstance(op, MeshOp) and op.sym_name.data == name for op in module.ops):
            name += "_"
        block = module.body.block
        assert block.first_op is not None
        block.insert_op_before(MeshOp(name, Mesh(grid.axes)), block.first_op)
