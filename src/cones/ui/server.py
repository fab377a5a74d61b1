"""Serves a studio to browsers: one queue of drawings, one thread that draws.

A drawing lives as long as its request: when the browser stops or closes, starlette cancels the
answer, and the drawing ends before its next step or leaves the queue. Pages elsewhere can make a
browser send requests here, but cannot choose the headers Host and Origin, so both are checked.
Beyond this machine every address begins with the token.
"""

import asyncio
import json
import queue
import re
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import PurePath

import uvicorn
from jinja2 import Environment, PackageLoader
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cones.concept import Concept
from cones.concept_file import loads
from cones.errors import ConesError, PromptError
from cones.models import Pipeline
from cones.models.sampling import defaults
from cones.ui.order import Order, parse
from cones.ui.studio import Studio

LARGEST_FILE, LARGEST_ORDER = 64 * 2**20, 2**16  # bytes
MOST_DRAWINGS = 8  # at work or waiting
BEAT = 0.1  # seconds between two lines
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PAGES = Environment(loader=PackageLoader("cones.ui"), autoescape=True)
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
        self.drawings: dict[Future, threading.Event] = {}  # oldest first
        self.thread = ThreadPoolExecutor(1)

    async def page(self, _: Request) -> Response:
        entries = list(self.studio.entries.values())
        prompt = f"{entries[0].concept.prompt} in the snow" if entries else "a cat"
        steps, guidance = defaults(self.studio.model)
        about = {"model": self.studio.model.name, "steps": steps, "guidance": guidance}
        text = PAGES.get_template("page.html").render(about, entries=entries, prompt=prompt)
        return HTMLResponse(text, headers=POLICY)

    async def add(self, request: Request) -> Response:
        name = PurePath(request.query_params.get("name", "")).name[:100] or "a file"
        concept = await asyncio.to_thread(loads, await _body(request, LARGEST_FILE))
        entry = self.studio.add(name, concept)
        return HTMLResponse(PAGES.get_template("card.html").render(entry=entry))

    async def remove(self, request: Request) -> Response:
        await _body(request, 0)
        self.studio.entries.pop(request.path_params["number"], None)
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
        self.drawings[drawing] = stop
        try:
            while not (drawing.done() and told.empty()):
                if told.empty():
                    await asyncio.sleep(BEAT)
                    told.put({"ahead": list(self.drawings).index(drawing)})
                yield f"{json.dumps(told.get())}\n"
            drawing.result()
        except Exception as error:  # whatever ends a drawing is for its browser
            yield f"{json.dumps({'error': _said(error)})}\n"
        finally:
            stop.set()
            drawing.cancel()
            del self.drawings[drawing]

    def close(self) -> None:
        for stop in self.drawings.values():
            stop.set()
        self.thread.shutdown(cancel_futures=True)


def application(
    studio: Studio, *, hosts: Sequence[str] = LOOPBACK, token: str | None = None
) -> Starlette:
    """Build the web application of a studio: asked for under ``hosts``, below ``/token``."""
    desk = _Desk(studio)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        desk.close()

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
        lifespan=lifespan,
    )


def serve(
    pipeline: Pipeline,
    concepts: Sequence[Concept] = (),
    names: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    ready: Callable[[str], object] = lambda address: None,
) -> None:
    """Serve the page until the process is told to end; a drawing under way is stopped then.

    Only this machine can reach it unless ``host`` says otherwise; visitors need the ``token``
    then, which is made if it is not given. Port 0 takes a free one. ``names`` are those of the
    concepts' files. ``ready`` is called with the address to open, token and all.

    Raises:
        ConesError: A concept does not fit the model, or the address cannot be taken.
    """
    if host not in ("localhost", "127.0.0.1", "::1"):
        token = token or secrets.token_urlsafe(16)
    if token and not re.fullmatch(r"[\w-]{16,}", token):
        raise ConesError("found a short or odd token; expected 16 letters, - and _; leave it out")
    studio = Studio(pipeline)
    for number, concept in enumerate(concepts):
        studio.add(names[number] if names else f"concept {number + 1}", concept)
    name = socket.gethostname().lower() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    app = application(studio, hosts=[*LOOPBACK, name], token=token)
    with _listener(host, port) as listener:
        ready(f"http://{name}:{listener.getsockname()[1]}/{f'{token}/' if token else ''}")
        quiet = {"log_level": "warning", "access_log": False, "server_header": False}
        config = uvicorn.Config(app, proxy_headers=False, timeout_graceful_shutdown=1, **quiet)
        uvicorn.Server(config).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        what = f"cannot listen on {host} port {port} ({error})"
        raise ConesError(f"{what}; expected a free port here; choose another") from error


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
