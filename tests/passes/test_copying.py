"""Copies of modules say the same, and share no ops."""

from __future__ import annotations

from io import StringIO
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.printer import Printer

from autopar.lowering.importer import import_module
from autopar.passes.copying import copied


def _text(module: ModuleOp) -> str:
    """With the names of values, and where ops are from."""
    stream = StringIO()
    Printer(stream, print_debuginfo=True, print_generic_format=True).print_op(module)
    return stream.getvalue()


def _module() -> ModuleOp:
    def fn(x: Any, y: Any) -> Any:
        def body(carry: Any, row: Any) -> Any:
            return jnp.where(row.sum() > 0, carry @ y, carry), jnp.sort(row)

        return jax.lax.scan(body, x, y)

    args = np.ones((4, 8), np.float32), np.ones((8, 8), np.float32)
    return import_module(jax.jit(fn).lower(*args).compiler_ir("stablehlo"))


def test_a_copy_says_the_same() -> None:
    module = _module()
    func = next(iter(module.ops))
    func.regions[0].block.args[0].name_hint = "state"
    before = _text(module)
    copy = copied(module)
    assert _text(copy) == before
    copy.verify()
    assert copy.is_structurally_equivalent(module)
    assert not set(copy.walk()) & set(module.walk())


def test_a_copy_is_changed_by_itself() -> None:
    module = _module()
    before = _text(module)
    copy = copied(module)
    for op in copy.walk():
        op.attributes["changed"] = UnitAttr()
        op.properties["changed"] = UnitAttr()
    assert _text(module) == before != _text(copy)
    module.verify()
