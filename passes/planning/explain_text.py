"""Explanations as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .words import listed, milliseconds, size_text

if TYPE_CHECKING:
    from .explain import Explanation, Other

_SHOWN = 5
"""Other choices that are told in full."""
_CHEAPER = (
    "less than 0: by the search's prices alone, which are rough there; plans are compared by their "
    "partitioned programs, too"
)
_ALL_CHANGES_OF = 2
"""Of so many of them with what changes."""


def explanation_text(one: Explanation) -> str:
    """One value: where it lies, who decided, what other choices cost."""
    return "\n".join(_lines(one))


def _lines(one: Explanation) -> Iterator[str]:
    often = f" ({one.count} times)" if one.count > 1 else ""
    at = f", at {one.place}" if one.place and one.place not in one.name else ""
    yield f"{one.name} : {one.type}, {one.what}{at}{often}"
    yield f"  {one.layout}" + (f": {one.words}" if one.words else "")
    why = f": {one.why}" if one.why else ""
    yield f"  decided by {_DECIDED.get(one.decided_by, one.decided_by)}{why}"
    if one.also:
        yield f"  the same choice: {listed([*dict.fromkeys(one.also)], _SHOWN)}"
    if one.note:
        yield f"  {one.note}"
    if one.num_choices < 2:
        return
    if not one.others or one.step_seconds is None:
        yield f"  {one.num_choices - 1} other choices, not priced here: ask by a narrower name"
        return
    took = f"{milliseconds(one.step_seconds)} by the search's prices"
    if one.partitioned_seconds is not None:
        took = f"{milliseconds(one.partitioned_seconds)} by its partitioned program, {took}"
    yield f"  a step takes {took}; with another choice:"
    fitting = [other for other in one.others if other.fits]
    if any(other.seconds < 0 for other in fitting):
        yield f"    ({_CHEAPER})"
    for index, other in enumerate(fitting[:_SHOWN]):
        yield from _other_lines(other, with_changes=index < _ALL_CHANGES_OF)
    yield from _rest(one, fitting)


def _rest(one: Explanation, fitting: Sequence[Other]) -> Iterator[str]:
    if len(fitting) > _SHOWN:
        yield f"    {len(fitting) - _SHOWN} more cost at least as much by what is known"
    too_large = [other for other in one.others if not other.fits]
    if too_large:
        least = min(other.bytes for other in too_large)
        yield f"    {len(too_large)} do not fit into memory: they take {size_text(least)} or more"
    forbidden = one.num_choices - 1 - len(one.others)
    if forbidden:
        yield f"    {forbidden} the options, or what the program states, do not allow"


def _other_lines(other: Other, *, with_changes: bool) -> Iterator[str]:
    yield f"    {other.layout}  {milliseconds(other.seconds, sign=True)}  ({_basis(other)})"
    for change in other.changes if with_changes else ():
        moved = " instead of ".join(
            [change.after or "nothing moved", change.before or "nothing moved"]
        )
        what = f"{change.what}: {moved}" if change.after != change.before else change.what
        often = f" ({change.count} times)" if change.count > 1 else ""
        yield f"      {milliseconds(change.seconds, sign=True):>12}  {what}{often}"


def _basis(other: Other) -> str:
    if other.basis == "nearby":
        return "at most: what is near was chosen again, all else kept"
    if other.at_least is None or other.seconds - other.at_least <= 1e-3 * abs(other.seconds) + 1e-9:
        return "the whole program planned again"
    return f"the whole program planned again; at least {milliseconds(other.at_least, sign=True)}"


_DECIDED = {
    "user": "what is stated",
    "option": "an option",
    "only": "the grid",
    "follows": "another value",
    "free": "nobody",
    "search": "the search",
    "rival": "a rival of the search's plan",
    "auto": "auto-shard: the search, or an option",
    "propagation": "propagation",
}


def table_text(rows: Sequence[Explanation]) -> str:
    """A line for each argument: layout, who decided, the next best choice."""
    cells = [("", "type", "layout", "decided by", "next best", "a step takes")]
    for one in rows:
        fitting = [other for other in one.others if other.fits]
        best = fitting[0] if fitting else None
        cells.append(
            (
                one.name,
                one.type,
                one.layout,
                _DECIDED.get(one.decided_by, one.decided_by),
                best.layout if best else "-",
                f"at most {milliseconds(best.seconds, sign=True)}" if best else "",
            )
        )
    widths = [max(len(row[column]) for row in cells) for column in range(6)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines)
