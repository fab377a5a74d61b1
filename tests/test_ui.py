"""The page: its server, its command, and a browser that clicks through it."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cones.cli import app
from cones.concept import combine
from cones.concept_file import dumps, load
from cones.ui.studio import Studio
from fakes import make_concept

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PATIENCE = 120  # seconds, for busy machines
SHOWN = "[...document.images].every(image => image.complete && image.naturalWidth === 64)"
GIVEN = {"prompt": " a cat ", "seed": 1, "steps": 2, "guidance": 3, "count": 4, "choices": []}


@pytest.fixture
def studio(sd1: Any, fresh: Any) -> Studio:
    studio = Studio(fresh(sd1), "tiny")
    for word in ("V*", "V2*"):
        studio.add(f"{word}.safetensors", dumps(make_concept(sd1, word)))
    return studio


@pytest.fixture
def client(studio: Studio) -> Any:
    pytest.importorskip("uvicorn", reason="the extra 'ui' is not installed")
    testing = pytest.importorskip("starlette.testclient")
    from cones.ui.server import application

    app = application(studio, ["127.0.0.1"])
    return testing.TestClient(app, base_url="http://127.0.0.1:7860")


def test_the_page_may_load_nothing_from_elsewhere(client: Any) -> None:
    for path in ("/", "/page.js", "/page.css", "/state"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert not re.search(r"https?://|@import|innerHTML", answer.text)


def test_other_sites_and_names_are_refused(client: Any, studio: Studio) -> None:
    theirs = {"Origin": "https://example.com"}
    assert client.delete("/concepts/1", headers=theirs).status_code == 403
    assert client.get("/state", headers={"Host": "example.com"}).status_code == 400
    assert sorted(studio.concepts) == [1, 2]
    ours = {"Origin": "http://127.0.0.1:7860"}
    assert client.delete("/concepts/1", headers=ours).status_code == 200
    assert sorted(studio.concepts) == [2]


def test_errors_are_one_line(client: Any, studio: Studio, monkeypatch: Any) -> None:
    answers = {
        "is no JSON": client.post("/draw", content=b"{"),
        "no object": client.post("/draw", json=[]),
        "no picture": client.get("/picture/none/0"),
        "bad file": client.post("/concepts?name=../x%0Ay.safetensors", content=b"junk"),
        "no choice": client.post("/mixture", json={"choices": []}),
    }
    for case, answer in answers.items():
        assert answer.status_code == 400, case
        assert answer.json()["error"].count("; ") >= 1
        assert "\n" not in answer.json()["error"]
    assert answers["bad file"].json()["error"].startswith("x y.safetensors: ")
    monkeypatch.setattr("cones.ui.server.LARGEST_FILE", 10)
    answer = client.post("/concepts", content=b"x" * 11)
    assert answer.json()["error"].startswith("found more than 10 bytes")
    assert sorted(studio.concepts) == [1, 2]


def test_the_unexpected_is_told_too(studio: Studio, monkeypatch: Any, client: Any) -> None:
    def broken(_: Any) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(studio, "draw", broken)
    client = type(client)(client.app, "http://127.0.0.1", raise_server_exceptions=False)
    answer = client.post("/draw", json=GIVEN)
    assert answer.status_code == 500
    assert answer.json()["error"] == "RuntimeError: out of memory (more in the terminal)"


@pytest.fixture
def files(sd1: Any, tmp_path: Path) -> Path:
    """Write a tiny model and three concepts; two share a word."""
    sd1.save_pretrained(tmp_path / "model")
    (tmp_path / "cat.safetensors").write_bytes(dumps(make_concept(sd1)))
    second = make_concept(sd1, "V2*", "<i>pot</i>", seed=2)
    (tmp_path / "pot.safetensors").write_bytes(dumps(second))
    (tmp_path / "dog.safetensors").write_bytes(dumps(make_concept(sd1, noun="dog", seed=3)))
    return tmp_path


def ui(*words: object) -> Any:
    return CliRunner().invoke(app, ["ui", *map(str, words)])


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import cones.ui

    monkeypatch.delattr(cones.ui, "server", raising=False)
    monkeypatch.delitem(sys.modules, "cones.ui.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = ui()
    assert result.exit_code == 1
    assert "uvicorn is not installed" in result.stderr
    assert "pip install 'cones[ui]'" in result.stderr


def test_the_command_listens_here_and_warns_elsewhere(files: Path, monkeypatch: Any) -> None:
    pytest.importorskip("uvicorn", reason="the extra 'ui' is not installed")
    served = []
    monkeypatch.setattr("cones.ui.server.serve", lambda app, at: served.append(at.getsockname()))
    words = (files / "cat.safetensors", "--model", files / "model", "--port", 0)
    quiet = ui(*words)
    assert quiet.exit_code == 0, quiet.output
    assert served[0][0] == "127.0.0.1"
    assert f"http://127.0.0.1:{served[0][1]}/" in quiet.stdout
    assert "warning" not in quiet.stderr
    loud = ui(*words, "--host", "0.0.0.0")
    assert served[1][0] == "0.0.0.0"
    assert "warning: listening on 0.0.0.0" in loud.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = ui("--port", port)
    assert refused.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in refused.stderr
    bad = files / "bad.safetensors"
    bad.write_bytes(b"junk")
    assert f"{bad}: " in ui(bad, "--model", files / "model", "--port", 0).stderr


@pytest.fixture
def address(files: Path) -> Any:
    """Run the command as its users do, and end it with Ctrl-C."""
    pytest.importorskip("uvicorn", reason="the extra 'ui' is not installed")
    words = ["ui", files / "cat.safetensors", files / "pot.safetensors"]
    words += ["--model", files / "model", "--port", 0]
    command = [sys.executable, "-m", "cones.cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().split()[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0


@pytest.fixture
def page(address: str) -> Any:
    """Open the page in Chromium and note what it asks for and complains about."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"Chromium is not installed at {CHROMIUM}")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(accept_downloads=True)
        page.set_default_timeout(1000 * PATIENCE)
        heard = SimpleNamespace(asked=[], complaints=[])
        page.on("request", lambda request: heard.asked.append(request.url))
        page.on("pageerror", lambda error: heard.complaints.append(str(error)))
        page.goto(address)
        page.locator(".card").nth(1).wait_for()
        yield page
        browser.close()
    assert not heard.complaints
    assert heard.asked
    assert all(url.startswith((address, "data:", "blob:" + address)) for url in heard.asked)


def pictures(page: Any) -> list[str]:
    """Wait until every picture is loaded and give their addresses."""
    limit = time.monotonic() + PATIENCE
    while not page.evaluate(SHOWN):  # wait_for_function needs eval, which the page forbids
        assert time.monotonic() < limit
        page.wait_for_timeout(50)
    return page.eval_on_selector_all("#pictures img", "found => found.map(image => image.src)")


def draw(page: Any) -> list[str]:
    """Press the button, wait for the pictures and give their addresses."""
    page.click("#draw")
    page.wait_for_selector("#draw:not([disabled])")
    assert page.locator("#error").is_hidden()
    return pictures(page)


def error_of(page: Any) -> str:
    page.wait_for_selector("#error:not([hidden])")
    return page.inner_text("#error")


def test_the_page_from_end_to_end(page: Any, files: Path) -> None:
    cat, pot = page.locator(".card").all()
    assert cat.locator(".said").inner_text() == "V* cat"
    assert pot.locator(".said").inner_text() == "V2* <i>pot</i>"  # as text, not as a tag
    assert "shut 0.2500, random mask 0.7500" in cat.locator(".certificate").inner_text()
    pot.locator(".on").uncheck()
    for field, value in {"steps": 2, "count": 2, "seed": 5, "prompt": "a V* cat"}.items():
        page.fill(f"#{field}", str(value))
    first = draw(page)
    assert len(first) == 4
    cat.locator(".strength").fill("50")
    cat.locator(".level").fill("0")
    sparse = f"{100 * load(files / 'cat.safetensors').densities[0]:.2f} %"
    assert cat.locator(".line output").all_inner_texts() == ["50 %", sparse]
    second = draw(page)
    assert second[:2] == first[:2]
    assert not {*second[2:]} & {*first[2:]}
    assert f"V* cat, {sparse}, strength 50 %" in page.inner_text("#pictures")

    page.click("#words button:text-is('cat')")
    page.mouse.move(0, 0)
    page.locator("#words button[aria-pressed=true]").wait_for()
    assert pictures(page) == [f"{url}?word=cat" for url in second]

    page.set_input_files("#file", files / "dog.safetensors")
    dog = page.locator(".card").nth(2)
    assert dog.locator(".said").inner_text() == "V* dog"
    page.click("#mixture")
    assert "'V*' names a cat in one and a dog in the other" in error_of(page)
    dog.locator(".identifier").fill("V3*")
    with page.expect_download() as download:
        page.click("#mixture")
    assert page.locator("#error").is_hidden()
    download.value.save_as(files / "both.safetensors")
    assert download.value.suggested_filename == "cat-dog.cones.safetensors"
    parts = [load(files / "cat.safetensors").at(0.2), load(files / "dog.safetensors")]
    expected = combine(parts[0], parts[1].renamed("V3*"))
    assert (files / "both.safetensors").read_bytes() == dumps(expected)

    page.fill("#steps", "1000")
    page.click("#draw")
    page.wait_for_selector("#progress[value]")
    page.click("#stop")
    assert "stopped; finished rows are kept" in error_of(page)

    page.fill("#steps", "0")
    page.click("#draw")
    assert "found steps 0; expected a whole number from 1 to 1000" in error_of(page)
    assert page.input_value("#prompt") == "a V* cat"
    assert page.locator("#pictures img").count() == 4
    dog.locator(".remove").click()
    dog.wait_for(state="detached")
    assert page.locator(".card").count() == 2
