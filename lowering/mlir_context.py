"""jaxlib's MLIR: contexts that know StableHLO, chlo, sdy, mpmd and func, without importing JAX."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, cast

from autopar.dialects.diagnostics import DiagnosticError

# JAX sets this when it is imported; jaxlib reads it when it is loaded, which may be before
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")


@cache
def jaxlib_available() -> bool:
    """Whether jaxlib is installed."""
    return find_spec("jaxlib") is not None


@cache
def _empty_artifact() -> bytes:
    """The portable artifact of a module without operations."""
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo  # pyright: ignore[reportMissingTypeStubs]

    with ir.Context():
        return stablehlo.serialize_portable_artifact_str("module {}", "1.0.0")


def make_mlir_context(*, allow_unregistered: bool = True) -> Any:
    """A fresh jaxlib MLIR context (2 ms). Attributes live as long as their context does."""
    from jaxlib.mlir import ir
    from jaxlib.mlir._mlir_libs import _jax_mlir_ext  # pyright: ignore[reportMissingTypeStubs]
    from jaxlib.mlir.dialects import (  # pyright: ignore[reportMissingTypeStubs]
        chlo,
        mpmd,
        sdy,
        stablehlo,
    )

    registry = ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(registry)
    context = ir.Context()
    context.append_dialect_registry(registry)
    for dialect in (stablehlo, chlo, sdy, mpmd):
        dialect.register_dialect(context)
    # which loads the dialect quant, of which jaxlib's Python knows nothing
    stablehlo.deserialize_portable_artifact(context, _empty_artifact())
    context.enable_multithreading(False)
    context.allow_unregistered_dialects = allow_unregistered
    return context


def diagnostic_of(error: Any, filename: str = "-") -> DiagnosticError:
    """Our error for jaxlib's MLIRError, with its place and notes."""
    from .native_attributes import import_location

    diagnostics = list(error.error_diagnostics)
    first = diagnostics[0]
    # "see current operation" notes print the operation whole: a function with its body
    useless = ("see current operation", "in bytecode version")
    notes = [
        (import_location(note.location, filename), note.message)
        for note in (*first.notes, *diagnostics[1:])
        if not note.message.startswith(useless)
    ]
    return DiagnosticError(import_location(first.location, filename), first.message, notes)


def parse_in(context: Any, source: Any, readable: Callable[[], Any] | None) -> Any:
    """jaxlib's module of a text or of bytecode, verified; else MLIRError.

    jaxlib ends the process where a message is to quote what is not UTF-8. For a source with such
    strings `readable` gives the same without them, which is refused with the same message.
    """
    from jaxlib.mlir import ir

    if readable is None:
        return cast(Any, ir.Module).parse(source, context)

    def handled(_: object) -> bool:
        return True

    context.emit_error_diagnostics = True  # to the handler, which leaves the messages alone
    handler = context.attach_diagnostic_handler(handled)
    try:
        return cast(Any, ir.Module).parse(source, context)
    except ir.MLIRError:
        pass
    finally:
        handler.detach()
        context.emit_error_diagnostics = False
    cast(Any, ir.Module).parse(readable(), context)
    raise DiagnosticError(None, "jaxlib refuses a module with names that are not UTF-8")


def merge_equal_ops(module: Any) -> None:
    """Common-subexpression elimination in a jaxlib module, in place (25 ms for 16,000 ops).

    JAX emits every scalar constant and its broadcast anew for each use, two fifths of a training
    step's ops; every later step takes time by the op. JAX's module is verified: it is not again.
    """
    from jaxlib.mlir import passmanager

    with module.context:
        merge = passmanager.PassManager.parse("builtin.module(func.func(cse))")
        merge.enable_verifier(False)
        merge.run(module.operation)
