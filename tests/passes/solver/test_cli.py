"""`autopar solve`: files in and out, reports, errors of one line."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest

from autopar.cli import main
from autopar.passes.solver.problem import Problem, make_problem, write_problem
from autopar.passes.solver.registry import register_solver

from .problems import chain, cost_and_fit

ROOT = Path(__file__).resolve().parents[3]


def run(tmp_path: Path, problem: Problem, *options: str, name: str = "p.json") -> list[int]:
    """The solution of a problem by the command line."""
    write_problem(problem, tmp_path / name)
    output = tmp_path / "s.json"
    arguments = ["solve", str(tmp_path / name), "--time-limit", "20", "-o", str(output)]
    assert main([*arguments, *options]) == 0
    return json.loads(output.read_text())


def test_solution_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = chain(12, 4, 0, 90)
    strategies = run(tmp_path, problem, name="p.json.gz")
    cost, fits = cost_and_fit(problem, tuple(strategies))
    assert fits
    out, err = capsys.readouterr()
    assert out.splitlines()[:2] == [f"cost         {cost} (optimal)", f"lower bound  {cost}"]
    assert err == ""
    assert run(tmp_path, problem, "--json") == strategies
    report = json.loads(capsys.readouterr().out)
    assert report.pop("seconds") < 20
    assert report == {
        "cost": cost,
        "lower_bound": cost,
        "optimal": True,
        "gap": 0.0,
        "reproducible": True,
    }
    assert run(tmp_path, problem, "-q", "--seed", "7") == strategies
    assert capsys.readouterr() == ("", "")


def test_the_limit_counts_from_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the start of a process that has run for long."""
    monkeypatch.setattr("autopar.solve.process_age_s", lambda: 1000.0)
    problem = chain(12, 4, 0, 90)
    assert cost_and_fit(problem, tuple(run(tmp_path, problem))) == (737, True)


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    """Also in other processes, whose hashes differ."""
    write_problem(chain(80, 5, 2, 110), tmp_path / "p.json")
    found: set[bytes] = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "autopar.cli", "solve", "p.json", "--time-limit", "60"]
        subprocess.run(
            [*command, "-o", str(tmp_path / "s.json"), "-q"],
            check=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "PATH": ""},
            timeout=120,
        )
        found.add((tmp_path / "s.json").read_bytes())
    assert len(found) == 1


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_the_limit_holds_for_the_process(tmp_path: Path) -> None:
    """A problem that is never proved in that time (of which a busy machine gives less)."""
    write_problem(chain(1000, 14, 2, 100), tmp_path / "p.json")
    command = [sys.executable, "-m", "autopar.cli", "solve", "p.json", "--time-limit", "10"]
    start, used = time.perf_counter(), _children_seconds()
    done = subprocess.run(
        [*command, "-o", "s.json"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        timeout=60,
    )
    assert min(time.perf_counter() - start, _children_seconds() - used) < 10
    assert "lower bound" in done.stdout and done.stderr == ""
    if "the time limit ended the search: another run may end elsewhere" not in done.stdout:
        assert done.stdout.splitlines()[-1].startswith("time")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--time-limit", "0"], "argument --time-limit: expected a number of seconds above 0"),
        (["--time-limit", "nan"], "argument --time-limit: expected a number of seconds above 0"),
        (["--time-limit", "x"], "argument --time-limit: expected a number of seconds above 0"),
        (["--seed", "-1"], "argument --seed: expected a whole number of at least 0, found '-1'"),
        (["--seed", "a"], "argument --seed: expected a whole number of at least 0, found 'a'"),
        (["-o", "{tmp}/no/s.json"], "cannot write {tmp}/no/s.json: there is no folder {tmp}/no"),
        (["-o", "{tmp}"], "cannot write {tmp}: it is a folder"),
    ],
)
def test_wrong_options(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_problem(chain(3, 2, 0, None), tmp_path / "p.json")
    given = [option.replace("{tmp}", str(tmp_path)) for option in options]
    needed = ["solve", str(tmp_path / "p.json"), "--time-limit", "5", "-o", str(tmp_path / "s")]
    assert main([*needed, *given]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message.replace("{tmp}", str(tmp_path)) in error
    assert not (tmp_path / "s").exists()


def test_a_solver_that_answers_nothing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_solver("mute", lambda problem: cast(Any, None))
    write_problem(chain(3, 2, 0, None), tmp_path / "p.json")
    options = ["--time-limit", "5", "-o", str(tmp_path / "s"), "--solver", "mute"]
    assert main(["solve", str(tmp_path / "p.json"), *options]) == 1
    assert "error: solver 'mute' failed: TypeError" in capsys.readouterr().err


def test_errors_are_one_line_and_leave_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "s.json"
    output.write_text("older")
    problem = make_problem([[0, 1]], [[0]], [[9]], usage_limit=5)
    write_problem(problem, tmp_path / "tight.json")
    (tmp_path / "damaged.json.gz").write_bytes(gzip.compress(b"{}")[:-4])
    for name, message in (
        ("tight.json", "infeasible: at time 0 the values alive take 9 even where each takes its"),
        ("damaged.json.gz", "the gzip data is damaged"),
        ("none.json", "cannot read"),
    ):
        arguments = ["solve", str(tmp_path / name), "--time-limit", "5", "-o", str(output)]
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("autopar solve: error: ") and error.count("\n") == 1
        assert message in error
        assert output.read_text() == "older"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []
