"""Which line a diagnostic names."""

from __future__ import annotations

import logging

import pytest
from xdsl.dialects.builtin import (
    CallSiteLoc,
    FileLineColLoc,
    IntAttr,
    ModuleOp,
    NameLoc,
    StringAttr,
    UnknownLoc,
)

from autopar.dialects.diagnostics import (
    DiagnosticError,
    collect_remarks,
    location_text,
    remark,
)


def at(file: str, line: int) -> FileLineColLoc:
    return FileLineColLoc(StringAttr(file), IntAttr(line), IntAttr(7))


def test_the_innermost_user_frame() -> None:
    library = at("/venv/lib/python3.12/site-packages/flax/linen/linear.py", 1)
    other = at("/venv/lib/python3.12/site-packages/mymodel/layers.py", 2)
    mine = at("/home/me/train.py", 3)
    stack = NameLoc(StringAttr("jit(step)/dot"), CallSiteLoc(library, CallSiteLoc(other, mine)))
    assert location_text(stack) == f"{other.filename.data}:2:7"
    assert location_text(CallSiteLoc(library, mine)) == "/home/me/train.py:3:7"
    assert location_text(library).endswith("linear.py:1:7")
    assert location_text(UnknownLoc()) == location_text(None) == "-"


def test_errors_and_remarks(caplog: pytest.LogCaptureFixture) -> None:
    module = ModuleOp([])
    module.location = at("a.py", 4)
    error = DiagnosticError(module, "too wide", [(at("b.py", 5), "first used here"), "try 2"])
    assert str(error).splitlines() == [
        "a.py:4:7: error: too wide",
        "b.py:5:7: note: first used here",
        "a.py:4:7: note: try 2",
    ]
    assert (
        str(DiagnosticError(None, "alpha=1,2: as many as axes"))
        == "error: alpha=1,2: as many as axes"
    )
    with collect_remarks() as remarks:
        remark(module, "gathered 3 bytes")
    assert [r.text for r in remarks] == ["a.py:4:7: remark: gathered 3 bytes"]
    with caplog.at_level(logging.INFO, "autopar"):
        remark(module, "logged")
    assert "logged" in caplog.text
