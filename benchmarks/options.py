"""Types of the scripts' options: what is misspelled is one line before anything runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from importlib import import_module
from importlib.util import find_spec
from typing import TypeVar

from autopar.dialects.sharding import Grid
from autopar.passes.cost.cluster import ClusterError, read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.importing.grid_option import parse_grid

T = TypeVar("T")


def listed(read: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Several, with commas between them."""
    return lambda text: [read(part) for part in text.split(",")]


def one_of(known: Collection[str]) -> Callable[[str], str]:
    """One of a few words."""

    def read(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is unknown; known: {', '.join(known)}")
        return text

    return read


def at_least(least: int) -> Callable[[str], int]:
    """A whole number."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {least}, found {text!r}"
            )
        return int(text)

    return read


def grid(text: str) -> Grid:
    """As in 2x4."""
    try:
        return parse_grid(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def grid_text(found: Grid) -> str:
    """The way back: 2x4."""
    return "x".join(map(str, found.shape))


def check_size(parser: argparse.ArgumentParser, found: Grid, cluster: str) -> None:
    """Exits with one line where a grid is too large for a cluster."""
    try:
        CostModel.of(read_cluster(cluster), found)
    except ClusterError as error:
        parser.error(str(error))


def cluster(text: str) -> str:
    """A preset or a file, which can be read."""
    try:
        read_cluster(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def model(text: str) -> str:
    """A module of `models/` and one of its sizes, as gpt-1.3B."""
    name, _, size = text.partition("-")
    found = f"models.{name}"
    is_module = name.isidentifier() and find_spec(found) is not None
    sizes = getattr(import_module(found), "SIZES", None) if is_module else None
    if sizes is None:
        raise argparse.ArgumentTypeError(f"{text!r}: models/ has no {name!r} of several sizes")
    if size not in sizes:
        raise argparse.ArgumentTypeError(f"{text!r}: the sizes of {name} are {', '.join(sizes)}")
    return text
