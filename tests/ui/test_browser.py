"""A browser clicks through the page; skipped where there is no Chromium."""

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cones.ui import serve
from fakes import tiny_concept, tiny_pipeline

driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
]
PATIENCE = 120_000  # milliseconds, for busy machines


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve a tiny model with one concept, as the command does."""
    import uvicorn

    pipeline, told, begun = tiny_pipeline(), [], threading.Event()
    servers: list[uvicorn.Server] = []
    run = uvicorn.Server.run
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda self, sockets: servers.append(self) or run(self, sockets)
    )

    def ready(at: str) -> None:
        told.append(at)
        begun.set()

    monkeypatch.setattr(socket, "gethostname", lambda: "127.0.0.1")
    given: dict[str, Any] = {"host": "0.0.0.0", "port": 0, "ready": ready}  # with a token
    thread = threading.Thread(
        target=serve, args=(pipeline, [tiny_concept(pipeline)], ["x" * 90]), kwargs=given
    )
    thread.start()
    assert begun.wait(60)
    yield told[0]
    servers[0].should_exit = True
    thread.join(30)


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        yield page
        browser.close()
    assert not complaints


def draw(page: Any) -> list[str]:  # noqa: ANN401 - of playwright
    page.click("#draw")
    page.wait_for_selector("#draw:not([disabled])")
    assert page.locator("#error").is_hidden(), page.inner_text("#error")
    return page.eval_on_selector_all("#pictures img", "found => found.map(image => image.src)")


def test_the_page_from_end_to_end(page: Any, tmp_path: Path) -> None:  # noqa: ANN401
    for name, value in {"num_inference_steps": 2, "count": 2, "seed": 5}.items():
        page.fill(f"[name={name}]", str(value))
    page.fill("[name=prompt]", "a V* cat")
    first = draw(page)
    assert len(first) == 4
    assert [line.split(", ")[0] for line in page.locator(".pair a").all_inner_texts()] == [
        "seed 5", "seed 5", "seed 6", "seed 6",
    ]  # fmt: skip
    page.locator(".strength").fill("50")
    assert page.locator("output").inner_text() == "50 %"
    second = draw(page)
    assert (second[0::2], len({*first, *second})) == (first[0::2], 6)
    assert page.get_attribute("#progress", "max") == "2"  # the untouched row was kept

    jar = tmp_path / "jar.safetensors"
    tiny_concept(tiny_pipeline(), "V*", "jar", seed=2).save(jar)
    page.set_input_files("#files", jar)
    page.locator(".card").nth(1).wait_for()
    page.click("#draw")
    page.wait_for_selector("#error:not([hidden])")
    page.locator(".identifier").nth(1).fill("V2*")
    assert len(draw(page)) == 4
    assert "does not say V2*" in page.inner_text("#message")
    (tmp_path / "bad.safetensors").write_bytes(b"junk")
    page.set_input_files("#files", tmp_path / "bad.safetensors")
    page.wait_for_selector("#error:not([hidden])")
    assert page.locator(".card").count() == 2

    page.fill("[name=num_inference_steps]", "200")
    page.fill("[name=count]", "8")
    page.click("#draw")
    page.wait_for_selector("#progress[value]")
    page.click("#stop")
    page.wait_for_selector("#draw:not([disabled])")
    assert page.inner_text("#message") == "stopped"
    page.fill("[name=num_inference_steps]", "2")
    assert len(draw(page)) == 16
    page.locator(".remove").nth(1).click()
    page.locator(".card").nth(1).wait_for(state="detached")

    for width in (420, 1100):
        page.set_viewport_size({"width": width, "height": 800})
        page.eval_on_selector("details", "part => { part.open = true; }")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
