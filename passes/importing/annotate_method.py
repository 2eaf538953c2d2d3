"""Pass `annotate-method`: what a parallel method means, written as shardings of arguments."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from .grid_option import check_grid, ensure_grid, require_grid_op
from .methods import MethodName, MethodOptions, annotate_method


@dataclass(frozen=True)
class AnnotateMethodPass(ModulePass):
    """Annotate the arguments and results of @main as a parallel method lays them out.

    Methods: `dp` (batch sharded, the rest replicated), `zero2` (optimizer state sharded over the
    batch axes as well), `zero3` or `fsdp` (parameters too; they are gathered before their uses in
    the forward phase and again in the backward phase), `shard` (the user's own annotations only).

    Needs: a grid (in the module, or `grid=8`); for zero3 also locations, from which the phases are
    read: JAX's `as_text(debug_info=True)`. What an argument is stands in `autopar.kind` and
    `autopar.batch_dim`, or is inferred: aliased or donated arguments are state, of which those that
    only elementwise ops read are optimizer state; other tensors are the batch. Arguments that the
    user annotated keep their sharding. `batch-axis=NAME` restricts the method to one grid axis.

    Guarantees: every argument and result of @main that the method speaks of is annotated.
    """

    name = "annotate-method"

    method: MethodName = "dp"
    """The method."""
    grid: str | None = None
    """The grid of a module that declares none, as 2x4."""
    axis_names: tuple[str, ...] | None = None
    """Names of the axes of `grid` (x,y,z)."""
    batch_axis: str | None = None
    """The only axis that the method uses; all axes where absent."""
    small_tensor_elements: int = MethodOptions.small_tensor_elements
    """Tensors with fewer elements stay whole."""

    def __post_init__(self) -> None:
        check_grid(self.grid, self.axis_names)
        self._options()

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        ensure_grid(op, self.grid, self.axis_names)
        require_grid_op(op, self.name, self.name)
        annotate_method(op, self._options())

    def _options(self) -> MethodOptions:
        return MethodOptions(self.method, self.batch_axis, self.small_tensor_elements)
