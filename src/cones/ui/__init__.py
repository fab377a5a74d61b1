"""A web page on this machine that draws with concepts (``cones ui``).

Nothing is loaded from elsewhere. A drawing lives as long as its request: when the browser stops or
closes, starlette cancels the answer, and the drawing ends before its next step or leaves the
queue. Pages elsewhere can make a browser send requests here, but cannot choose the headers Host
and Origin, so both are checked. Beyond this machine every address begins with a token.
"""

import asyncio
import json
import queue
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath

import uvicorn
from jinja2 import Environment, PackageLoader
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from cones.concept import Concept
from cones.concept_file import loads
from cones.errors import ConesError, PromptError
from cones.models import Pipeline
from cones.models.sampling import defaults
from cones.ui.studio import Order, Studio, parse

LARGEST_FILE, LARGEST_ORDER = 64 * 2**20, 2**16  # bytes
MOST_DRAWINGS = 8  # at work or waiting
BEAT = 0.1  # seconds between two lines
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PAGES = Jinja2Templates(env=Environment(loader=PackageLoader("cones.ui"), autoescape=True))
POLICY = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Desk:
    """Turns requests into calls of the studio, drawings one after another."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.drawings: list[Future] = []  # oldest first
        self.thread = ThreadPoolExecutor(1)

    async def page(self, request: Request) -> Response:
        steps, guidance = defaults(self.studio.model)
        shown = {"studio": self.studio, "steps": steps, "guidance": guidance}
        return PAGES.TemplateResponse(request, "page.html", shown, headers=POLICY)

    async def add(self, request: Request) -> Response:
        name = PurePath(request.query_params.get("name", "")).name[:100] or "a file"
        concept = await asyncio.to_thread(loads, await _body(request, LARGEST_FILE))
        shown = {"number": self.studio.add(name, concept), "name": name, "concept": concept}
        try:
            return PAGES.TemplateResponse(request, "card.html", shown)
        except BaseException:  # what cannot be shown would block the page for all
            del self.studio.loaded[shown["number"]]
            raise

    async def remove(self, request: Request) -> Response:
        await _body(request, 0)
        self.studio.loaded.pop(request.path_params["number"], None)
        return JSONResponse({})

    async def draw(self, request: Request) -> Response:
        order = parse(await _body(request, LARGEST_ORDER))
        self.studio.chosen(order)
        if len(self.drawings) >= MOST_DRAWINGS:
            raise PromptError(f"found {MOST_DRAWINGS} drawings waiting; expected fewer; try later")
        return StreamingResponse(self._lines(order), media_type="application/x-ndjson")

    async def _lines(self, order: Order) -> AsyncIterator[str]:
        """Draw, and tell of it in lines of JSON; a line now and then finds out who has gone."""
        stop, told = threading.Event(), queue.SimpleQueue()
        drawing = self.thread.submit(self.studio.draw, order, told.put, stop)
        self.drawings.append(drawing)
        try:
            while not (drawing.done() and told.empty()):
                if told.empty():
                    await asyncio.sleep(BEAT)
                    told.put({"ahead": self.drawings.index(drawing)})
                yield f"{json.dumps(told.get())}\n"
            drawing.result()
        except Exception as error:  # whatever ends a drawing is for its browser
            yield f"{json.dumps({'error': _said(error)})}\n"
        finally:
            stop.set()
            drawing.cancel()
            self.drawings.remove(drawing)


def application(
    studio: Studio, *, hosts: Sequence[str] = LOOPBACK, token: str | None = None
) -> Starlette:
    """Build the web application of a studio: asked for under ``hosts``, below ``/token``."""
    desk = _Desk(studio)

    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": _said(error)}, 400)

    routes = [
        Route("/", desk.page),
        Route("/concepts", desk.add, methods=["POST"]),
        Route("/concepts/{number:int}", desk.remove, methods=["DELETE"]),
        Route("/draw", desk.draw, methods=["POST"]),
        Mount("/static", StaticFiles(packages=[("cones.ui", "static")])),
    ]
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)] if token else routes,
        middleware=[trusted],
        exception_handlers={ConesError: refused},
    )


def serve(
    pipeline: Pipeline,
    concepts: Sequence[Concept],
    names: Sequence[str],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    ready: Callable[[str], object],
) -> None:
    """Serve the page until the process is told to end; a drawing under way is stopped then.

    Only this machine can reach it unless ``host`` says otherwise; the address holds a token then.
    Port 0 takes a free one. ``names`` are those of the concepts' files. ``ready`` is called with
    the address to open.
    """
    token = None if host in ("localhost", "127.0.0.1", "::1") else secrets.token_urlsafe(16)
    studio = Studio(pipeline)
    for name, concept in zip(names, concepts, strict=True):
        studio.add(name, concept)
    name = socket.gethostname().lower() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    app = application(studio, hosts=[*LOOPBACK, name], token=token)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        what = f"cannot listen on {host} port {port} ({error})"
        raise ConesError(f"{what}; expected a free port here; choose another") from error
    with listener:
        ready(f"http://{name}:{listener.getsockname()[1]}/{f'{token}/' if token else ''}")
        quiet = {"log_level": "warning", "access_log": False, "server_header": False}
        config = uvicorn.Config(app, proxy_headers=False, timeout_graceful_shutdown=1, **quiet)
        uvicorn.Server(config).run(sockets=[listener])


async def _body(request: Request, largest: int) -> bytes:
    """Read what our own page sends, and refuse what another site's page does."""
    origin, host = (request.headers.get(name) for name in ("origin", "host"))
    if origin not in (None, f"http://{host}", f"https://{host}"):
        raise HTTPException(403, "sent by another site")
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > largest:
            raise PromptError(f"found more than {largest:,} bytes; expected less; send less")
    return bytes(data)


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, ConesError) else f"{type(error).__name__}: {text}"
