"""Planning problems for other solvers: written to files, and solved by plug-ins."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from xdsl.dialects.builtin import ModuleOp

from autopar.cli import main
from autopar.dialects import make_context
from autopar.dialects.diagnostics import DiagnosticError
from autopar.lowering.parse import parse_module
from autopar.passes.manager import run_pipeline
from autopar.passes.solver import registry
from autopar.passes.solver.problem import Problem, read_problem
from autopar.passes.solver.registry import register_solver
from autopar.passes.solver.solve import solve

_STEP = """
func.func @main(%x: tensor<64x256xf32>, %w: tensor<256x512xf32>, %v: tensor<512x256xf32>)
    -> tensor<64x256xf32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
      : (tensor<64x256xf32>, tensor<256x512xf32>) -> tensor<64x512xf32>
  %1 = stablehlo.tanh %0 : tensor<64x512xf32>
  %2 = stablehlo.dot_general %1, %v, contracting_dims = [1] x [0]
      : (tensor<64x512xf32>, tensor<512x256xf32>) -> tensor<64x256xf32>
  return %2 : tensor<64x256xf32>
}
"""


@pytest.fixture(autouse=True)
def _no_solvers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_SOLVERS", {})
    yield


def _planned(options: str) -> ModuleOp:
    module = parse_module(_STEP, "step.mlir", make_context())
    run_pipeline(module, f"builtin.module(auto-shard{{grid=2x2 {options}}})", make_context())
    return module


def test_a_plugin_decides() -> None:
    seen: list[Problem] = []

    def mine(problem: Problem) -> Sequence[int]:
        seen.append(problem)
        return solve(problem).strategies

    register_solver("mine", mine)
    assert str(_planned("solver=mine")) == str(_planned(""))
    assert len(seen) == 1  # memory does not bind


def test_our_own_is_no_name_of_a_plugin() -> None:
    with pytest.raises(ValueError, match="cannot be named 'none', which means our own"):
        register_solver("none", lambda problem: [])


def test_a_wrong_answer_is_told() -> None:
    register_solver("mine", lambda problem: [])
    with pytest.raises(DiagnosticError, match=r"solver=mine: the solution has 0 entries"):
        _planned("solver=mine")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("out of ideas"), "RuntimeError: out of ideas"),
        (RuntimeError("out of\n  ideas"), "RuntimeError: out of ideas"),
        (SystemExit(3), "SystemExit: 3"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_solver_that_breaks_is_told(error: BaseException, told: str) -> None:
    def mine(problem: Problem) -> Sequence[int]:
        raise error

    register_solver("mine", mine)
    with pytest.raises(DiagnosticError) as info:
        _planned("solver=mine")
    assert info.value.diagnostic.message.endswith(f"solver 'mine' failed: {told}")


def test_an_unknown_solver_is_told() -> None:
    register_solver("other", lambda problem: [])
    with pytest.raises(DiagnosticError, match="solver 'mine' is unknown; registered: other"):
        _planned("solver=mine")


def test_the_problem_in_a_file_is_the_one_that_is_solved(tmp_path: Path) -> None:
    """Without a limit, with one that binds, and by `autopar solve`."""
    file, report = tmp_path / "problem.json.gz", tmp_path / "report.json"
    for memory in ("1GiB", "600KiB"):
        _planned(f'memory-per-device={memory} problem="{file}" report="{report}"')
        solution = solve(read_problem(file))
        planned = json.loads(report.read_text())["solver"]
        assert solution.optimal
        assert planned["bound_s"] <= (1 + 1e-9) * solution.cost * 1e-12
        assert solution.cost * 1e-12 <= (1 + 1e-9) * planned["planned_s"]
    answer = tmp_path / "answer.json"
    assert main(["solve", str(file), "--time-limit", "20", "-o", str(answer)]) == 0
    assert json.loads(answer.read_text()) == solution.strategies


def test_memory_is_a_constraint_of_the_problem_in_a_file(tmp_path: Path) -> None:
    costs: list[int] = []
    for memory in ("1GiB", "550KiB"):
        file = tmp_path / "problem.json"
        _planned(f'memory-per-device={memory} problem="{file}"')
        costs.append(solve(read_problem(file)).cost)
    assert costs[0] < costs[1]


def test_a_problem_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match=r"problem=.*: Is a directory"):
        _planned(f'problem="{tmp_path}"')


def test_autopar_solve_takes_a_plugin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, answer, plugin = tmp_path / "p.json", tmp_path / "a.json", tmp_path / "first.py"
    _planned(f'problem="{file}"')
    plugin.write_text(
        "from autopar.passes.solver.registry import register_solver\n"
        "register_solver('first', lambda problem: [0] * problem.num_nodes)\n"
    )
    command = ["solve", str(file), "--time-limit", "20", "-o", str(answer)]
    assert main([*command, "--load", str(plugin), "--solver", "first"]) == 0
    assert set(json.loads(answer.read_text())) == {0}
    assert main([*command, "--solver", "second"]) == 1
    assert "solver 'second' is unknown; registered: first" in capsys.readouterr().err
