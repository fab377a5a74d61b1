"""An atlas of concepts: one HTML page that shows where their neurons lie and what they share.

The page needs no network and no program beside it: style, script and figures are inside. A
concept file comes from anyone, so its words never become markup: figures travel as JSON with
every angle bracket escaped, the script only ever sets text, and the page's own policy runs no
script but ours.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any

from cones.atlas.gathered import Entry, gathered

__all__ = ["Entry", "gathered", "page"]
SCRIPTS = ("base.js", "cards.js", "samples.js", "pairs.js", "layers.js")
ESCAPED = {c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def page(data: Mapping[str, Any]) -> str:
    """Write the page that shows ``data``, as :func:`gathered` gives it.

    Raises:
        ValueError: A figure is not a number that JSON can hold.
    """
    script = "\n".join(_part(name) for name in SCRIPTS)
    return Template(_part("page.html")).substitute(
        style=_part("atlas.css"),
        script=script,
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=embedded(data),
    )


def embedded(data: Mapping[str, Any]) -> str:
    """Write JSON that can stand inside a script element, whatever its strings hold."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character, escape in ESCAPED.items():  # all of these occur inside strings only
        text = text.replace(character, escape)
    return text


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
