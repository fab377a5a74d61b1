"""The page holds the figures of the analysis, and whatever a file says stays text."""

import base64
import html
import io
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cones.atlas as atlas
from cones.analysis.overlap import overlap
from cones.atlas import page
from cones.concept import Concept, Word
from cones.errors import MaskError
from cones.fingerprint import Fingerprint
from cones.mask import Mask

EVIL = "<img/src=x/onerror=alert(1)>"
NAME = "{}.attentions.0.transformer_blocks.0.attn{}.to_{}.weight"
DOWN = NAME.format("down_blocks.0", 1, "k")
MID = NAME.format("mid_block", 2, "k")
UP = NAME.format("up_blocks.1", 2, "v")
SHAPES = {UP: (16, 12), DOWN: (16, 16)}


def concept(
    seed: int, *, noun: str = "cat", shapes: dict[str, tuple[int, ...]] = SHAPES
) -> Concept:
    draw = torch.Generator().manual_seed(seed)
    hits = {name: torch.rand(shape, generator=draw) < 0.2 for name, shape in shapes.items()}
    base = Fingerprint(EVIL, "0" * 64, bytes(128))
    words = (Word(f"V{seed}*", noun),)
    return Concept((Mask.where(hits),), words, base, {EVIL: EVIL}, {"verdict": EVIL})


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def picture(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_the_page_runs_nothing_and_loads_nothing() -> None:
    text = page([concept(1), concept(2)], ["a", "b"])
    found = Page(text)
    for tag, attributes in found.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
        assert not [name for name in attributes if name.startswith("on") or name == "href"]
        assert str(attributes.get("src", "data:")).startswith("data:image/png;base64,") or (
            "src" not in attributes
        )
    policy = next(str(a["content"]) for _, a in found.tags if "http-equiv" in a)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not re.search(r"https?:|url\(|@import", text)


def test_what_a_file_says_stays_text() -> None:
    text = page([concept(1, noun=EVIL), concept(2)], [EVIL, EVIL])
    assert EVIL not in text
    assert text.count(html.escape(EVIL)) >= 5
    shown = [attributes for tag, attributes in Page(text).tags if tag == "img"]
    assert len(shown) == len(SHAPES)


def test_figures_are_those_of_the_analysis() -> None:
    a, b = concept(1), concept(2)
    found = overlap(a.mask, b.mask)
    said = " ".join(Page(page([a, b], ["a", "b"])).text.split())
    assert f"{found.shared} shared ({found.expected:,.1f} by chance, z {found.z:+.1f})" in said
    assert f"Jaccard {100 * found.jaccard:.2f} % ({100 * found.jaccard_by_chance:.2f}" in said
    for each in (a, b):
        assert f"{len(each.mask)} neurons, {100 * each.density:.2f} % of the" in said
    assert f"{DOWN}, 16 × 16: {len(a.mask.indices[DOWN])}" in said
    block = len(a.mask.indices[UP]) / math.prod(SHAPES[UP])
    assert f"{100 * block:.1f}" in said


def test_a_picture_shows_who_holds_what() -> None:
    a, b = concept(1).mask, concept(2).mask
    pixels = picture(atlas.picture([a, b], SHAPES[UP], UP))
    assert pixels.shape == (16, 12, 4)
    inks = [(25, 113, 194), (232, 89, 12), (29, 29, 31)]
    ours, theirs = (m.hits()[UP].numpy() for m in (a, b))
    for ink, held in zip(inks, (ours & ~theirs, theirs & ~ours, ours & theirs), strict=True):
        assert (pixels[held] == (*ink, 255)).all()
    assert (pixels[~(ours | theirs)][:, 3] == 0).all()


def test_large_layers_are_shown_in_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas, "SIDE", 4)
    mask = concept(1).mask
    pixels = picture(atlas.picture([mask], SHAPES[UP], UP))
    counts = mask.hits()[UP].numpy().reshape(4, 4, 3, 4).sum((1, 3))
    assert np.abs(pixels[..., 3] - 255 * np.sqrt(counts / counts.max())).max() <= 0.5


def test_layers_come_as_a_picture_passes_them() -> None:
    text = Page(page([concept(1, shapes={UP: (2, 2), MID: (2, 2), DOWN: (2, 2)})], ["a"])).text
    places = [text.index(f"{name}, 2 × 2:") for name in (DOWN, MID, UP)]
    assert places == sorted(places)


def test_scopes_may_differ_but_not_models() -> None:
    only = concept(2, shapes={UP: SHAPES[UP]})
    assert "not searched" in page([concept(1), only], ["a", "b"])
    with pytest.raises(MaskError):
        page([concept(1), concept(2, shapes={UP: (8, 12)})], ["a", "b"])
    for count in (0, 9):
        with pytest.raises(MaskError, match=f"found {count} concepts; expected 1 to 8"):
            page([concept(k) for k in range(count)], ["x"] * count)


@pytest.mark.slow
def test_nothing_overflows_in_a_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if browser is None:
        pytest.skip("no Chromium here")
    file = tmp_path / "atlas.html"
    long = "x" * 60
    file.write_text(page([concept(k, noun=f"{long} y") for k in range(3)], [long] * 3), "utf-8")
    with driver.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for width in (420, 1100):
            shown = chromium.new_page(viewport={"width": width, "height": 800})
            shown.goto(file.as_uri())
            shown.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
        chromium.close()
