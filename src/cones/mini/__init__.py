"""The built-in model: a small Stable Diffusion that ships with the package.

Only the path of its weights lives here, so that importing it costs nothing; the pretraining
script and its stages are the other files of this folder.
"""

from pathlib import Path


def weights_path() -> Path:
    """Return the folder of the built-in model, in the standard diffusers layout.

    The folder may be absent in a source tree whose weights were not packed yet; whoever loads
    it says so.
    """
    return Path(__file__).parent / "weights"
