"""Cones: find the concept neurons of a subject in a diffusion model, and shut them.

The public names, in the order in which one meets them. They are imported when first used:
``import cones`` itself loads neither torch nor diffusers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cones.concept import Concept as Concept
    from cones.concept import Word as Word
    from cones.concept_file import load as load
    from cones.drawing import compare as compare
    from cones.drawing import generate as generate
    from cones.errors import ConesError as ConesError
    from cones.exporting import export as export
    from cones.intervention import Intervention as Intervention
    from cones.intervention import shut as shut
    from cones.mask import Mask as Mask
    from cones.models.loading import load_pipeline as load_pipeline
    from cones.search.find import find as find
    from cones.search.find import find_jointly as find_jointly
    from cones.search.settings import Settings as Settings
    from cones.subject import Subject as Subject

__version__ = "0.2.0"

_HOMES = {
    "load_pipeline": "models.loading",
    "find": "search.find",
    "find_jointly": "search.find",
    "Settings": "search.settings",
    "Subject": "subject",
    "Concept": "concept",
    "Word": "concept",
    "load": "concept_file",
    "generate": "drawing",
    "compare": "drawing",
    "export": "exporting",
    "Mask": "mask",
    "Intervention": "intervention",
    "shut": "intervention",
    "ConesError": "errors",
}
__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Import a public name from the module it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cones' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(f"cones.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
