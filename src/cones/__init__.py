"""Cones: find the concept neurons of a subject in a diffusion model, and shut them.

The public names, in the order in which one meets them. They are imported when first used:
``import cones`` itself loads neither torch nor diffusers.
"""

from importlib import import_module

__version__ = "0.2.0"

_HOMES = {
    "load_pipeline": "models.loading",
    "find": "search.find",
    "find_jointly": "search.find",
    "Settings": "search.settings",
    "Subject": "subject",
    "Concept": "concept",
    "Word": "concept",
    "load": "hub",
    "push": "hub",
    "generate": "drawing",
    "Request": "drawing",
    "compare": "drawing",
    "export": "exporting",
    "Library": "library",
    "Mask": "mask",
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
