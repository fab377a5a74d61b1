"""The atlas: figures that agree with the statistics, a page that trusts no file and no network."""

import base64
import hashlib
import json
import math
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cones.atlas
from cones.atlas import Entry, gathered, page
from cones.atlas.gathered import short
from cones.atlas.places import gaps, share
from cones.base_check import BaseCheck
from cones.cli import app
from cones.concept import Concept, Member
from cones.concept_file import save
from cones.errors import MaskError
from cones.layout import by_row, who_holds
from cones.mask import ConceptMask
from cones.stats import overlap

BLOCK = "transformer_blocks.0"
SHAPES = {
    f"up_blocks.0.attentions.0.{BLOCK}.attn2.to_v.weight": (120, 192),
    f"down_blocks.0.attentions.0.{BLOCK}.attn1.to_k.weight": (12, 700),
    f"mid_block.attentions.0.{BLOCK}.attn2.to_k.weight": (6, 192),
}
DOWN, MID, UP = sorted(SHAPES)
EVIL = "</script><script>alert(1)</script><!-- \u2028 & \"'>"
OUTSIDE = ("src", "href", "action", "data", "srcset", "poster", "formaction")


def concept(seed: int, *, density: float = 0.02, shapes=SHAPES, word="V*", noun="cat") -> Concept:
    g = torch.Generator().manual_seed(seed)
    mask = ConceptMask.where({n: torch.rand(s, generator=g) < density for n, s in shapes.items()})
    base = BaseCheck.of({n: torch.ones(s) for n, s in shapes.items()}, "maker/base")
    losses = {
        side: {"subject": 0.5, "prior": 0.4, "loss": loss}
        for side, loss in (("untouched", 0.9), ("random", 0.91), ("shut", 0.8))
    }
    curve = [{"density": d, "subject": 0.4, "prior": 0.4, "loss": 0.8} for d in (0.01, 0.02)]
    certificate = {**losses, "curve": curve, "standard_error": 0.01, "held_out_samples": 16}
    return Concept((mask,), 0, (Member(word, noun),), base, {"rule": "refine"}, certificate)


def entries(*concepts: Concept) -> list[Entry]:
    return [Entry(c, f"{k}.safetensors", 1000 + k) for k, c in enumerate(concepts)]


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.scripts: list[tuple[dict[str, Any], str]] = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)


def test_the_page_is_complete_and_refers_to_nothing_outside():
    data = gathered(entries(concept(0), concept(1, word="W*")))
    text = page(data)
    found = Page(text)
    (kind, embedded), (_, script) = found.scripts
    assert kind == {"type": "application/json", "id": "figures"}
    assert json.loads(embedded) == json.loads(json.dumps(data))
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "img")
        assert not [name for name in attributes if name in OUTSIDE or name.startswith("on")]
    for part in ("page.html", "atlas.css", *cones.atlas.SCRIPTS):
        body = cones.atlas._part(part)
        for word in ("http:", "https:", "url(", "@import", "fetch(", "XMLHttp", "import("):
            assert word not in body, f"{part} holds {word}"
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for _, a in found.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert f"script-src 'sha256-{hashed}'" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]


def test_words_of_a_file_stay_words():
    made = concept(0, word=EVIL, noun=EVIL)
    settings, certificate = {EVIL: EVIL, "b": [EVIL]}, {**made.certificate, "curve": EVIL}
    shapes = {f"{EVIL}.{n}": made.mask.shapes[n] for n in made.mask}
    mask = ConceptMask(shapes, {f"{EVIL}.{n}": i for n, i in made.mask.indices.items()})
    base = BaseCheck(EVIL, "x", "float32:x", b"")
    evil = Concept((mask,), 0, made.members, base, settings, certificate)
    text = page(gathered([Entry(evil, f"{EVIL}.safetensors", 5)]))
    found = Page(text)
    assert len(found.scripts) == 2
    assert text.count("<script") == text.count("</script") == 2
    assert "alert(1)" not in found.scripts[1][1]
    data = json.loads(found.scripts[0][1])
    assert data["concepts"][0]["words"] == [[EVIL, EVIL]]
    assert data["concepts"][0]["settings"] == settings
    assert not set("<>&\u2028") & set(found.scripts[0][1])


def test_the_script_only_sets_text():
    script = "".join(cones.atlas._part(name) for name in cones.atlas.SCRIPTS)
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert word not in script


@pytest.mark.parametrize("odd", [None, "x", [1], True, {"loss": "x", "subject": True}, 1e999])
def test_odd_certificates_become_nothing(odd):
    made = concept(0)
    names = ("untouched", "shut", "curve", "standard_error", "held_out_samples")
    strange = Concept(made.levels, 0, made.members, made.base, {}, dict.fromkeys(names, odd))
    (card,) = gathered(entries(strange))["concepts"]
    assert card["losses"]["shut"] in (None, {"subject": None, "prior": None, "loss": None})
    assert (card["curve"], card["error"], card["samples"]) == ([], None, None)


def test_figures_are_those_of_the_statistics():
    a, b, c = concept(0), concept(1, density=0.1), concept(2)
    found = gathered(entries(a, b, c))
    names = [site["name"] for site in found["sites"]]
    assert names == [DOWN, MID, UP]
    assert [site["short"] for site in found["sites"]] == [
        "down 0.0 self K",
        "mid 0 cross K",
        "up 0.0 cross V",
    ]
    assert [site["heads"] for site in found["sites"]] == [3, 3, 3]
    assert [pair["concepts"] for pair in found["pairs"]] == [[0, 1], [0, 2], [1, 2]]
    assert found["pairs"][2]["all"] == overlap(b.mask, c.mask)
    assert found["pairs"][0]["sites"][2]["shared"] == len((a.mask & b.mask).indices[UP])
    assert found["counts"][1] == [len(b.mask.indices[n]) for n in names]
    hits = b.mask.hits()[UP]
    assert found["heads"][1][2] == [int(part.sum()) for part in hits.split(40)]
    assert found["rows"][1][1] == by_row(b.mask, MID)
    pairs = [sum(by_row(b.mask, UP)[k : k + 2]) / 2 for k in range(0, 120, 2)]
    assert found["rows"][1][2] == pytest.approx(pairs)
    assert len(found["columns"][0][0]) == math.ceil(700 / 8)
    assert sum(row["weights"] for row in found["several"]) == a.mask.total
    assert json.dumps(found, allow_nan=False)


def decoded(text: str) -> list[int]:
    """Follow the gaps one by one."""
    place, found = -1, []
    for gap in base64.b64decode(text):
        place += 255 if gap == 255 else gap + 1
        if gap != 255:
            found.append(place)
    return found


def test_positions_travel_exactly():
    a, b = concept(0), concept(1, density=0.001)
    found = gathered(entries(a, b))["places"]
    assert found["kind"] == "gaps"
    for layer, name in zip(found["layers"], (DOWN, MID, UP), strict=True):
        for text, made in zip(layer, (a, b), strict=True):
            assert decoded(text) == made.mask.indices[name].tolist()
    edges = np.array([0, 254, 255, 510, 511, 1500])
    assert decoded(base64.b64encode(gaps(edges)).decode()) == edges.tolist()
    assert gaps(np.array([], dtype=np.int64)) == b""


def test_large_concepts_travel_as_squares():
    a, b = concept(0, density=0.3), concept(1, density=0.2)
    found = gathered(entries(a, b), exact=10)["places"]
    assert found["kind"] == "squares"
    layer = found["layers"][2]
    side = layer["square"]
    assert side == 4
    shares = [np.frombuffer(base64.b64decode(t), np.uint8) for t in layer["shares"]]
    several = who_holds([a.mask, b.mask], UP).numpy() == 3
    for got, hits in zip(
        shares, (a.mask.hits()[UP].numpy(), b.mask.hits()[UP].numpy(), several), strict=True
    ):
        squares = hits.reshape(120 // side, side, 192 // side, side).mean((1, 3)).ravel()
        np.testing.assert_allclose(got * layer["full"] / 255, squares, atol=layer["full"] / 500)
    uneven = np.zeros((3, 5), dtype=bool)
    uneven[2, 4] = uneven[0, 0] = True
    assert share(uneven, 2).tolist() == [[0.25, 0, 0], [0, 0, 1]]


def test_scopes_may_differ_but_not_models():
    cross = {n: s for n, s in SHAPES.items() if "attn2" in n}
    found = gathered(entries(concept(0), concept(1, shapes=cross)))
    assert found["counts"][1][0] is None
    assert found["heads"][1][0] is None
    assert found["pairs"][0]["sites"][0] is None
    assert found["places"]["layers"][0][1] is None
    assert found["pairs"][0]["all"]["first"] < len(concept(0).mask)
    assert gathered(entries(concept(0), concept(1, shapes=cross)), exact=0)["places"]["layers"]
    with pytest.raises(MaskError, match=r"is \(6, 192\) in one concept and \(7, 192\)"):
        gathered(entries(concept(0), concept(1, shapes={MID: (7, 192)})))
    with pytest.raises(MaskError, match="found 9 concepts"):
        gathered(entries(*[concept(0)] * 9))


def test_heads_go_by_the_family_or_as_asked():
    def heads(rows: int, text: int, asked: int | None = None) -> int | None:
        made = concept(0, shapes={MID: (rows, text)})
        return gathered(entries(made), heads=asked)["sites"][0]["heads"]

    assert [heads(320, 768), heads(320, 1024), heads(640, 2048)] == [8, 5, 10]
    assert [heads(320, 32), heads(7, 768)] == [None, None]
    assert heads(320, 768, asked=4) == 4
    with pytest.raises(MaskError, match="found 7 rows"):
        heads(7, 768, asked=2)


def test_short_names():
    assert short("down_blocks.1.attentions.0.transformer_blocks.2.attn2.to_v.weight") == (
        "down 1.0.2 cross V"
    )
    assert short("net.a.to_k.weight") == "net.a.to_k"


def cli(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command_loads_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cones.cli.places.pipeline", None)
    files = [tmp_path / f"{k}.safetensors" for k in range(2)]
    for k, file in enumerate(files):
        save(concept(k, word=f"V{k}*"), file)
    out = tmp_path / "new" / "atlas.html"
    result = cli("atlas", *files, "-o", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"page": str(out), "bytes": out.stat().st_size}
    assert out.read_text("utf-8") == page(
        gathered(
            [
                Entry(concept(k, word=f"V{k}*"), f.name, f.stat().st_size)
                for k, f in enumerate(files)
            ]
        )
    )
    assert "already there" in cli("atlas", files[0], "-o", out).stderr
    asked = ("--samples", "a cat", "--overwrite")
    assert "found no concept in the prompt" in cli("atlas", *files, "-o", out, *asked).stderr


def test_samples_are_pictures_before_and_after(sd1: Any, fresh: Any):
    from cones.atlas.samples import drawn
    from cones.backbones import backbone_for

    pipeline = fresh(sd1)
    weights = backbone_for(pipeline).weights("both")
    g = torch.Generator().manual_seed(0)
    mask = ConceptMask.where(
        {n: torch.rand(w.shape, generator=g) < 0.5 for n, w in weights.items()}
    )
    base = BaseCheck.of(weights, "tiny")
    two = [Concept((mask,), 0, (Member(word, "cat"),), base) for word in ("V1*", "V2*")]
    found = drawn(pipeline, two, "a V2* cat", steps=1)
    assert found["concepts"] == [1]
    assert [m["word"] for m in found["shut"]["maps"]] == ["a", "V2*", "cat"]
    shown = [found[side]["picture"] for side in ("untouched", "shut")]
    assert shown[0] != shown[1]
    assert all(p.startswith("data:image/png;base64,iVBOR") for p in shown)
    after = backbone_for(pipeline).weights("both")
    assert all(after[n].equal(w) for n, w in backbone_for(sd1).weights("both").items())


CLICKS = """
document.querySelectorAll("button[data-pair]")[3].click();
document.querySelector("#pair .bars g:last-child").dispatchEvent(new MouseEvent("click"));
document.querySelectorAll("#table th")[4].click();
document.querySelectorAll(".chip")[0].click();
document.body.dataset.seen = JSON.stringify({
  pair: at("pair").querySelector("h3").textContent,
  layer: at("pick").selectedOptions[0].textContent,
  first: at("table").querySelector("tbody td").textContent,
  ink: at("map").getContext("2d").getImageData(0, 0, 9999, 9999).data.filter((v) => v).length > 0,
  wide: document.documentElement.scrollWidth <= innerWidth, evil: document.images.length});
"""


@pytest.mark.parametrize("exact", [10**6, 0])
@pytest.mark.slow
def test_a_browser_shows_it_and_clicks_work(tmp_path, monkeypatch, exact):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here to click with")
    part = cones.atlas._part
    monkeypatch.setattr(
        cones.atlas, "_part", lambda name: part(name) + CLICKS * (name == "layers.js")
    )
    evil = "<img src=x>"
    made = [concept(0), concept(1, density=0.1, word=evil), concept(2, word="W*")]
    file = tmp_path / "atlas.html"
    file.write_text(page(gathered(entries(*made), exact=exact)), "utf-8")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-sync"
    options += " --disable-background-networking --disable-component-update --dump-dom"
    command = [browser, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    seen = json.loads(dict(next(a for t, a in Page(shown).tags if t == "body"))["data-seen"])
    fullest = max(
        (DOWN, MID, UP), key=lambda n: len(made[0].mask.indices[n]) / math.prod(SHAPES[n])
    )
    assert seen == {
        "pair": f"{evil} cat ∩ W* cat",
        "layer": "up 0.0 cross V  (120 × 192)",
        "first": short(fullest),
        "ink": True,
        "wide": True,
        "evil": 0,
    }
