"""The road of one program: from an in-memory StableHLO module to a per-device program.

A `Road` keeps the native module and what was asked for; each level of the IR is made by running the
passes of `passes/pipelines.py` on a fresh import, so that any level can be shown at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    i32,
    i64,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute

from autopar.dialects import make_context
from autopar.dialects.autopar import (
    ALIASING_OUTPUT,
    entries_of,
    set_arg_shardings,
    set_result_sharding,
    sharding_of,
)
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sdy import Mesh, MeshOp
from autopar.dialects.shard import find_grid
from autopar.dialects.sharding import AxisRef, DimSharding, Grid, Sharding
from autopar.lowering.importer import import_module
from autopar.lowering.program import DeviceProgram, device_program
from autopar.passes.collector import collector_off
from autopar.passes.importing.methods import (
    BATCH_DIM,
    KIND,
    KINDS,
    MethodOptions,
    annotate_method,
    main_function,
    state_kind,
)
from autopar.passes.importing.phases import PhaseNames
from autopar.passes.manager import run_passes
from autopar.passes.partition.even_boundary import make_boundary_even
from autopar.passes.pipelines import DECIDE, IMPORT, LOWER, PARTITION, PROPAGATE
from autopar.passes.pipelining.microbatches import split_step

from .dump import Dump
from .plugins import load_installed_plugins

LEVELS = ("stablehlo", "sharded", "decided", "spmd", "per-device")


@dataclass(frozen=True)
class ArgumentInfo:
    """What `parallelize` knows of one flat argument."""

    kind: str
    """`state` (parameter or optimizer state, told apart by what reads it), `batch` or `other`."""
    batch_dim: int = 0
    alias: int | None = None
    """The result whose buffer it shares (donation)."""
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

    def at(self, level: str) -> ModuleOp:
        """The program at a level of the design; ValueError names the levels."""
        if level not in LEVELS:
            raise ValueError(f"level {level!r} is unknown; levels: {', '.join(LEVELS)}")
        with collector_off():
            return self._at(level)

    def _at(self, level: str) -> ModuleOp:
        load_installed_plugins()
        module = import_module(self.native)
        context = make_context()
        stop = LEVELS.index(level)
        dump = Dump(module, context) if level == "per-device" else None
        _dump(dump, 0, module)
        if stop >= 1:
            self._annotate(module, context)
            run_passes(module, PROPAGATE, context)
            make_boundary_even(main_function(module), _grid(module))
            _dump(dump, 1, module)
        for number, passes in ((2, DECIDE), (3, PARTITION), (4, LOWER)):
            if stop >= number:
                run_passes(module, passes, context)
                _dump(dump, number, module)
        return module

    def program(self) -> DeviceProgram:
        """The program for one device."""
        return device_program(self.at("per-device"))

    def _annotate(self, module: ModuleOp, context: Context) -> None:
        if self.grid is not None:
            declare_mesh(module, self.grid)
        run_passes(module, IMPORT, context)
        self._describe_arguments(main_function(module))
        split_step(module, self.num_micro_batches, self.reduction)
        func = main_function(module)
        self._place_boundary(func, _grid(module))
        annotate_method(module, self.options)

    def _describe_arguments(self, func: FuncOp) -> None:
        """Writes kinds and aliases as the attributes that passes read."""
        args = func.body.block.args
        phases = PhaseNames()
        entries = entries_of(func.arg_attrs, len(args))
        kinds = {kind: StringAttr(kind) for kind in KINDS}
        for index, (arg, info) in enumerate(zip(args, self.arguments, strict=True)):
            kind = state_kind(arg, phases) if info.kind == "state" else info.kind
            data: dict[str, Attribute] = {**entries[index].data, KIND: kinds[kind]}
            if info.kind == "batch":
                data[BATCH_DIM] = IntegerAttr(info.batch_dim, i64)
            if info.alias is not None:
                data[ALIASING_OUTPUT] = IntegerAttr(info.alias, i32)
            entries[index] = DictionaryAttr(data)
        func.properties["arg_attrs"] = ArrayAttr(entries)

    def _place_boundary(self, func: FuncOp, grid: Grid) -> None:
        args = func.body.block.args
        shardings = [
            sharding_of(arg) if info.axes is None else _sharding(func, grid, info.axes)
            for arg, info in zip(args, self.arguments, strict=True)
        ]
        set_arg_shardings(func, shardings)
        for index, axes in self.result_axes.items():
            set_result_sharding(func, index, _sharding(func, grid, axes))


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


def _dump(dump: Dump | None, number: int, module: ModuleOp) -> None:
    if dump is not None:
        dump.write(LEVELS[number], module)


def _grid(module: ModuleOp) -> Grid:
    grid = find_grid(module)
    assert grid is not None
    return grid
