"""Errors and remarks that name a place in the user's program.

Passes raise `DiagnosticError(op, message)` on bad input and call `remark(op, message)` for what the
user may want to know. Drivers collect remarks with `collect_remarks()`; without a collector they
go to the logger `autopar`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import cast

from xdsl.dialects.builtin import (
    ArrayAttr,
    CallSiteLoc,
    FileLineColLoc,
    FusedLoc,
    NameLoc,
)
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue

from .locations import FileLineColRange, FileLocation

logger = logging.getLogger("autopar")

Place = Operation | SSAValue | Attribute | None
"""What a diagnostic can be about: an operation, a value, or a location attribute."""

_SITE = re.compile(r"/(site|dist)-packages/([^/]+)/")
"""The package of an installed file."""
_LIBRARIES = {"jax", "jaxlib", "flax", "optax", "equinox", "haiku", "chex", "orbax", "autopar"}
"""Libraries whose frames a user cannot change."""


def location_frames(location: Attribute) -> Iterator[FileLocation]:
    """The file positions of a location, innermost frame first."""
    match location:
        case FileLineColLoc() | FileLineColRange():
            yield location
        case NameLoc():
            yield from location_frames(location.location)
        case CallSiteLoc():
            yield from location_frames(location.callee)
            yield from location_frames(location.caller)
        case FusedLoc():
            for part in cast(ArrayAttr[Attribute], location.locations):
                yield from location_frames(part)
        case _:
            pass


def location_names(location: Attribute) -> Iterator[str]:
    """The names of a location (JAX's name stacks), innermost first."""
    if isinstance(location, NameLoc):
        yield location.desc.data
    for part in location_parts(location):
        yield from location_names(part)


def location_parts(location: Attribute) -> tuple[Attribute, ...]:
    """The locations that a location is made of, the innermost first."""
    match location:
        case NameLoc():
            return (location.location,)
        case CallSiteLoc():
            return (location.callee, location.caller)
        case FusedLoc():
            return tuple(cast(ArrayAttr[Attribute], location.locations))
        case _:
            return ()


def is_user_file(filename: str) -> bool:
    """Whether a file is the user's own rather than a library's."""
    match = _SITE.search(filename)
    if match:
        return match[2] not in _LIBRARIES
    return not filename.startswith("<frozen ")


def user_frame(location: Attribute) -> FileLocation | None:
    """The innermost frame in the user's own files, else the innermost one of all."""
    first = None
    for frame in location_frames(location):
        if is_user_file(frame.filename.data):
            return frame
        first = first or frame
    return first


def location_of(place: Place) -> Attribute | None:
    """The location attribute of an operation, a value, or the location itself."""
    match place:
        case Operation():
            return place.location
        case BlockArgument():
            if user_frame(place.location) is not None:
                return place.location
            parent = place.owner.parent_op()
            return parent.location if parent is not None else None
        case SSAValue():
            return location_of(place.owner) if isinstance(place.owner, Operation) else None
        case _:
            return place


def location_text(place: Place) -> str:
    """`file:line:col` of a place, `-` where it has none."""
    location = location_of(place)
    frame = user_frame(location) if location is not None else None
    if frame is None:
        return "-"
    if frame.line.data == 0:  # MLIR's place of a module that is not written out
        return f"{frame.filename.data}:1:1"
    return f"{frame.filename.data}:{frame.line.data}:{frame.column.data}"


_file: ContextVar[str | None] = ContextVar("autopar_file", default=None)


@contextmanager
def working_on(file: str) -> Generator[None]:
    """Diagnostics that are made inside and have no place of their own are at this file's first
    line."""
    token = _file.set(file)
    try:
        yield
    finally:
        _file.reset(token)


@dataclass(frozen=True, repr=False)
class Diagnostic:
    """A message about a place; `severity` is error, warning, remark or note."""

    severity: str
    place: Place
    message: str
    notes: tuple[Diagnostic, ...] = ()
    file: str | None = field(default_factory=_file.get, compare=False)
    """What was being worked on, for want of a place; kept, since remarks are printed later."""
    topic: str | None = field(default=None, compare=False)
    """What is said once of a program, by the pass that comes to it first."""

    @property
    def text(self) -> str:
        """With its place, where there is one."""
        at = location_text(self.place)
        if at == "-":
            at = "" if self.file is None else f"{self.file}:1:1"
        said = f"{self.severity}: {self.message}"
        lines = [f"{at}: {said}" if at else said]
        return "\n".join(lines + [note.text for note in self.notes])

    def __repr__(self) -> str:
        return self.text


class DiagnosticError(Exception):
    """An error in the user's program, with its place.

    `notes` point at other places: `(op, "first used here")`, or plain strings.
    """

    def __init__(
        self, place: Place, message: str, notes: Sequence[tuple[Place, str] | str] = ()
    ) -> None:
        self.diagnostic = Diagnostic(
            "error",
            place,
            message,
            tuple(
                Diagnostic("note", place, note)
                if isinstance(note, str)
                else Diagnostic("note", note[0], note[1])
                for note in notes
            ),
        )
        super().__init__(self.diagnostic.text)

    @property
    def place(self) -> Place:
        return self.diagnostic.place

    @property
    def message(self) -> str:
        return self.diagnostic.message


_collector: ContextVar[list[Diagnostic] | None] = ContextVar("autopar_remarks", default=None)


@contextmanager
def collect_remarks() -> Generator[list[Diagnostic]]:
    """Collect the remarks and warnings of the passes that run inside."""
    collected: list[Diagnostic] = []
    token = _collector.set(collected)
    try:
        yield collected
    finally:
        _collector.reset(token)


def emit(diagnostic: Diagnostic) -> None:
    """Give a remark or warning to the collector, or else to the logger."""
    collected = _collector.get()
    if collected is not None:
        topic = diagnostic.topic
        if topic is None or all(said.topic != topic for said in collected):
            collected.append(diagnostic)
    else:
        level = logging.WARNING if diagnostic.severity == "warning" else logging.INFO
        logger.log(level, "%s", diagnostic.text)


def remark(place: Place, message: str, topic: str | None = None) -> None:
    """Something that the user may want to know: what was gathered, inferred, chosen."""
    emit(Diagnostic("remark", place, message, topic=topic))


def warning(place: Place, message: str) -> None:
    """Something that is probably not what the user wants."""
    emit(Diagnostic("warning", place, message))
