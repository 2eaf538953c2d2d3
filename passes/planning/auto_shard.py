"""Pass `auto-shard`: the shardings of a program, chosen by the cost model."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation
from xdsl.passes import ModulePass

from autopar.dialects.autopar import refuse_partitioned
from autopar.dialects.diagnostics import DiagnosticError, remark
from autopar.dialects.rules.access import op_label
from autopar.dialects.shard import user_grid
from autopar.dialects.tensors import is_splittable, is_tensor
from autopar.passes.cost.cluster import MOST_BYTES, Cluster, ClusterError, read_cluster
from autopar.passes.cost.prices import CostModel, check_overrides
from autopar.passes.entry import main_function
from autopar.passes.importing.annotations import take_annotations
from autopar.passes.importing.arguments import remark_unknown_kinds
from autopar.passes.importing.grid_option import check_grid, ensure_grid, require_grid_op
from autopar.passes.importing.state import tie_donors
from autopar.passes.solver.problem import Problem, ProblemError, write_problem
from autopar.passes.solver.registry import UnknownSolverError, guarded_solver
from autopar.passes.solver.solve import Plugin, SolveOptions

from .demands import Demands
from .planner import Planned, make_plan
from .report import check_report, report_of, table_of, write_report

_SIZE = re.compile(r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*([KMGT]i?)?B?$")
_UNITS = {
    None: 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip


def parse_bytes(given: int | str) -> int:
    """A number of bytes from a number, `16GiB`, `1.5GB`, `80e9`. ValueError for anything else."""
    found = _SIZE.match(str(given).strip())
    size = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= size <= MOST_BYTES:
        raise ValueError(
            f"memory-per-device={given}: expected bytes, as in 16GiB, 1.5GB or 80e9, from 1 to "
            f"{MOST_BYTES:.0e}"
        )
    return int(size)


@dataclass(frozen=True)
class Terms:
    """What plans are judged by."""

    prices: CostModel
    limit: int
    """Bytes of a device."""
    demands: Demands


@dataclass(frozen=True)
class AutoShardPass(ModulePass):
    """Choose how every value and op is split, so that a step takes least time by the cost model.

    Needs: a grid (in the module, or `grid=2x4 axis-names=x,y`), calls inlined (inline). The program
    is @main, or the only public function; its shardings and constraints are binding.

    Guarantees: every value has a sharding and every op with several operands its strategy, the
    cheapest together that the search finds; after shard-partition, optimize-collectives and
    free-early the program needs no more memory on a device than `memory-per-device`, or an error
    says what the thriftiest plan that was tried needs. A remark tells how far from the optimum the
    plan may be.
    The same input and options give the same plan.
    """

    name = "auto-shard"

    grid: str | None = None
    """The grid of a module that declares none, as 2x4."""
    axis_names: tuple[str, ...] | None = None
    """Names of the axes of `grid` (x,y,z)."""
    cluster: str = "8xh100"
    """The devices and links: a preset or a TOML file."""
    alpha: tuple[float, ...] | None = None
    """Seconds a message, for each axis of the grid or once for all, in place of the cluster's."""
    beta: tuple[float, ...] | None = None
    """Seconds a byte of ring traffic, for each axis of the grid or once for all, in place of the
    cluster's."""
    objective: Literal["time", "communication"] = "time"
    """What is least: the time of a step, or of its collectives alone."""
    memory_per_device: int | str | None = None
    """Arguments, results and temporaries of a device at most, as 16GiB; the cluster's memory."""
    allow_all_gather: bool = Demands.allow_all_gather
    """Whether plans may use all-gathers."""
    allow_all_to_all: bool = Demands.allow_all_to_all
    """Whether plans may use all-to-alls."""
    allow_replicated_parameters: bool = Demands.allow_replicated_parameters
    """Whether parameters and optimizer state may be whole on every device."""
    allow_replicated_compute: bool = Demands.allow_replicated_compute
    """Whether two devices may do the same FLOPs of a dot or convolution."""
    flatten_axes: bool = Demands.flatten_axes
    """Whether several axes may split one dimension."""
    force_data_parallel: bool = Demands.force_data_parallel
    """Split every batch over the batch axes, and keep parameters whole."""
    batch_axis: str | None = Demands.batch_axis
    """The axis that the batch dimension of every batch argument lies on; absent: all axes, where
    another option speaks of them."""
    zero: Literal[0, 2, 3] | None = Demands.zero
    """Split over the batch axes: 0 nothing, 2 optimizer state, 3 parameters too; absent: free."""
    prefer_reduce_scatter: bool = Demands.prefer_reduce_scatter
    """Scatter the sums of gradients (ZeRO) rather than all-reduce them, where the state that they
    update may lie split."""
    time_limit: float = 60.0
    """Seconds of one call of the solver, of which a plan may need several; the work of each is
    limited, too, to about 3 seconds."""
    seed: int = 0
    """Of the solver's random numbers."""
    solver: str | None = None
    """A registered plug-in that solves in place of our own; its answers are checked."""
    problem: str | None = None
    """A JSON file to write the planning problem to, for `autopar solve`."""
    report: str | None = None
    """A JSON file to write what was planned to."""

    def __post_init__(self) -> None:
        check_grid(self.grid, self.axis_names)
        SolveOptions(self.time_limit, self.seed)
        check_overrides(self.alpha, self.beta)
        self._demands()
        if self.memory_per_device is not None:
            parse_bytes(self.memory_per_device)

    def _demands(self) -> Demands:
        chosen: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(Demands)}
        return Demands(**chosen)

    def remark_kinds(self, module: ModuleOp) -> None:
        """A remark where options are about parameters, state or the batch alone, and nothing says
        which arguments are what."""
        given = {
            "batch-axis": self.batch_axis is not None,
            "zero": self.zero is not None,
            "force-data-parallel": self.force_data_parallel,
            "allow-replicated-parameters": not self.allow_replicated_parameters,
            "prefer-reduce-scatter": self.prefer_reduce_scatter,
        }
        names = [name for name, is_given in given.items() if is_given]
        if names:
            remark_unknown_kinds(main_function(module), f"{self.name}: {', '.join(names)}")

    def terms(self, module: ModuleOp) -> Terms:
        """What the options come to on the grid of a module."""
        try:
            cluster = read_cluster(self.cluster)
            prices = CostModel.of(cluster, user_grid(module), self.alpha, self.beta, self.objective)
        except ClusterError as error:
            raise DiagnosticError(module, f"auto-shard: {error}") from None
        return Terms(prices, self.limit(cluster), self._demands())

    def limit(self, cluster: Cluster | None = None) -> int:
        """Bytes of a device at most, of a cluster that was read or has yet to be."""
        if self.memory_per_device is not None:
            return parse_bytes(self.memory_per_device)
        return (cluster or read_cluster(self.cluster)).device.memory_bytes

    def plan(self, ctx: Context, module: ModuleOp) -> tuple[Planned, Terms]:
        """Searches a plan and writes it into a module."""
        refuse_partitioned(module, self.name)
        ensure_grid(module, self.grid, self.axis_names)
        require_grid_op(module, self.name, self.name)
        _refuse_dynamic(module)
        take_annotations(module)
        tie_donors(main_function(module))
        self.remark_kinds(module)
        if self.report is not None:
            check_report(module, self.report)
        terms = self.terms(module)
        plugin = None if self.solver is None else _solver(module, self.solver)
        keep = None if self.problem is None else partial(_write_problem, module, self.problem)
        options = SolveOptions(self.time_limit, self.seed)
        try:
            planned = make_plan(
                module, ctx, terms.prices, options, terms.limit, terms.demands, plugin, keep
            )
        except ProblemError as error:
            if plugin is None:  # a bug of ours
                raise
            raise DiagnosticError(module, f"auto-shard: solver={self.solver}: {error}") from error
        if self.report is not None:
            planned = planned.partitioned(module, ctx, terms.prices)
            report = report_of(module, planned, terms.limit)
            write_report(module, report, self.report)
            remark(main_function(module), f"auto-shard:\n{table_of(report)}")
        return planned, terms

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        self.plan(ctx, op)


def _refuse_dynamic(module: ModuleOp) -> None:
    """DiagnosticError where a value has a shape that is not known: it has no bytes to count."""

    def check(op: Operation, what: str, type: Attribute) -> None:
        if is_tensor(type) and not is_splittable(type):
            raise DiagnosticError(
                op, f"auto-shard: {what} is a {type}: write sizes in the place of ?"
            )

    for op in module.walk():
        if isinstance(op, FuncOp):
            for index, type in enumerate(op.function_type.inputs.data):
                check(op, f"argument {index} of @{op.sym_name.data}", type)
        for result in op.results:
            check(op, f"the result of {op_label(op)}", result.type)


def _solver(module: ModuleOp, name: str) -> Plugin:
    """A registered solver; DiagnosticError where there is none."""
    try:
        return guarded_solver(name)
    except UnknownSolverError as error:
        raise DiagnosticError(module, f"auto-shard: {error}") from None


def _write_problem(module: ModuleOp, path: str, problem: Problem) -> None:
    try:
        write_problem(problem, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiagnosticError(module, f"auto-shard: problem={path}: {reason}") from None
