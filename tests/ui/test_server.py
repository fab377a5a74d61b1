"""Who may ask, what is kept, and that a drawing ends with its request."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra 'ui' is not installed")
import uvicorn
from starlette.testclient import TestClient

from cones import ui
from cones.concept_file import dumps
from cones.errors import ConesError
from cones.ui import application, serve
from cones.ui.studio import Order, Studio, Tell
from fakes import tiny_concept, tiny_pipeline

EVIL = "<script>x</script>"
ORDER: dict[str, Any] = {"prompt": "a V* cat", "num_inference_steps": 1, "count": 1}


@pytest.fixture(scope="module")
def pipeline() -> Any:  # noqa: ANN401 - a diffusers pipeline
    return tiny_pipeline()


@pytest.fixture
def studio(pipeline: Any) -> Studio:  # noqa: ANN401
    studio = Studio(pipeline)
    studio.add("cat.safetensors", tiny_concept(pipeline))
    return studio


@pytest.fixture
def client(studio: Studio) -> TestClient:
    return TestClient(application(studio), base_url="http://127.0.0.1:7860")


def test_the_page_may_load_nothing_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/static/page.js", "/static/page.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert not re.search(r"https?://|@import|<script>|style=|onclick", answer.text)
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; img-src data:; ")
    assert client.get("/static/../studio.py").status_code == 404
    assert client.get("/static/..%2fstudio.py").status_code == 404


def test_cards_show_what_a_file_says_as_text(client: TestClient, studio: Studio) -> None:
    studio.add(EVIL, tiny_concept(studio.pipeline, EVIL, EVIL, seed=2))
    text = client.get("/").text
    assert EVIL not in text
    assert text.count("&lt;script&gt;x&lt;/script&gt;") >= 4
    assert text.count('<article class="card"') == 2
    assert "a V* cat in the snow" in text


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.nip.io", "127.0.0.2", "0.0.0.0", "",
     "127.0.0.1@evil.example", "localhost.evil.example"],
)  # fmt: skip
def test_unknown_names_are_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("host", ["localhost:7860", "LOCALHOST", "[::1]:7860", "127.0.0.1"])
def test_names_of_this_machine_are_known(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1:7861", "http://localhost:7860",
     "http://127.0.0.1:7860@evil.example", "http://evil.example#127.0.0.1:7860"],
)  # fmt: skip
def test_other_sites_are_refused(client: TestClient, studio: Studio, origin: str) -> None:
    assert client.delete("/concepts/1", headers={"Origin": origin}).status_code == 403
    assert list(studio.loaded) == [1]


def test_our_own_page_may_ask(client: TestClient, studio: Studio) -> None:
    ours = {"Origin": "http://127.0.0.1:7860"}
    assert client.delete("/concepts/1", headers=ours).status_code == 200
    assert client.delete("/concepts/1").status_code == 200
    assert not studio.loaded


def test_uploads_that_cannot_be_shown_are_not_kept(
    client: TestClient, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = dumps(tiny_concept(studio.pipeline, "V2*", "jar", seed=2))
    other = dumps(tiny_concept(tiny_pipeline(seed=9)))
    for data in (b"", b"junk", b"<script>", good[:-1], good + b"x", other):
        answer = client.post("/concepts?name=../a%0Ab.safetensors", content=data)
        assert answer.status_code == 400
        assert "\n" not in answer.json()["error"]
        assert list(studio.loaded) == [1]
    answer = client.post("/concepts?name=..%2F..%2Fjar.safetensors", content=good)
    assert answer.status_code == 200
    assert "<summary>jar.safetensors</summary>" in answer.text
    assert "V2* jar" in answer.text
    assert list(studio.loaded) == [1, 2]
    monkeypatch.setattr(ui, "LARGEST_FILE", 10)
    answer = client.post("/concepts", content=b"x" * 11)
    assert answer.json()["error"].startswith("found more than 10 bytes")
    assert client.get("/").status_code == 200


def test_a_card_that_fails_is_not_kept(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(application(studio), "http://127.0.0.1", raise_server_exceptions=False)

    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such filter")

    with monkeypatch.context() as patched:
        patched.setattr(ui.PAGES, "TemplateResponse", broken)
        good = dumps(tiny_concept(studio.pipeline, "V2*", "jar", seed=2))
        assert client.post("/concepts?name=a", content=good).status_code == 500
    assert list(studio.loaded) == [1]
    assert client.get("/").status_code == 200


def lines(answer: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - of httpx
    assert answer.text.endswith("\n")  # the page reads whole lines
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_drawing_is_told_line_by_line(client: TestClient) -> None:
    answer = client.post("/draw", json=ORDER | {"choices": [{"number": 1, "strength": 0.5}]})
    told = lines(answer)
    rows = {line["row"]: line["pictures"] for line in told if "row" in line}
    assert list(rows) == ["untouched", "shut"]
    assert all(picture.startswith("data:image/png;base64,") for picture in sum(rows.values(), []))
    assert {"done": 0, "total": 2} in told


def test_errors_are_one_line(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for odd in ({"prompt": ""}, {"count": 9}, {"choices": [{"number": 7}]}):
        answer = client.post("/draw", json=ORDER | odd)
        assert answer.status_code == 400
        assert "\n" not in answer.json()["error"]
    glued = ORDER | {"prompt": "a V*cat", "choices": [{"number": 1}]}
    assert "glued" in lines(client.post("/draw", json=glued))[-1]["error"]

    def broken(*_: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(Studio, "draw", broken)
    assert lines(client.post("/draw", json=ORDER))[-1] == {"error": "RuntimeError: out of memory"}


class Patient(Studio):
    """Draws for as long as it is let, and notes when it begins and ends."""

    def __init__(self) -> None:
        super().__init__(tiny_pipeline())
        self.begun: list[str] = []
        self.ended: list[str] = []

    def draw(self, order: Order, tell: Tell, stop: threading.Event) -> None:
        self.begun.append(order.prompt)
        if stop.wait(30):
            self.ended.append(order.prompt)


@pytest.fixture
def patient() -> Iterator[tuple[Patient, int]]:
    """Serve a patient studio for real."""
    studio = Patient()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            application(studio), log_level="error", timeout_graceful_shutdown=1
        )
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        yield studio, listener.getsockname()[1]
        running.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def ask(port: int, prompt: str) -> socket.socket:
    body = json.dumps(ORDER | {"prompt": prompt}).encode()
    asked = socket.create_connection(("127.0.0.1", port))
    head = f"POST /draw HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
    asked.sendall(head.encode() + body)
    return asked


def until(wanted: Any) -> None:  # noqa: ANN401 - a condition
    limit = time.monotonic() + 60  # for busy machines
    while not wanted():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_closed_browser_stops_its_drawing_and_frees_the_queue(
    patient: tuple[Patient, int],
) -> None:
    studio, port = patient
    first = ask(port, "first")
    until(lambda: studio.begun == ["first"])
    second, third = ask(port, "second"), ask(port, "third")
    seen = b""
    while b'"ahead": 1' not in seen:  # it waits, and is told so
        seen += second.recv(1000)
    second.close()  # it never begins
    first.close()
    until(lambda: studio.ended == ["first"])
    until(lambda: studio.begun == ["first", "third"])
    third.close()
    until(lambda: studio.ended == ["first", "third"])


def test_the_queue_is_bounded(
    patient: tuple[Patient, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, port = patient
    monkeypatch.setattr(ui, "MOST_DRAWINGS", 1)
    with ask(port, "first"):
        until(lambda: studio.begun == ["first"])
        with ask(port, "second") as second:
            seen = b""
            while b"found 1 drawings waiting" not in seen:
                seen += (part := second.recv(1000))
                assert part


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Note what would be served, and where."""
    found: list[tuple[Any, Any]] = []

    def run(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        found.append((self.config.app, sockets[0].getsockname()))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return found


def test_loopback_is_the_default_and_needs_no_token(
    pipeline: Any,  # noqa: ANN401
    served: list[tuple[Any, Any]],
) -> None:
    told: list[str] = []
    serve(pipeline, [tiny_concept(pipeline)], ["a cat"], port=0, ready=told.append)
    (app, (host, port)) = served[0]
    assert host == "127.0.0.1"
    assert told == [f"http://127.0.0.1:{port}/"]
    assert "a cat</summary>" in TestClient(app, base_url=told[0]).get("/").text
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConesError, match=f"cannot listen on 127.0.0.1 port {port}"):
            serve(pipeline, [], [], port=port, ready=told.append)
    assert len(served) == 1


def test_beyond_this_machine_every_address_needs_the_token(
    pipeline: Any,  # noqa: ANN401
    served: list[tuple[Any, Any]],
) -> None:
    told: list[str] = []
    for _ in range(2):
        serve(pipeline, [], [], host="0.0.0.0", port=0, ready=told.append)
    made, another = (address.split("/")[3] for address in told)
    assert len(made) >= 20
    assert made != another
    client = TestClient(served[0][0], base_url=told[0].removesuffix(f"{made}/"))
    assert client.get(f"/{made}/").status_code == 200
    assert client.get(f"/{made}/static/page.js").status_code == 200
    for path in ("/", "/static/page.js", "/draw", "/concepts/1", f"/{made[:-1]}/"):
        assert client.get(path).status_code == 404
    assert client.get(f"/{made}/", headers={"Host": "evil.example"}).status_code == 400
