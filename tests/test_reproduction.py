"""The page of the paper's experiments: a function of the records, with the paper's numbers."""

import json
from pathlib import Path

from cones.bench.paper import PAPER
from cones.bench.reproduction import page

DOCS = Path(__file__).parents[1] / "docs"


def around(value):
    return {"mean": value, "low": value - 0.1, "high": value + 0.1, "n": 3}


def entry(method, size, **more):
    scores = {"text_alignment": around(0.2), "leak": around(0.05), "clip_score": around(0.7)}
    return {"method": method, "subjects": size, "scores": scores, **more}


def test_measured_and_reported_stand_side_by_side():
    cones = {"bytes": 2500, "density": 0.0132, "seconds": 61.4}
    results = {
        "table1": {
            "plan": {
                "groups": [["a"]],
                "prompts": ["a {}"],
                "images": 1,
                "steps": 9,
                "seeds": [0],
            },
            "model": "mini 12",
            "table": [
                entry("untouched", 1),
                entry("cones", 1, change={"text_alignment": around(-0.03)}, **cones),
            ],
        },
        "several": {
            "plan": {
                "groups": [["a"]],
                "prompts": ["a {}"],
                "images": 2,
                "steps": 9,
                "seeds": [0],
            },
            "model": "mini 12",
            "candidates": ["a", "b"],
            "missing": 4,
            "table": [
                entry("cones", 3, **cones),
                {"method": "a", "subjects": 3, "scores": {"present": around(0.2)}},
                {"method": "b", "subjects": 3, "scores": {"present": around(0.3)}},
            ],
        },
        "sequential": {
            "plan": {"groups": [["a_b", "c"]]},
            "summary": {
                method: {
                    side: around(value)
                    for side in (
                        "first alone",
                        "first of two",
                        "forgotten",
                        "second alone",
                        "second of two",
                    )
                }
                for method, value in (("dreambooth", 0.5), ("cones", 0.4))
            },
        },
        "sanity": {
            "plan": {"groups": [["a_b"]]},
            "settings": {"lora": {"steps": 3, "rate": 0.1, "rank": 2}, "cones": {"settings": {}}},
            "photos": {"a_b": 0.75},
            "redrawn": {"a_b": 0.625},
            "losses": {"untouched": {"a_b": 0.875}, "lora": {"a_b": 0.8125}},
            "trained": {"untouched": {"a_b": 0.25}, "lora": {"a_b": 0.5}},
            "untrained": {"lora": 1.0},
        },
        "attention": {
            "summary": {
                "words": {
                    "subject": {
                        name: {"shut_minus_untouched": around(value)}
                        for name, value in (("share", -0.25), ("order", 0.5), ("amount", 0))
                    }
                }
            }
        },
        "precision": {
            "summary": {
                "means": {
                    side: {"loss": around(value)}
                    for side, value in (("untouched", 0.5), ("shut", 0.25), ("binary", 0.375))
                }
            }
        },
        "overlap": {
            "summary": {
                kind: {"jaccard": around(value), "expected": around(0.125)}
                for kind, value in (("subjects", 0.25), ("joint", 0.5))
            }
        },
        "tuning": {
            "grid": [
                {
                    "method": "lora",
                    "rate": r,
                    "scores": {"image_alignment": r, "text_alignment": 0},
                }
                for r in (0.5, 0.25)
            ],
            "best": {"lora": {"rate": 0.5}},
            "kept": 0.9,
            "untouched": {"image_alignment": 0.125, "text_alignment": 1},
            "weighed": ["image_alignment", "text_alignment"],
            "fixed": {"lora": {"steps": 7}},
            "plan": {"groups": [["x"], ["y"]]},
        },
    }
    lines = page(results).splitlines()
    assert any("with 2 pictures each" in line and "4 cells are missing" in line for line in lines)
    first = lines.index("## What the paper says, and what was found")
    assert first < lines.index("## Table 1: methods side by side, one subject")
    claim = "| Table 1, one subject, likeness to the words: cones > custom-diffusion > dreambooth"
    assert f"{claim} > textual-inversion | untouched 0.200 > cones 0.200 |" in lines
    assert any(line.endswith("| forgotten: cones 0.400 < dreambooth 0.500 |") for line in lines)
    (found,) = (line for line in lines if "Fig. 2:" in line)
    assert "share -0.250 [-0.350, -0.150]; order +0.500" in found
    (found,) = (line for line in lines if "Fig. 3:" in line)
    assert "held-out loss: shut 0.2500 < binary 0.3750 < untouched 0.5000 " in found
    (found,) = (line for line in lines if "Fig. 4:" in line)
    assert "| 50.00% [40.00%, 60.00%], by chance 12.50% " in found
    (found,) = (line for line in lines if "2.42 %" in line)
    assert "| 25.00% [15.00%, 35.00%], by chance 12.50% " in found
    (found,) = (line for line in lines if "three subjects: joined" in line)
    assert found.endswith("| b 0.300 > a 0.200 |")
    row = "| `cones` | 0.200 [0.100, 0.300] | 0.361 | 0.725 | 0.003 MB | 61 |"
    assert lines[lines.index("### One subject") + 5] == row
    assert "| `cones` | -0.030 [-0.130, +0.070] |" in lines
    assert "| three subjects | 4.96 MB | 4.54 % | 2.5 kB | 1.32% |" in lines
    assert "| `untouched` | 0.050 [-0.050, 0.150] |" in lines
    assert "| `lora` | rate 0.5 | 0.500 | 0.000 | chosen |" in lines
    assert "| `lora` | rate 0.25 | 0.250 | 0.000 |  |" in lines
    assert "| `untouched` |  | 0.125 | 1.000 |  |" in lines
    assert "untouched model's text alignment; where none does, the one that keeps most." in lines
    assert "Fixed: lora steps 7." in lines
    assert "### Several subjects" not in lines
    several = {"tuning_several": {**results["tuning"], "plan": {"groups": [["x", "y_z"]]}}}
    assert (
        page(several)
        .partition("### Several subjects\n")[2]
        .startswith("\nOn the tuning subjects x+y z, which are in no other table")
    )
    assert any(line.endswith("settings that keep 90% of the") for line in lines)
    assert any("pairs: a b then c." in line for line in lines)
    assert lines[lines.index("| photos to each other | 0.750 |  |  |") - 2] == (
        "|  | a b: likeness | a b: loss | untrained: same |"
    )
    assert "| photos after the autoencoder | 0.625 |  |  |" in lines
    assert "| `untouched` | 0.250 | 0.8750 |  |" in lines
    assert "| `lora` | 0.500 | 0.8125 | 100% |" in lines
    assert any(line.startswith("(lora steps 3, rate 0.1)") for line in lines)
    assert "Every method lowers the loss of every subject." in lines
    results["sanity"]["losses"]["lora"]["a_b"] = 0.875
    said = "Methods that do not lower the loss of every subject: lora."
    assert said in page(results).splitlines()
    assert not any("0.700" in line for line in lines)  # CLIPScore is another scale
    for single, two, three, four in PAPER.values():
        assert single > two > three > four  # as printed: more subjects, lower scores


def test_the_page_in_the_docs_is_that_of_the_records():
    results = {
        path.stem: json.loads(path.read_text("utf-8"))
        for path in (DOCS / "results").glob("*.json")
    }
    assert (DOCS / "reproduction.md").read_text("utf-8") == page(results) + "\n", (
        "run: python -m cones.bench.reproduction docs"
    )
