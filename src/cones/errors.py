"""Every error the library raises on purpose; ``except ConesError`` catches all of them.

Each is also the built-in error it resembles. A message has three parts: what was found; what was
expected; what to do.
"""


class ConesError(Exception):
    """Base of every error of the library."""


class MaskError(ConesError, ValueError):
    """A mask is malformed, or does not fit the model, mask or concept it meets."""


class FileError(ConesError, ValueError):
    """A concept file is damaged, or is something else."""


class SubjectError(ConesError, ValueError):
    """The photos, the noun or the identifier of a subject cannot be used."""


class SearchError(ConesError, ValueError):
    """A search was asked for something impossible."""


class PromptError(ConesError, ValueError):
    """A prompt would not do what it says."""


class ModelError(ConesError, TypeError):
    """A pipeline is missing, or of a kind that is not supported."""


class InterventionError(ConesError, RuntimeError):
    """The weights of a model cannot be written now."""
