"""shard.grid as sdy.mesh, while jaxlib looks.

After import-sdy a module has a `shard.grid` in place of its sdy mesh, while manual computations and
other sdy ops still name that mesh. jaxlib refuses them ("unknown mesh"), so the grid goes past it
as an `sdy.mesh` that carries what it was.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

from xdsl.context import Context
from xdsl.dialects.builtin import DictionaryAttr, ModuleOp, StringAttr, SymbolRefAttr
from xdsl.ir import Operation

from autopar.dialects.shard import GridOp
from autopar.dialects.text import parse_attribute_text, print_text

MARK = "autopar.shard_grid"
"""The attribute of a disguised grid: its own properties and attributes."""

_SDY_OP = re.compile(r"(?<![#!\w.])sdy\.(?!mesh\b|sharding\b|sharding_per_value\b)[a-z_]+")
_LINE = re.compile(
    rf'^(?P<indent>[ \t]*)(?:sdy\.mesh |"sdy\.mesh"\().*{re.escape(MARK)} = .*$', re.M
)


def text_needs_disguise(text: str) -> bool:
    """Whether a text has sdy ops and a shard.grid."""
    return "shard.grid" in text and _SDY_OP.search(text) is not None


def mesh_attribute(grid: GridOp) -> str:
    """`<["x"=2, "y"=4]>`"""
    axes = ", ".join(f"{StringAttr(name)}={size}" for name, size in grid.to_grid().axes)
    return f"<[{axes}]>"


def _content(grid: GridOp) -> DictionaryAttr:
    return DictionaryAttr({**grid.properties, **grid.attributes})


def disguised_text(grid: GridOp) -> str:
    """The grid as a statement that jaxlib reads."""
    content = str(_content(grid))
    return (
        f"sdy.mesh {SymbolRefAttr(grid.sym_name)} = {mesh_attribute(grid)} {{{MARK} = {content}}}"
    )


def undisguise(module: ModuleOp) -> None:
    """Turn disguised grids of an imported module back."""
    for op in list(module.ops):
        content = op.attributes.get(MARK)
        if op.name == "sdy.mesh" and isinstance(content, DictionaryAttr):
            names = GridOp.get_irdl_definition().properties
            grid = GridOp.create(
                properties={k: v for k, v in content.data.items() if k in names},
                attributes={k: v for k, v in content.data.items() if k not in names},
                location=op.location,
            )
            _replace(op, grid)


def _replace(old: Operation, new: Operation) -> None:
    block = old.parent
    assert block is not None
    block.insert_op_before(new, old)
    old.detach()


@contextmanager
def disguise(module: ModuleOp, context: Context) -> Generator[list[GridOp]]:
    """Disguise the grids of a module that has sdy ops, and put them back; gives the grids."""
    grids = [op for op in module.ops if isinstance(op, GridOp)]
    if not grids or not any(
        op.name.startswith("sdy.") and op.name != "sdy.mesh" for op in module.walk()
    ):
        yield []
        return
    meshes: list[Operation] = []
    for grid in grids:
        mesh = context.get_op("sdy.mesh").create(
            properties={
                "sym_name": grid.sym_name,
                "mesh": parse_attribute_text(context, f"#sdy.mesh{mesh_attribute(grid)}"),
            },
            attributes={MARK: _content(grid)},
            location=grid.location,
        )
        _replace(grid, mesh)
        meshes.append(mesh)
    try:
        yield grids
    finally:
        for grid, mesh in zip(grids, meshes, strict=True):
            _replace(mesh, grid)


def undisguise_text(text: str, grids: list[GridOp], *, generic: bool) -> str:
    """The text that jaxlib printed with the grids in their own syntax."""
    rest = iter(grids)

    def replace(match: re.Match[str]) -> str:
        line = match[0]
        at = line.rfind(" loc(")
        return match["indent"] + print_text(next(rest), generic=generic) + line[at:] * (at >= 0)

    return _LINE.sub(replace, text) if grids else text
