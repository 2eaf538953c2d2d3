"""The function that a module's program is."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp

from autopar.dialects.diagnostics import DiagnosticError


def main_function(module: ModuleOp) -> FuncOp:
    """@main, or the only public function."""
    functions = [op for op in module.ops if isinstance(op, FuncOp) and op.body.blocks]
    for func in functions:
        if func.sym_name.data == "main":
            return func
    public = [f for f in functions if f.sym_visibility is None or f.sym_visibility.data == "public"]
    if len(public) == 1:
        return public[0]
    place, found = module, "the module has none"
    if public:
        place = public[1]
        found = f"found {len(public)}: call the program @main, or make the others private"
    raise DiagnosticError(place, f"expected a function @main, or one public function; {found}")
