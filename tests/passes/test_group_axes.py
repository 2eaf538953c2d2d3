"""Replica groups that name mesh axes become lists of devices."""

from __future__ import annotations

from autopar.dialects.sdy import Mesh
from autopar.passes.importing.group_axes import groups_over

MESH = Mesh((("data", 2), ("model", 4)))


def test_one_axis() -> None:
    assert groups_over(MESH, [("model", 1, 4)]) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups_over(MESH, [("data", 1, 2)]) == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_order_of_axes_is_major_to_minor() -> None:
    assert groups_over(MESH, [("data", 1, 2), ("model", 1, 4)]) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert groups_over(MESH, [("model", 1, 4), ("data", 1, 2)]) == [[0, 4, 1, 5, 2, 6, 3, 7]]


def test_sub_axes() -> None:
    assert groups_over(MESH, [("model", 1, 2)]) == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert groups_over(MESH, [("model", 2, 2)]) == [[0, 1], [2, 3], [4, 5], [6, 7]]
