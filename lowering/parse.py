"""MLIR text in: through jaxlib's parser where it is installed, else through xDSL's.

jaxlib reads StableHLO's pretty forms, verifies, and is a hundred times faster than xDSL; statements
of dialects that it does not know are rewritten to generic form first (`foreign`). Without jaxlib,
xDSL reads every dialect but StableHLO's pretty forms.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import FileLineColLoc, IntAttr, ModuleOp, StringAttr

from autopar.dialects import make_context
from autopar.dialects.attributes import AttributeChecker
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.text import parse_text

from .foreign import FOREIGN_DIALECTS, blank, has_foreign_syntax, to_generic
from .grid_disguise import text_needs_disguise, undisguise
from .importer import import_module
from .mlir_context import diagnostic_of, jaxlib_available, make_mlir_context, parse_in
from .verify import verify, verify_op


def parse_module(
    text: str, filename: str = "-", context: Context | None = None, *, use_jaxlib: bool = True
) -> ModuleOp:
    """The module of an MLIR text, verified. A mistake is a DiagnosticError with its place."""
    context = make_context() if context is None else context
    if not (use_jaxlib and jaxlib_available()):
        module = parse_text(context, text, filename)
        verify(module)
        return module
    if has_foreign_syntax(text) or text_needs_disguise(text):
        text = to_generic(context, text, filename)
    native = parse_native(text, filename)
    module = import_module(native, context, filename=filename)
    undisguise(module)
    check = AttributeChecker()
    for op in module.walk():
        if op.name.partition(".")[0] in FOREIGN_DIALECTS:
            verify_op(op)
        check(op)
    return module


def parse_native(text: str, filename: str = "-") -> Any:
    """jaxlib's module of a text (generic or jaxlib's own pretty forms), verified."""
    from jaxlib.mlir import ir

    if nesting(text) > DEEPEST and nesting(blank(text)) > DEEPEST:
        raise DiagnosticError(
            FileLineColLoc(StringAttr(filename), IntAttr(1), IntAttr(1)),
            "reading: the module is nested too deeply",
        )
    native_context = make_mlir_context()
    readable = (lambda: _HIGH_BYTE.sub(_questioned, text)) if _HIGH_BYTE.search(text) else None
    try:
        return parse_in(native_context, text, readable)
    except ir.MLIRError as error:
        raise diagnostic_of(error, filename) from None


_HIGH_BYTE = re.compile(r"(?<!\\)((?:\\\\)*\\)([89A-Fa-f][0-9A-Fa-f])")
"""The escape of a byte that is not ASCII."""


def _questioned(match: re.Match[str]) -> str:
    """An escape as long, of a question mark."""
    return f"{match[1]}3F"


DEEPEST = 1500
"""Brackets in brackets that jaxlib's parser may get: at some thousands the process ends."""


def nesting(text: str) -> int:
    """How deep the brackets of a text are nested, those in strings included."""
    characters = np.frombuffer(text.encode(), np.uint8)
    step = np.zeros(characters.size, np.int8)
    for opening, closing in ("{}", "[]", "()"):
        step += characters == ord(opening)
        step -= characters == ord(closing)
    return int(np.cumsum(step, dtype=np.int32).max(initial=0))
