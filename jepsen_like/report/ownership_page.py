"""One self-contained file: the template, its style and its script, and the data of a run, with nothing to load."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

SCRIPTS = ("ownership_model.js", "ownership_draw.js", "ownership_app.js")

_HOLE = re.compile(r"@([A-Z]+)@")


def part(name: str) -> str:
    """A file that lies beside this one."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def embedded(value: Any) -> str:
    """JSON that no HTML parser can mistake for markup, in ASCII."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def render(data: Mapping[str, Any]) -> str:
    """The page for the data of `timeline.build`."""
    name = html.escape(str(data["name"]))
    holes = {
        "TITLE": f"{name}: who owned what when",
        "NAME": name,
        "CSS": part("ownership.css"),
        "JS": "\n".join(map(part, SCRIPTS)),
        "DATA": embedded(data),
    }
    return _HOLE.sub(lambda hole: holes[hole[1]], part("ownership.html"))


__all__ = ["embedded", "part", "render"]
