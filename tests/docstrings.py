"""Docstrings that somebody wrote; for the tests and tools/gen_docs.py."""

from __future__ import annotations


def own_docstring(thing: type) -> str:
    """The docstring of a class; empty where it has none, or the one that a dataclass made up."""
    text = (thing.__dict__.get("__doc__") or "").strip()
    return "" if text.startswith(f"{thing.__name__}(") else text
