"""``cones ui``: a local web page that loads concepts, weighs them and draws beside the model."""

import ipaddress
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from cones.cli import options, places, screen
from cones.errors import CodecError, ConesError

Files = Annotated[
    list[Path] | None, typer.Argument(help="Concept files to start with; the page takes more.")
]
Host = Annotated[
    str, typer.Option(help="Address to listen on. Beyond this machine there is no password.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any.")]
HERE = ("localhost", "127.0.0.1", "::1")


@screen.guarded
def ui(
    files: Files = None,
    model: options.Model = None,
    host: Host = "127.0.0.1",
    port: Port = 7860,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """Open a page: tick and weigh concepts, draw beside the untouched model, see attention.

    Needs the extra 'ui'. Only this machine can reach it unless --host says otherwise. The page
    loads nothing from the network and sends nothing. Ctrl-C ends it.

    **Example:**  cones ui cat.safetensors jar.safetensors
    """
    server = _server()
    from cones.ui.studio import Studio

    paths = places.require_files(files or [], what="a concept file")
    listener = server.bind(host, port)
    with listener:
        pipeline = places.pipeline(model, device=device, dtype=dtype, half=True)
        studio = Studio(pipeline, model or "built-in")
        for path in paths:
            _add(studio, path)
        if not _is_here(host):
            screen.warn(
                f"listening on {host}: whoever reaches it can draw and load files here, there "
                "is no password; leave --host out to keep it to this machine"
            )
        shown = f"[{host}]" if ":" in host else host
        screen.tell(f"open http://{shown}:{listener.getsockname()[1]}/   (Ctrl-C ends it)")
        app = server.application(studio, [*HERE, host] if _is_here(host) else ["*"])
        try:
            server.serve(app, listener)
        except KeyboardInterrupt:
            screen.say("ended")


def _server() -> ModuleType:
    try:
        from cones.ui import server
    except ModuleNotFoundError as error:
        raise ConesError(
            f"{error.name} is not installed, expected it for the page; pip install 'cones[ui]'"
        ) from error
    return server


def _add(studio: Any, path: Path) -> None:
    try:
        studio.add(path.name, path.read_bytes())
    except CodecError as error:
        raise CodecError(f"{path}: {error}") from error


def _is_here(host: str) -> bool:
    """Say whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
