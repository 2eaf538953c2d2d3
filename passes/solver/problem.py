"""The problem: a graph whose nodes each choose a strategy, and a limit on the memory in use.

A node has a cost and a memory use per strategy and is alive in a half-open interval of times; an
edge has a cost for every combination of its ends' strategies. Format: the IOPDDL benchmark's
(https://github.com/google/iopddl). Everything is kept flat, in 64-bit arrays: real problems have
tens of thousands of nodes and millions of edge entries.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

FORBIDDEN = 10**18
"""Costs from here on mean "do not": legal, but dear beyond everything else."""


class ProblemError(ValueError):
    """A problem that is malformed; the message is one line that says where and what to do."""


@dataclass(frozen=True, eq=False)
class Problem:
    """n nodes with strategies, m edges; made and checked by `make_problem` or `read_problem`.

    Flat arrays are cut by offsets: node i's strategies are entries
    `node_offsets[i]:node_offsets[i + 1]` of `node_costs` and `node_usages`, likewise for edges.
    """

    intervals: Ints
    """(n, 2): node i is alive at the times intervals[i, 0] <= t < intervals[i, 1]."""
    node_offsets: Ints
    """(n + 1,)"""
    node_costs: Ints
    """One for each strategy of each node."""
    node_usages: Ints
    """Memory (bytes) of each strategy of each node, at least 0."""
    end_offsets: Ints
    """(m + 1,)"""
    ends: Ints
    """The nodes that each edge joins, in the order in which `edge_costs` counts them."""
    cost_offsets: Ints
    """(m + 1,)"""
    edge_costs: Ints
    """Row major over the strategies of the ends."""
    usage_limit: int | None = None
    """Memory that may be in use at any time; None: no limit."""

    @property
    def num_nodes(self) -> int:
        return len(self.intervals)

    @property
    def num_edges(self) -> int:
        return len(self.end_offsets) - 1

    @property
    def num_strategies(self) -> Ints:
        """(n,): strategies of each node."""
        return np.diff(self.node_offsets)

    @cached_property
    def spread(self) -> float:
        """What the costs of all solutions lie within: all magnitudes together, multiples of
        FORBIDDEN aside."""
        return sum(
            float(np.abs(without_multiples(costs), dtype=np.float64).sum())
            for costs in (self.node_costs, self.edge_costs)
        )

    def costs_of(self, node: int) -> Ints:
        """Cost per strategy of a node."""
        return self.node_costs[self.node_offsets[node] : self.node_offsets[node + 1]]

    def usages_of(self, node: int) -> Ints:
        """Memory per strategy of a node."""
        return self.node_usages[self.node_offsets[node] : self.node_offsets[node + 1]]

    def ends_of(self, edge: int) -> Ints:
        """The nodes that an edge joins."""
        return self.ends[self.end_offsets[edge] : self.end_offsets[edge + 1]]

    def edge_costs_of(self, edge: int) -> Ints:
        """Cost per combination of the ends' strategies, flat."""
        return self.edge_costs[self.cost_offsets[edge] : self.cost_offsets[edge + 1]]


def make_problem(
    intervals: Sequence[Sequence[int]],
    costs: Sequence[Sequence[int]],
    usages: Sequence[Sequence[int]],
    edge_nodes: Sequence[Sequence[int]] = (),
    edge_costs: Sequence[Sequence[int]] = (),
    usage_limit: int | None = None,
) -> Problem:
    """A checked problem from lists as in the JSON format; ProblemError where one is wrong."""
    if not len(intervals) == len(costs) == len(usages):
        raise ProblemError(
            f"nodes: {len(intervals)} intervals, {len(costs)} costs and {len(usages)} usages; "
            "give one of each for every node"
        )
    if len(edge_nodes) != len(edge_costs):
        raise ProblemError(
            f"edges: {len(edge_nodes)} entries in nodes, {len(edge_costs)} in costs; "
            "give one of each for every edge"
        )
    if usage_limit is not None and not _is_int64(usage_limit):
        raise ProblemError(
            f"usage_limit: {usage_limit!r} is not a 64-bit integer; leave it out for no limit"
        )
    node_costs, node_offsets = _flat(costs, "node", "costs")
    node_usages, usage_offsets = _flat(usages, "node", "usages")
    spans, span_offsets = _flat(intervals, "node", "intervals")
    ends, end_offsets = _flat(edge_nodes, "edge", "nodes")
    flat_costs, cost_offsets = _flat(edge_costs, "edge", "costs")
    _check_nodes(node_offsets, usage_offsets, node_usages, spans, span_offsets)
    _check_edges(node_offsets, ends, end_offsets, cost_offsets)
    return _frozen(
        Problem(
            spans.reshape(-1, 2),
            node_offsets,
            node_costs,
            node_usages,
            end_offsets,
            ends,
            cost_offsets,
            flat_costs,
            usage_limit,
        )
    )


def problem_of_arrays(
    intervals: Sequence[tuple[int, int]],
    costs: Sequence[Ints],
    usages: Sequence[Ints],
    edge_costs: Mapping[tuple[int, int], Ints],
    usage_limit: int | None = None,
) -> Problem:
    """A problem whose edges join two nodes, from what is known to be right: costs and usages
    (strategies,) of each node, costs (strategies of one, strategies of the other) of each edge."""
    node_costs, node_offsets = _joined(costs)
    flat_costs, cost_offsets = _joined([table.reshape(-1) for table in edge_costs.values()])
    return _frozen(
        Problem(
            np.array(intervals, np.int64).reshape(-1, 2),
            node_offsets,
            node_costs,
            _joined(usages)[0],
            np.arange(0, 2 * len(edge_costs) + 1, 2),
            np.array([*edge_costs], np.int64).reshape(-1),
            cost_offsets,
            flat_costs,
            usage_limit,
        )
    )


def _frozen(problem: Problem) -> Problem:
    for array in vars(problem).values():
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return problem


def _joined(parts: Sequence[Ints]) -> tuple[Ints, Ints]:
    """(all entries, offsets of the parts)"""
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.concatenate([np.zeros(0, np.int64), *parts]), offsets


def without_multiples(costs: Ints) -> Ints:
    """Costs without the multiples of FORBIDDEN that are in them."""
    huge = costs >= FORBIDDEN
    if not huge.any():
        return costs
    rest = costs.copy()
    rest[huge] %= FORBIDDEN
    return rest


def read_problem(path: str | Path) -> Problem:
    """The problem in a JSON file, gzipped or not (by content). ProblemError names the file."""
    try:
        raw = Path(path).read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        data: object = json.loads(raw)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ProblemError(f"{path}: the gzip data is damaged ({error}); copy it again") from None
    except OSError as error:
        raise ProblemError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ProblemError(f"{path}: not a text file: {error.reason}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise ProblemError(f"{path}: not JSON: {error.msg} at {where}") from None
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{path}: not JSON that can be read: {error}") from None
    try:
        return problem_from_json(data)
    except ProblemError as error:
        raise ProblemError(f"{path}: {error}") from None


def problem_from_json(data: object) -> Problem:
    """The problem in the parsed form of a file: an object with the key `problem`."""
    problem = _member(data, "problem", dict, "the file")
    nodes = _member(problem, "nodes", dict, "problem")
    edges = _member(problem, "edges", dict, "problem")
    return make_problem(
        _lists(nodes, "intervals", "nodes"),
        _lists(nodes, "costs", "nodes"),
        _lists(nodes, "usages", "nodes"),
        _lists(edges, "nodes", "edges"),
        _lists(edges, "costs", "edges"),
        problem.get("usage_limit"),
    )


def problem_to_json(problem: Problem) -> dict[str, Any]:
    """The parsed form of a problem's file."""
    result: dict[str, Any] = {
        "nodes": {
            "intervals": problem.intervals.tolist(),
            "costs": _ragged(problem.node_costs, problem.node_offsets),
            "usages": _ragged(problem.node_usages, problem.node_offsets),
        },
        "edges": {
            "nodes": _ragged(problem.ends, problem.end_offsets),
            "costs": _ragged(problem.edge_costs, problem.cost_offsets),
        },
    }
    if problem.usage_limit is not None:
        result["usage_limit"] = problem.usage_limit
    return {"problem": result}


def write_problem(problem: Problem, path: str | Path) -> None:
    """Writes a JSON file, gzipped where the name ends in `.gz`; equal problems give equal bytes."""
    raw = json.dumps(problem_to_json(problem), separators=(",", ":")).encode()
    Path(path).write_bytes(gzip.compress(raw, mtime=0) if str(path).endswith(".gz") else raw)


# ---- checks --------------------------------------------------------------------------------------


def _member(data: object, key: str, kind: type, where: str) -> Any:
    noun = {dict: "an object", list: "a list"}
    if not isinstance(data, dict):
        raise ProblemError(f"{where} is not an object; expected one with the key '{key}'")
    members = cast("dict[str, object]", data)
    if key not in members:
        raise ProblemError(f"{where} has no key '{key}'")
    if not isinstance(members[key], kind):
        raise ProblemError(f"'{key}' of {where} is not {noun[kind]}")
    return members[key]


def _lists(data: object, key: str, where: str) -> list[list[int]]:
    """A member that is a list of lists; what is in them is for `_flat` to check."""
    rows = cast("list[object]", _member(data, key, list, where))
    for i, row in enumerate(rows):
        if type(row) is not list:
            raise ProblemError(f"{where[:-1]} {i}: its entry in {key} is not a list")
    return cast("list[list[int]]", rows)


def _flat(rows: Sequence[Sequence[int]], noun: str, key: str) -> tuple[Ints, Ints]:
    """(all entries, offsets of the rows); ProblemError for an entry that is no 64-bit integer."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)), out=offsets[1:])
    try:
        if set(map(type, _entries(rows))) <= {int}:
            return np.fromiter(_entries(rows), np.int64, int(offsets[-1])), offsets
    except OverflowError:
        pass
    for i, row in enumerate(rows):
        for value in row:
            if not _is_int64(value):
                raise ProblemError(f"{noun} {i}: {value!r} in its {key} is not a 64-bit integer")
    raise AssertionError("the loop above finds what the fast road rejected")


def _is_int64(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _entries(rows: Iterable[Iterable[int]]) -> Iterator[int]:
    return chain.from_iterable(rows)


def _ragged(flat: Ints, offsets: Ints) -> list[list[int]]:
    values, cuts = flat.tolist(), offsets.tolist()
    return [values[a:b] for a, b in pairwise(cuts)]


def _check_nodes(
    node_offsets: Ints, usage_offsets: Ints, usages: Ints, spans: Ints, span_offsets: Ints
) -> None:
    counts, uses = np.diff(node_offsets), np.diff(usage_offsets)
    if (bad := _first(np.diff(span_offsets) != 2)) is not None:
        raise ProblemError(f"node {bad}: its interval is not a pair [start, stop]")
    if (bad := _first(counts == 0)) is not None:
        raise ProblemError(f"node {bad} has no strategy; give it at least one cost")
    if (bad := _first(counts != uses)) is not None:
        raise ProblemError(
            f"node {bad} has {counts[bad]} costs but {uses[bad]} usages; give one of each for "
            "every strategy"
        )
    if (bad := _first(spans[0::2] > spans[1::2])) is not None:
        start, stop = spans[2 * bad : 2 * bad + 2]
        raise ProblemError(
            f"node {bad}: its interval [{start}, {stop}] stops before it starts; "
            "write [t, t] for a node that takes no memory"
        )
    if (entry := _first(usages < 0)) is not None:
        bad = int(np.searchsorted(node_offsets, entry, side="right")) - 1
        raise ProblemError(f"node {bad}: usage {usages[entry]} is negative")


def _check_edges(node_offsets: Ints, ends: Ints, end_offsets: Ints, cost_offsets: Ints) -> None:
    num_nodes = len(node_offsets) - 1
    if (entry := _first((ends < 0) | (ends >= num_nodes))) is not None:
        bad = int(np.searchsorted(end_offsets, entry, side="right")) - 1
        raise ProblemError(
            f"edge {bad} ends at node {ends[entry]}, which does not exist; "
            f"the problem has {num_nodes} nodes"
        )
    sizes = np.diff(node_offsets)
    found = np.diff(cost_offsets)
    arity = np.diff(end_offsets)
    two = arity == 2
    wrong = np.zeros(len(found), bool)
    first = end_offsets[:-1][two]
    wrong[two] = sizes[ends[first]] * sizes[ends[first + 1]] != found[two]
    for edge in np.flatnonzero(~two).tolist():
        count = 1
        for end in ends[end_offsets[edge] : end_offsets[edge + 1]].tolist():
            count *= int(sizes[end])
        wrong[edge] = count != found[edge]
    if (bad := _first(wrong)) is not None:
        shape = sizes[ends[end_offsets[bad] : end_offsets[bad + 1]]].tolist()
        raise ProblemError(
            f"edge {bad} has {found[bad]} costs; "
            f"its nodes have {' x '.join(map(str, shape)) or 'no'} strategies"
        )


def _first(mask: NDArray[np.bool_]) -> int | None:
    """The first true position, None if there is none."""
    hits = np.flatnonzero(mask)
    return int(hits[0]) if hits.size else None
