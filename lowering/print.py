"""MLIR text out: jaxlib's pretty forms, foreign dialects in their own syntax."""

from __future__ import annotations

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects import make_context
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.text import print_text

from .exporter import export_module
from .foreign import FOREIGN_DIALECTS, to_custom
from .grid_disguise import disguise, undisguise_text
from .mlir_context import jaxlib_available


def print_module(
    module: ModuleOp,
    context: Context | None = None,
    *,
    generic: bool = False,
    locations: bool = False,
    verify: bool = True,
    use_jaxlib: bool = True,
) -> str:
    """The text of a module, which `parse_module` and (where it knows the dialects) jaxlib read.

    jaxlib verifies what it prints. What it refuses is a DiagnosticError at the operation's place,
    or, without `verify`, printed by xDSL.
    """
    if not (use_jaxlib and jaxlib_available()):
        return print_text(module, generic=generic, locations=locations) + "\n"
    context = make_context() if context is None else context
    try:
        with disguise(module, context) as grids:
            native = export_module(module)
    except DiagnosticError:
        if verify:
            raise
        return print_text(module, generic=generic, locations=locations) + "\n"
    text = native.operation.get_asm(
        enable_debug_info=locations, print_generic_op_form=generic, assume_verified=True
    )
    text = undisguise_text(text, grids, generic=generic)
    if not generic and any(f'"{name}.' in text for name in FOREIGN_DIALECTS):
        text = to_custom(context, text)
    return text if text.endswith("\n") else text + "\n"
