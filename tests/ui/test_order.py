"""What a browser sends is read strictly."""

import json
from typing import Any

import pytest

from cones.errors import PromptError
from cones.ui.studio import Choice, Order, parse

GIVEN: dict[str, Any] = {"prompt": " a cat ", "seed": 1, "count": 4, "num_inference_steps": 2}


def test_orders_are_read() -> None:
    choice = {"number": 1, "strength": 1, "density": 0.5, "identifier": " U* "}
    found = parse(json.dumps(GIVEN | {"guidance_scale": 3, "choices": [choice]}).encode())
    chosen = Choice(number=1, strength=1.0, density=0.5, identifier="U*")
    assert found == Order(
        prompt="a cat",
        seed=1,
        count=4,
        num_inference_steps=2,
        guidance_scale=3.0,
        choices=[chosen],
    )
    assert parse(b'{"prompt": "a cat"}') == Order(prompt="a cat")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"prompt": " "}, "prompt does not fit"),
        ({"prompt": None}, "prompt does not fit"),
        ({"prompt": "x" * 2001}, "prompt does not fit"),
        ({"seed": 1.5}, "seed does not fit"),
        ({"seed": -1}, "seed does not fit"),
        ({"seed": 10**23}, "seed does not fit"),
        ({"num_inference_steps": True}, "num_inference_steps does not fit"),
        ({"num_inference_steps": 201}, "num_inference_steps does not fit"),
        ({"count": 9}, "count does not fit"),
        ({"guidance_scale": float("nan")}, "guidance_scale does not fit"),
        ({"guidance_scale": float("inf")}, "guidance_scale does not fit"),
        ({"guidance_scale": "7"}, "guidance_scale does not fit"),
        ({"choices": None}, "choices does not fit"),
        ({"choices": [{"number": 1, "strength": 1.01}]}, "choices.0.strength does not fit"),
        ({"choices": [{"number": "1"}]}, "choices.0.number does not fit"),
        ({"choices": [{"number": 1, "density": 0}]}, "choices.0.density does not fit"),
        ({"choices": [{"number": 1, "identifier": ""}]}, "choices.0.identifier does not fit"),
        ({"choices": [{"number": k} for k in range(1, 10)]}, "choices does not fit"),
        ({"width": 64}, "width does not fit"),
    ],
)
def test_odd_orders_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(PromptError, match=match):
        parse(json.dumps(GIVEN | change).encode())


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"prompt": "\\ud800"}', b"[" * 9999]
)
def test_what_is_no_order_is_refused(data: bytes) -> None:
    with pytest.raises(PromptError, match="the order does not fit"):
        parse(data)
