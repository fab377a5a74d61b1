"""Every error the library raises on purpose.

``except ConesError`` catches all of them. Each is also the built-in it resembles, and each message
says what was found, what was expected and what to do::

    ConesError
    ├── MaskError (ValueError)             a mask does not fit a model, or another mask
    ├── CodecError (ValueError)            a concept file is damaged, or of an unknown kind
    ├── SubjectError (ValueError)          images, noun or identifier of a subject are unusable
    ├── SearchError (ValueError)           a search was asked for something impossible
    ├── BackboneError (TypeError)          a pipeline is of a kind that is not supported
    └── InterventionError (RuntimeError)   a model cannot be written to
"""


class ConesError(Exception):
    """Base of every error of the library."""


class MaskError(ConesError, ValueError):
    """A mask is malformed, or does not fit the model or the mask it meets."""


class CodecError(ConesError, ValueError):
    """A concept file is damaged, or was written by something else."""


class SubjectError(ConesError, ValueError):
    """The images, the noun or the identifier of a subject cannot be used."""


class SearchError(ConesError, ValueError):
    """A search was asked for something impossible."""


class BackboneError(ConesError, TypeError):
    """A pipeline is missing, or of a kind that is not supported."""


class InterventionError(ConesError, RuntimeError):
    """The weights of a model cannot be written in place."""
