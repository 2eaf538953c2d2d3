"""What plan, explain and view read: files and standard input, modules and plans."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import autopar
from autopar import opt
from autopar.cli import main
from autopar.dialects.diagnostics import Diagnostic, working_on

MODULE = """#loc = loc(unknown)
module {
  func.func public @main(%x: tensor<64x32xf32> loc(unknown)) -> tensor<64x32xf32> {
    %0 = stablehlo.tanh %x : tensor<64x32xf32> loc(#loc)
    return %0 : tensor<64x32xf32> loc(#loc)
  } loc(#loc)
} loc(#loc)
"""
"""As JAX writes what it knows no place of."""


@pytest.fixture
def plan(tmp_path: Path) -> str:
    def double(x: Any) -> Any:
        return x + x

    path = tmp_path / "plan.json"
    autopar.plan(double, jnp.ones((8, 4)), mesh=jax.make_mesh((8,), ("x",)), method="dp").save(path)
    return str(path)


@pytest.fixture
def module(tmp_path: Path) -> str:
    path = tmp_path / "unknown.mlir"
    path.write_text(MODULE)
    return str(path)


def given(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """A file on standard input, which can be read once."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(path).read_bytes())))


def test_plans_on_standard_input(
    plan: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given(monkeypatch, plan)
    assert main(["explain", "-", "arg0"]) == 0
    assert capsys.readouterr().out.startswith("x : ")
    given(monkeypatch, plan)
    page = tmp_path / "v.html"
    assert main(["view", "-", "-o", str(page)]) == 0
    assert page.stat().st_size


@pytest.mark.parametrize("words", [["explain", "PLAN", "arg0"], ["view", "PLAN", "-o", "PAGE"]])
def test_options_for_what_is_planned_already(
    words: list[str], plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"PLAN": plan, "PAGE": str(tmp_path / "v.html")}
    words = [paths.get(word, word) for word in words]
    assert main([*words, "--auto-shard", "grid=2x4"]) == 1
    assert f"{plan} is planned already: --auto-shard is for a module\n" in capsys.readouterr().err


def _opt(path: str) -> int:
    return opt.main([path, "--auto-shard"])


def _explain(path: str) -> int:
    return main(["explain", path, "arg0"])


def _view(path: str) -> int:
    return main(["view", path, "-o", f"{path}.html", "--auto-shard", ""])


def _run(path: str) -> int:
    return main(["run", path, "--devices", "8", "--outputs", f"{path}.npz"])


@pytest.mark.parametrize("command", [_opt, _explain, _view, _run])
def test_errors_without_a_place_name_the_file(
    command: Callable[[str], int], module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(module) == 1
    errors = capsys.readouterr().err
    assert errors.startswith(f"{module}:1:1: error: ")
    assert "device grid" in errors and errors.count("\n") == 1


def test_a_grid_is_asked_for_with_its_option(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _opt(module) == 1
    assert 'give --auto-shard="grid=2x4"' in capsys.readouterr().err


def test_a_remark_keeps_its_file() -> None:
    with working_on("a.mlir"):
        found = Diagnostic("remark", None, "so")
    assert found.text == "a.mlir:1:1: remark: so"
    assert Diagnostic("remark", None, "so").text == "remark: so"
