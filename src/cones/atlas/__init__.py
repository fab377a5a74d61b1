"""An atlas of concepts: one HTML page that shows where they lie and what they share (Fig. 4).

The page holds everything it needs and runs no script; its policy forbids scripts and the network.
A concept file comes from anyone, so the template escapes every word.
"""

from collections.abc import Mapping, Sequence

from jinja2 import Environment, PackageLoader

from cones.atlas.figures import gather
from cones.concept import Concept

__all__ = ["page"]


def page(
    concepts: Sequence[Concept],
    names: Sequence[str] = (),
    *,
    heads: Mapping[str, int] | None = None,
) -> str:
    """Write the page of one to eight concepts of one model; ``names`` are those of their files.

    Attention heads by layer are guessed unless given, and left out where that fails.

    Raises:
        MaskError: Too many concepts, or of different models, or heads that do not divide rows.
    """
    templates = Environment(loader=PackageLoader("cones.atlas"), autoescape=True)
    return templates.get_template("atlas.html").render(gather(concepts, names, heads))
