"""`autopar solve`: an IOPDDL problem in, a list of strategies out."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import IO, Any

from .files import output_path, write_whole
from .passes.solver.budget import UNITS_PER_SECOND
from .passes.solver.problem import ProblemError, read_problem
from .passes.solver.registry import UnknownSolverError, guarded_solver
from .passes.solver.solve import Solution, SolveOptions, solve
from .terminal import Progress, UsageError

_EXIT_S = 0.3
"""Kept for writing the solution and for Python's exit."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    problem: str
    output: str
    time_limit_s: float
    """Of everything, reading and writing included."""
    seed: int = 0
    solver: str | None = None
    """A registered one; our own where absent."""
    spent_s: float = 0.0
    """Seconds of the limit that are gone already."""


def solve_file(request: Request, progress: Progress) -> Solution:
    """Reads, solves and writes; UsageError is one line, and then nothing is written."""
    began = time.perf_counter() - request.spent_s
    path = output_path(request.output)
    progress.step(f"reading {request.problem}")
    try:
        problem = read_problem(request.problem)
        left = request.time_limit_s - (time.perf_counter() - began) - _EXIT_S
        # the work follows from the limit alone, however long reading took
        work = request.time_limit_s * UNITS_PER_SECOND
        options = SolveOptions(max(left, 0.05), request.seed, work)
        plugin = None if request.solver is None else guarded_solver(request.solver)
        solution = solve(problem, options, plugin=plugin, progress=progress.step)
    except (ProblemError, UnknownSolverError) as error:
        raise UsageError(str(error)) from None
    text = json.dumps(solution.strategies) + "\n"

    def write(file: IO[bytes]) -> None:
        file.write(text.encode())

    write_whole(path, write)
    return solution


def report(solution: Solution) -> dict[str, Any]:
    """The facts for `--json`."""
    return {
        "cost": solution.cost,
        "lower_bound": solution.lower_bound,
        "optimal": solution.optimal,
        "gap": solution.gap,
        "seconds": round(solution.seconds, 3),
        "reproducible": solution.reproducible,
    }


def report_text(solution: Solution) -> str:
    """The same for people."""
    if solution.optimal:
        quality = "optimal"
    else:
        quality = f"the optimum is at most {100 * solution.gap:.3g}% lower"
    lines = [
        f"cost         {solution.cost} ({quality})",
        f"lower bound  {solution.lower_bound}",
        f"time         {solution.seconds:.1f} s",
    ]
    if not solution.reproducible:
        lines.append("the time limit ended the search: another run may end elsewhere")
    return "\n".join(lines) + "\n"


def process_age_s() -> float:
    """Seconds since this process began, imports included; 0 where the system does not say."""
    try:
        with open("/proc/self/stat", encoding="ascii") as file:
            started = int(file.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
