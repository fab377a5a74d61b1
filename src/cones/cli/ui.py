"""``cones ui``: a web page on this machine that draws with concepts."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from cones.cli import console, options
from cones.errors import ConesError

Start = Annotated[
    list[Path] | None, Argument(help="Concept files to start with.", show_default=False)
]
Host = Annotated[str, Option(help="Address to listen on; other machines need the token shown.")]
Port = Annotated[int, Option(min=0, max=65535, help="Port; 0 takes any.")]


def ui(
    *, files: Start = None, loading: options.Loading, host: Host = "127.0.0.1", port: Port = 7860
) -> None:
    """Open a page: choose concepts and their strengths, draw beside the untouched model.

    Needs the extra 'ui'. Ctrl-C ends it.

    **Example:**  cones ui cat.safetensors jar.safetensors
    """
    try:
        from cones.ui import serve
    except ModuleNotFoundError as error:
        raise ConesError(
            f"found no {error.name}; expected it for the page; pip install 'cones[ui]'"
        ) from error
    concepts = options.load_concepts(files or [])
    names = [path.name for path in files or []]
    shown = {"ready": lambda address: console.tell(f"open {address}   (Ctrl-C ends it)")}
    serve(loading.pipeline(), concepts, names, host=host, port=port, **shown)
