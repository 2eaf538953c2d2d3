"""Reading, checking, writing and judging: every message is read here."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from autopar.passes.solver.evaluate import Overuse, evaluate, usage_profile, worst_overuse
from autopar.passes.solver.problem import (
    Problem,
    ProblemError,
    make_problem,
    problem_from_json,
    problem_to_json,
    read_problem,
    write_problem,
)

from .problems import cost_and_fit, problems

GOOD: dict[str, Any] = {
    "nodes": {"intervals": [[0, 2], [1, 3]], "costs": [[1, 2], [3]], "usages": [[4, 1], [2]]},
    "edges": {"nodes": [[0, 1]], "costs": [[5, 6]]},
    "usage_limit": 5,
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with something else at a path, `/` between keys; None: without it."""
    data = json.loads(json.dumps(GOOD))
    *keys, last = path.split("/")
    place = data
    for key in keys:
        place = place[int(key) if key.isdigit() else key]
    if value is None:
        del place[last]
    else:
        place[int(last) if last.isdigit() else last] = value
    return {"problem": data}


MALFORMED = [
    ([], "the file is not an object; expected one with the key 'problem'"),
    ({}, "the file has no key 'problem'"),
    ({"problem": 3}, "'problem' of the file is not an object"),
    (changed("nodes", None), "problem has no key 'nodes'"),
    (changed("edges", []), "'edges' of problem is not an object"),
    (changed("nodes/costs", None), "nodes has no key 'costs'"),
    (changed("nodes/costs", {}), "'costs' of nodes is not a list"),
    (changed("nodes/costs/1", 7), "node 1: its entry in costs is not a list"),
    (
        changed("nodes/costs", [[1, 2]]),
        "nodes: 2 intervals, 1 costs and 2 usages; give one of each for every node",
    ),
    (
        changed("edges/costs", []),
        "edges: 1 entries in nodes, 0 in costs; give one of each for every edge",
    ),
    (
        changed("usage_limit", 1.5),
        "usage_limit: 1.5 is not a 64-bit integer; leave it out for no limit",
    ),
    (
        changed("usage_limit", 2**63),
        "usage_limit: 9223372036854775808 is not a 64-bit integer; leave it out for no limit",
    ),
    (changed("nodes/costs/0/1", 2.5), "node 0: 2.5 in its costs is not a 64-bit integer"),
    (changed("nodes/usages/0/1", True), "node 0: True in its usages is not a 64-bit integer"),
    (
        changed("edges/costs/0/1", 2**63),
        "edge 0: 9223372036854775808 in its costs is not a 64-bit integer",
    ),
    (changed("nodes/intervals/1", [3]), "node 1: its interval is not a pair [start, stop]"),
    (
        changed("nodes/intervals/1", [3, 1]),
        "node 1: its interval [3, 1] stops before it starts; write [t, t] for a node that takes "
        "no memory",
    ),
    (changed("nodes/costs/1", []), "node 1 has no strategy; give it at least one cost"),
    (
        changed("nodes/usages/0", [1]),
        "node 0 has 2 costs but 1 usages; give one of each for every strategy",
    ),
    (changed("nodes/usages/1/0", -2), "node 1: usage -2 is negative"),
    (
        changed("edges/nodes/0/1", 2),
        "edge 0 ends at node 2, which does not exist; the problem has 2 nodes",
    ),
    (changed("edges/costs/0", [5]), "edge 0 has 1 costs; its nodes have 2 x 1 strategies"),
    (changed("edges/nodes/0", []), "edge 0 has 2 costs; its nodes have no strategies"),
]


@pytest.mark.parametrize(("data", "message"), MALFORMED, ids=[m for _, m in MALFORMED])
def test_malformed(data: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ProblemError) as caught:
        read_problem(path)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON: Expecting property name enclosed in double quotes at line 1 column 2"),
        (b"\xff", "not a text file: invalid start byte"),
        (b"\x1f\x8b" + b"x" * 20, "the gzip data is damaged ("),
        (gzip.compress(b"{}" * 99)[:-9], "the gzip data is damaged ("),
        (b"[" * 100_000, "not JSON that can be read: "),
    ],
    ids=["json", "text", "header", "cut", "deep"],
)
def test_unreadable(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(ProblemError) as caught:
        read_problem(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match=r"^cannot read .*none\.json: No such file"):
        read_problem(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["p.json", "p.json.gz"])
@given(problem=problems())
@settings(max_examples=20, deadline=None)
def test_written_is_read(
    name: str, problem: Problem, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("problem") / name
    write_problem(problem, path)
    first = path.read_bytes()
    write_problem(read_problem(path), path)
    assert path.read_bytes() == first
    assert problem_to_json(problem_from_json(problem_to_json(problem))) == problem_to_json(problem)


def test_problems_are_frozen() -> None:
    problem = problem_from_json({"problem": GOOD})
    with pytest.raises(ValueError, match="read-only"):
        problem.node_costs[0] = 1


# ---- evaluation ----------------------------------------------------------------------------------


@given(problem=problems())
@settings(max_examples=100, deadline=None)
def test_evaluation_is_the_definition(problem: Problem) -> None:
    choice = problem.num_strategies - 1
    judged = evaluate(problem, choice)
    assert (judged.cost, judged.feasible) == cost_and_fit(problem, tuple(choice.tolist()))


def test_sums_do_not_overflow() -> None:
    most = 2**63 - 1
    problem = make_problem([[0, 1]] * 3, [[most]] * 3, [[most]] * 3, [[0, 1]], [[most]], 5)
    judged = evaluate(problem, [0, 0, 0])
    assert judged.cost == 4 * most
    assert judged.overuse == Overuse(0, 3 * most, 5)
    assert worst_overuse(problem, problem.node_usages) == judged.overuse


def test_the_first_overuse_is_told() -> None:
    problem = make_problem([[0, 9], [3, 5], [6, 8]], [[0]] * 3, [[4], [3], [9]], usage_limit=6)
    judged = evaluate(problem, [0, 0, 0])
    assert str(judged.overuse) == "7 in use at time 3, 1 above the limit 6"
    assert worst_overuse(problem, problem.node_usages) == Overuse(6, 13, 6)


def test_profile_of_nothing() -> None:
    times, totals = usage_profile(np.zeros((0, 2), np.int64), np.zeros(0, np.int64))
    assert times.tolist() == [0] and totals.tolist() == [0]


def test_wrong_length() -> None:
    with pytest.raises(ProblemError, match="the solution has 1 entries for 2 nodes"):
        evaluate(problem_from_json({"problem": GOOD}), [0])
