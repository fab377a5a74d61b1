"""Serve a studio to a browser: a page of our own on starlette and uvicorn (the extra ``ui``).

Everything the page loads comes from here, and its policy forbids the browser to load more. Names
of other hosts and requests sent by other sites are refused, so that no web page elsewhere can
reach a server on this machine through the browser. There is no password: the address is the
protection.
"""

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cones import __version__
from cones.errors import CodecError, ConesError, SearchError
from cones.ui.order import Order, choices
from cones.ui.studio import Studio

PAGE = Path(__file__).with_name("page")
LARGEST_FILE, LARGEST_QUESTION = 256 * 2**20, 2**20  # bytes
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def application(studio: Studio, hosts: Sequence[str]) -> Starlette:
    """Build the web application of a studio.

    Args:
        studio: What is served; every visitor sees the same one.
        hosts: Names under which it may be asked for; ``*`` is any.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        studio.stop()

    desk = _Desk(studio)
    return Starlette(
        routes=[
            Route("/state", desk.state),
            Route("/progress", desk.progress),
            Route("/concepts", desk.add, methods=["POST"]),
            Route("/concepts/{number:int}", desk.remove, methods=["DELETE"]),
            Route("/draw", desk.draw, methods=["POST"]),
            Route("/stop", desk.stop, methods=["POST"]),
            Route("/mixture", desk.mixture, methods=["POST"]),
            Route("/picture/{row}/{number:int}", desk.picture),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
            Middleware(BaseHTTPMiddleware, dispatch=_guard),
        ],
        exception_handlers={ConesError: _refused, Exception: _failed},
        lifespan=lifespan,
    )


def bind(host: str, port: int) -> socket.socket:
    """Take an address; port 0 takes a free one.

    Raises:
        ConesError: It is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ConesError(
            f"cannot listen on {host} port {port} ({error}); expected an address of this machine "
            "and a free port; choose another --port"
        ) from error


def serve(app: Starlette, listener: socket.socket) -> None:
    """Serve until the process is told to end; a drawing under way is stopped then."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


class _Desk:
    """Turns requests into calls of the studio."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    async def state(self, _: Request) -> Response:
        listed = [self.studio.describe(number) for number in list(self.studio.concepts)]
        about = {"model": self.studio.model, "version": __version__}
        return JSONResponse({**about, "concepts": listed})

    async def progress(self, _: Request) -> Response:
        done, count = self.studio.progress
        return JSONResponse({"done": done, "count": count})

    async def add(self, request: Request) -> Response:
        data = await _body(request, LARGEST_FILE)
        name = Path(request.query_params.get("name", "")).name or "a file"
        try:
            number = await run_in_threadpool(self.studio.add, name, data)
        except CodecError as error:
            raise CodecError(f"{name}: {error}") from error
        return JSONResponse(self.studio.describe(number))

    async def remove(self, request: Request) -> Response:
        self.studio.remove(request.path_params["number"])
        return JSONResponse({})

    async def draw(self, request: Request) -> Response:
        order = Order.parse(await _json(request))
        return JSONResponse(asdict(await run_in_threadpool(self.studio.draw, order)))

    async def stop(self, _: Request) -> Response:
        self.studio.stop()
        return JSONResponse({})

    async def mixture(self, request: Request) -> Response:
        chosen = choices(await _json(request))
        data = await run_in_threadpool(self.studio.mixture, chosen)
        return Response(data, media_type="application/octet-stream")

    async def picture(self, request: Request) -> Response:
        row, number = request.path_params["row"], request.path_params["number"]
        word = request.query_params.get("word")
        if word is None:
            data = await run_in_threadpool(self.studio.picture, row, number)
        else:
            data = await run_in_threadpool(self.studio.attention, row, number, word)
        return Response(data, media_type="image/png")


async def _guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse what another site's page sends, and forbid ours to load anything from elsewhere."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        response: Response = JSONResponse({"error": "sent by another site"}, status_code=403)
    else:
        response = await answer(request)
    response.headers.update(HEADERS)
    return response


async def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": " ".join(str(error).split())}, status_code=400)


async def _failed(_: Request, error: Exception) -> Response:
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return JSONResponse({"error": f"{said} (more in the terminal)"}, status_code=500)


async def _body(request: Request, largest: int) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > largest:
            raise SearchError(f"found more than {largest:,} bytes; expected less; send less")
        parts.append(part)
    return b"".join(parts)


async def _json(request: Request) -> Any:
    try:
        return json.loads(await _body(request, LARGEST_QUESTION))
    except (ValueError, RecursionError) as error:
        raise SearchError("found no JSON; expected an object; reload the page") from error
