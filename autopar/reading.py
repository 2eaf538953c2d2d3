"""What every command line reads, and what it makes of errors that nobody foresaw.

A file is MLIR text or bytecode; `-` is standard input. Passes are run so that whatever goes wrong
is a DiagnosticError of one line.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from .terminal import UsageError

if TYPE_CHECKING:
    from xdsl.context import Context
    from xdsl.dialects.builtin import FileLineColLoc, ModuleOp
    from xdsl.passes import ModulePass

    from .dialects.diagnostics import Place


def read_input(name: str) -> str:
    """The text of a file, `-` for standard input; UsageError if it cannot be read."""
    stdin: TextIO | None = sys.stdin  # None: closed
    if name == "-" and stdin is None:
        raise UsageError("cannot read -: standard input is closed")
    try:
        if name == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(name, "rb") as file:
                data = file.read()
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
    return decoded(name, data)


def decoded(name: str, data: bytes) -> str:
    """The text of a file's bytes, MLIR bytecode included; UsageError if they are none."""
    if data.startswith(BYTECODE):
        return bytecode_text(name, data)
    try:
        return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except UnicodeDecodeError as error:
        place = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"cannot read {name}: no text in UTF-8 (byte 0x{data[error.start]:02x} in line {place})"
        ) from None


BYTECODE = b"ML\xefR"
"""How MLIR bytecode begins."""


def bytecode_text(name: str, data: bytes) -> str:
    """The text of MLIR bytecode, which jaxlib reads; UsageError if it cannot."""
    from .lowering.mlir_context import jaxlib_available, make_mlir_context

    if not jaxlib_available():
        raise UsageError(
            f"cannot read {name}: MLIR bytecode needs jaxlib (or make it text: mlir-opt {name})"
        )
    from jaxlib.mlir import ir

    context = make_mlir_context()
    try:
        if b"StableHLO_v" in data[:32]:  # a portable artifact: vhlo inside
            from jaxlib.mlir.dialects import (  # pyright: ignore[reportMissingTypeStubs]
                stablehlo,
            )

            module: Any = stablehlo.deserialize_portable_artifact(context, data)
        else:
            module = cast(Any, ir.Module).parse(data, context)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot read {name}: jaxlib refuses this bytecode: {reason}") from None
    return module.operation.get_asm(enable_debug_info=True)


# ---- running passes ------------------------------------------------------------------------------


def transform(
    module: ModuleOp,
    passes: Sequence[ModulePass],
    context: Context,
    after: Callable[[ModulePass, ModuleOp], None] | None = None,
) -> None:
    """Run passes; whatever goes wrong is a DiagnosticError that names the pass."""
    from .passes.manager import run_passes

    for pass_ in passes:
        with unforeseen(module, f"pass '{pass_.name}'"):
            run_passes(module, [pass_], context, after)


@contextmanager
def unforeseen(place: Place, current: str) -> Generator[None]:
    """Turns an error that nobody foresaw into a DiagnosticError of one line."""
    from .dialects.diagnostics import DiagnosticError

    try:
        yield
    except DiagnosticError:
        raise
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # xDSL's ArgSpecParseError is no Exception
        if os.environ.get("AUTOPAR_TRACEBACK"):
            raise
        raise internal_error(place, current, error) from error


def first_line(filename: str) -> FileLineColLoc:
    """The place of errors that are about a whole file."""
    from xdsl.dialects.builtin import FileLineColLoc, IntAttr, StringAttr

    return FileLineColLoc(StringAttr(filename), IntAttr(1), IntAttr(1))


def internal_error(place: Place, current: str, error: BaseException) -> Exception:
    """An error that a pass did not foresee, at the operation if xDSL knows it."""
    from xdsl.utils.exceptions import VerifyException

    from .dialects.diagnostics import DiagnosticError

    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, VerifyException):
        return DiagnosticError(place, f"{current}: {text}")
    if isinstance(error, RecursionError):
        return DiagnosticError(place, f"{current}: the module is nested too deeply")
    return DiagnosticError(
        place,
        f"{current}: internal error: {type(error).__name__}: {text} "
        "(AUTOPAR_TRACEBACK=1 shows where)",
    )
