"""A page: one HTML file with its data, style and script, which loads nothing from elsewhere."""

from __future__ import annotations

import re
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from .data import encoded

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The browser itself refuses whatever else the page might ask for."""


def page(data: dict[str, Any]) -> str:
    """The text of a page that shows the data."""
    parts = {
        "POLICY": _POLICY,
        "TITLE": escape(str(data["title"])),
        "STYLE": _resource("page.css"),
        "SCRIPT": "\n".join(_resource(name) for name in ("page.js", "chart.js", "program.js")),
        "DATA": encoded(data),
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], _resource("page.html"))


@cache
def _resource(name: str) -> str:
    return files("autopar.view").joinpath(name).read_text(encoding="utf-8").rstrip("\n")
