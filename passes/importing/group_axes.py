"""Replica groups that name mesh axes, as lists of devices.

JAX from 0.11 on writes the groups of shard_map's collectives as
`#stablehlo.replica_group_mesh_axes<mesh = @m, axes = [#stablehlo.axis_ref<name = "x">]>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from math import prod

from xdsl.dialects.builtin import DenseIntOrFPElementsAttr
from xdsl.ir import Attribute, Operation

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sdy import Mesh
from autopar.dialects.stablehlo.collectives import groups_attr

_PREFIX = "#stablehlo.replica_group_mesh_axes"
_MESH = re.compile(r'mesh = @(?:"([^"]+)"|([\w$.-]+))')
_AXIS = re.compile(r'axis_ref<name = "([^"]+)"(.*?)>(?=[,\]])')
_SUB_AXIS = re.compile(r"pre_size = (\d+)(?: : i64)?, size = (\d+)")


def list_groups(op: Operation, meshes: Mapping[str, Mesh]) -> None:
    """Writes the replica groups of a collective as lists of devices, if they name axes."""
    attr: Attribute | None = op.properties.get("replica_groups")
    text = "" if isinstance(attr, DenseIntOrFPElementsAttr | None) else str(attr)
    if not text.startswith(_PREFIX):
        return
    name = _MESH.search(text)
    mesh = meshes.get(name[1] or name[2]) if name else None
    if mesh is None:
        raise DiagnosticError(op, f"'{op.name}': replica_groups = {text} names no mesh")
    axes: list[tuple[str, int, int]] = []
    sizes = dict(mesh.axes)
    for axis, sub in _AXIS.findall(text):
        if axis not in sizes:
            raise DiagnosticError(op, f"'{op.name}': mesh has no axis \"{axis}\"")
        part = _SUB_AXIS.search(sub)
        pre, size = (int(part[1]), int(part[2])) if part else (1, sizes[axis])
        axes.append((axis, pre, size))
    op.properties["replica_groups"] = groups_attr(groups_over(mesh, axes))


def groups_over(mesh: Mesh, axes: list[tuple[str, int, int]]) -> list[list[int]]:
    """The devices of each group of a collective over (sub-)axes: (name, pre-size, size) each.

    Within a group the first axis is the major one; groups are in the order of their first device.
    """
    strides: dict[str, tuple[int, int]] = {}
    step = 1
    for name, size in reversed(mesh.axes):
        strides[name] = (step, size)
        step *= size
    offsets = [0]
    for name, pre, size in axes:
        stride, whole = strides[name]
        minor = stride * (whole // (pre * size))
        offsets = [base + minor * i for base, i in product(offsets, range(size))]
    inside: set[int] = set()
    groups: list[list[int]] = []
    for device in range(prod(size for _, size in mesh.axes)):
        if device not in inside:
            group = [device + offset for offset in offsets]
            inside.update(group)
            groups.append(group)
    return groups
