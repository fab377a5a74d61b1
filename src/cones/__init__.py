"""Cones: find the concept neurons of a subject in a diffusion model, and shut them.

The public names, in the order in which one meets them. They are imported when first used:
``import cones`` itself loads neither torch nor diffusers. The two verbs share their name with the
module they live in: ``from cones.find import find``, ``from cones.generate import generate``.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load_pipeline": "backbones",
    "Subject": "subject",
    "Settings": "settings",
    "Concept": "concept",
    "combine": "concept",
    "save": "concept_file",
    "load": "concept_file",
    "ConceptMask": "mask",
    "shut": "intervention",
    "Intervention": "intervention",
    "export_diffusers": "export",
    "ConesError": "errors",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cones' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(f"cones.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
