"""From a JAX function to jaxlib's in-memory module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xdsl.dialects.builtin import ModuleOp

from .importer import import_module
from .jax_compat import lowering_details


@dataclass(frozen=True)
class LoweredJax:
    """A lowered `jax.jit` function."""

    module: Any
    """jaxlib's in-memory module; @main has the kept arguments only."""
    lowered: Any
    """JAX's own object: in_tree, out_tree, args_info, out_info."""
    kept_arguments: tuple[int, ...]
    """For each argument of @main, its index among the flattened arguments."""

    def import_module(self) -> ModuleOp:
        """The module in our IR."""
        return import_module(self.module)


def lower_jax(jitted: Any, *args: Any, **kwargs: Any) -> LoweredJax:
    """Trace and lower a jitted function for these (concrete or abstract) arguments."""
    lowered = jitted.lower(*args, **kwargs)
    module = lowered.compiler_ir("stablehlo")
    kept = lowering_details(lowered).get("kept_var_idx")
    arguments = len(_main(module).regions[0].blocks[0].arguments)
    indices = tuple(range(arguments)) if kept is None else tuple(sorted(kept))
    return LoweredJax(module, lowered, indices)


def _main(module: Any) -> Any:
    for op in module.body.operations:
        attributes = op.operation.attributes
        if "sym_name" in attributes and attributes["sym_name"].value == "main":
            return op.operation
    raise ValueError("the lowered module has no @main")
