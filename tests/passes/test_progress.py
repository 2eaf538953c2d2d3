"""What long passes say of themselves, and to whom."""

from __future__ import annotations

import io
import sys

import pytest

from autopar.dialects import make_context
from autopar.lowering.parse import parse_module
from autopar.passes.manager import run_pipeline
from autopar.passes.progress import is_watched, tell, watched
from autopar.terminal import Progress, passes_shown

_STEP = """
func.func @main(%x: tensor<8x4xf32>, %w: tensor<4x4xf32>) -> tensor<8x4xf32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
      : (tensor<8x4xf32>, tensor<4x4xf32>) -> tensor<8x4xf32>
  return %0 : tensor<8x4xf32>
}
"""


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


def _terminal(patch: pytest.MonkeyPatch) -> _Terminal:
    """Standard error as a terminal (not in a fixture: pytest takes it over before the test)."""
    stream = _Terminal()
    patch.setattr(sys, "stderr", stream)
    return stream


def test_auto_shard_tells_what_it_does() -> None:
    said: list[str] = []
    module = parse_module(_STEP, "step.mlir", make_context())
    with watched(said.append):
        run_pipeline(module, "builtin.module(auto-shard{grid=2x2})", make_context())
    assert said[0] == "auto-shard: reading the program"
    assert "auto-shard: searching" in said
    assert said[-1] == "auto-shard: writing the plan"


def test_nobody_has_to_listen() -> None:
    tell("into the void")
    assert not is_watched()


def test_the_inner_watcher_hears(patch: pytest.MonkeyPatch) -> None:
    terminal = _terminal(patch)
    said: list[str] = []
    with watched(said.append), passes_shown("autopar"):
        tell("a step")
    assert said == ["a step"]
    assert not terminal.getvalue()


def test_short_work_is_not_shown(patch: pytest.MonkeyPatch) -> None:
    terminal = _terminal(patch)
    with passes_shown("autopar"):
        tell("a step")
    assert "a step" not in terminal.getvalue()


def test_long_work_is_shown_with_its_seconds(patch: pytest.MonkeyPatch) -> None:
    terminal = _terminal(patch)
    now = iter([0.0, 1.9, 12.2])
    patch.setattr("time.monotonic", lambda: next(now))
    progress = Progress("autopar", after=2.0)
    progress.step("the first")
    progress.step("the second")
    assert not terminal.getvalue()
    progress.step("the third")
    assert terminal.getvalue().endswith("autopar: the third … (12 s)")


def test_lines_are_no_wider_than_the_terminal(patch: pytest.MonkeyPatch) -> None:
    terminal = _terminal(patch)
    patch.setenv("COLUMNS", "20")
    Progress("autopar").step("x" * 100)
    line = terminal.getvalue().rpartition("\033[K")[2]
    assert line.startswith("autopar: xx")
    assert len(line) <= 20
