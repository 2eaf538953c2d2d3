"""Shardings, times and sizes in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from xdsl.ir import Attribute

from autopar.dialects.tensors import shape_of
from autopar.passes.partition.specs import AxisTable, Spec


def layout(spec: Spec, table: AxisTable) -> str:
    """The axes of each dimension: `[x, -]`, `whole` where no axis splits anything; sums over axes
    that are still to be made at the end."""
    names = table.refined.axis_names
    text = layout_text(dims_of(spec, table))
    partial = "; ".join(
        f"{kind} over {', '.join(names[a] for a in axes)} to be made" for kind, axes in spec.partial
    )
    return f"{text} ({partial})" if partial else text


def layout_text(dims: Sequence[Sequence[str]]) -> str:
    """The axes of each dimension: `-` for one that is whole, `whole` where all are."""
    return f"[{', '.join(','.join(axes) or '-' for axes in dims)}]" if any(dims) else "whole"


def proof_text(gap: float, *, optimal: bool, rival: bool) -> str:
    """How near to the cheapest plan the search knows one to be. `rival`: it was found among rivals;
    it is its partitioned program that takes least."""
    if rival:
        return (
            "taken among rivals for its partitioned program; by the search's prices, which are "
            f"rough there, at most {gap:.2%} can be saved"
        )
    return "optimal" if optimal else f"at most {gap:.2%} can be saved by the search's prices"


def without_numbers(name: str) -> str:
    """A name with `*` for its numbers: what differs in these only shares a row of a table."""
    return re.sub(r"\d+", "*", name)


def dims_of(spec: Spec, table: AxisTable) -> tuple[tuple[str, ...], ...]:
    """The axes of each dimension, as data."""
    return tuple(tuple(table.refined.axis_names[a] for a in axes) for axes in spec.dims)


def in_words(spec: Spec, type: Attribute, table: AxisTable) -> str:
    """What a device has of a value, and which devices have the same."""
    names, sizes = table.refined.axis_names, table.sizes
    said: list[str] = []
    for dim, (size, axes) in enumerate(zip(shape_of(type), spec.dims, strict=True)):
        if axes:
            over = ", ".join(names[a] for a in axes)
            parts = table.parts(axes)
            said.append(
                f"dimension {dim} ({size}) over {over}: {parts} parts of {-(-size // parts)}"
            )
    rest = [a for a, size in enumerate(sizes) if size > 1 and a not in spec.dim_axes]
    copies = table.parts(rest)
    if not said:
        return f"whole on each of the {copies} devices"
    if copies > 1:
        said.append(f"the same on the {copies} devices of {', '.join(names[a] for a in rest)}")
    return "; ".join(said)


def milliseconds(seconds: float, *, sign: bool = False) -> str:
    """Three digits; what is less than a nanosecond is 0."""
    text = "0" if abs(seconds) < 1e-9 else f"{1e3 * seconds:.3g}"
    return f"{'+' if sign and not text.startswith('-') else ''}{text} ms"


def size_text(num_bytes: float) -> str:
    """Bytes in three digits, in the unit in which they are below 1000."""
    scaled = float(num_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(scaled) < 999.5:
            return f"{scaled:.3g} {unit}"
        scaled /= 1024
    return f"{scaled:.3g} TiB"


def listed(texts: Sequence[str], most: int) -> str:
    """The first few of several, and how many more there are."""
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f" and {rest} more" if rest > 0 else "")
