"""The figures of `benchmarks.cost`."""

from __future__ import annotations

from benchmarks.cost import kendall_tau


def test_a_tie_is_in_neither_order() -> None:
    assert kendall_tau([(1.0, 1.0), (1.0, 2.0), (2.0, 3.0)]) == (2 / 3, 3)
    assert kendall_tau([(1.0, 1.0), (1.0, 1.05), (3.0, 3.0), (4.0, 2.0)], apart=0.1) == (3 / 5, 5)
