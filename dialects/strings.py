"""Strings as MLIR prints them, which may hold any bytes."""

from __future__ import annotations

import re

_ESCAPE = re.compile(rb"\\(\\|[0-9A-Fa-f]{2})")


def unescaped(text: str) -> str:
    """What stands between the quotes of a string that MLIR has printed; bytes that are not UTF-8
    as Python has them in the names of files (`surrogateescape`)."""
    code = _ESCAPE.sub(
        lambda match: b"\\" if match[1] == b"\\" else bytes.fromhex(match[1].decode()),
        text.encode(errors="surrogateescape"),
    )
    return code.decode(errors="surrogateescape")
