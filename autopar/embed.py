"""Our passes on modules of other compilers, in memory."""

from __future__ import annotations

from typing import Any, cast


def apply(module: Any, pipeline: str) -> Any:
    """Run passes over one of jaxlib's in-memory modules and give a new one.

        module = jax.jit(step).lower(*args).compiler_ir("stablehlo")
        per_device = autopar.apply(module, "sharding-propagation,shard-partition{grid=2x4}")

    `pipeline` is a pipeline text as `autopar-opt` takes it. An xDSL module is changed in place and
    returned. Wrong pipelines raise PipelineError, wrong programs DiagnosticError.
    """
    from xdsl.dialects.builtin import ModuleOp

    from .dialects import make_context
    from .passes.manager import build_pipeline, run_passes
    from .plugins import load_installed_plugins

    if not isinstance(module, ModuleOp) and not hasattr(module, "operation"):
        raise TypeError(
            f"apply expects a module in memory, got {type(module).__name__}: give "
            'jax.jit(f).lower(*args).compiler_ir("stablehlo"), or '
            "autopar.lowering.parse.parse_module(text) of MLIR text"
        )
    if not isinstance(cast(object, pipeline), str):
        raise TypeError(
            f"apply expects a pipeline text, as 'inline,cse', got {type(pipeline).__name__}"
        )
    load_installed_plugins()
    passes = build_pipeline(pipeline)
    context = make_context()
    if isinstance(module, ModuleOp):
        run_passes(module, passes, context)
        return module
    from .lowering.exporter import export_module
    from .lowering.importer import import_module

    imported = import_module(module, context)
    run_passes(imported, passes, context)
    return export_module(imported)
