"""Draw what an atlas can show of a prompt: pictures and where words look, before and after.

This is the part that needs the model.
"""

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from cones.attention import Seen, before_and_after, token_positions
from cones.concept import Concept
from cones.errors import SearchError
from cones.plot import overlay

SIDE, SMALL = 192, 128  # pixels of a picture and of a map on the page


def drawn(
    pipeline: Any,
    concepts: Sequence[Concept],
    prompt: str,
    *,
    seed: int = 0,
    steps: int = 50,
    guidance: float = 7.5,
    on_progress: Callable[[int, int], object] = lambda done, count: None,
) -> dict[str, Any]:
    """Draw a prompt untouched and with the concepts shut that it names (Fig. 2).

    Returns:
        Plain values; pictures are PNG as data addresses.

    Raises:
        SearchError: The prompt says no concept's identifier.
    """
    chosen = named(concepts, prompt)
    before, after = before_and_after(
        pipeline,
        [concepts[k] for k in chosen],
        prompt,
        seed=seed,
        steps=steps,
        guidance=guidance,
        on_progress=on_progress,
    )
    return {
        "prompt": prompt,
        "seed": seed,
        "steps": steps,
        "concepts": chosen,
        "untouched": _side(pipeline, before, prompt),
        "shut": _side(pipeline, after, prompt),
    }


def named(concepts: Sequence[Concept], prompt: str) -> list[int]:
    """List the concepts that a prompt names.

    Raises:
        SearchError: There is none.
    """
    words = prompt.split()
    found = [
        k
        for k, concept in enumerate(concepts)
        if any(member.identifier in words for member in concept.members)
    ]
    if not found:
        known = ", ".join(m.identifier for concept in concepts for m in concept.members)
        raise SearchError(
            f"found no concept in the prompt {prompt!r}; expected one of the words {known}; "
            "write them as words of their own"
        )
    return found


def _side(pipeline: Any, seen: Seen, prompt: str) -> dict[str, Any]:
    picture = seen.images[0]
    maps = []
    for word in dict.fromkeys(prompt.split()):
        found = seen.recording.map(token_positions(pipeline.tokenizer, prompt, word))[0]
        lit = overlay(picture, found.tolist())
        maps.append({"word": word, "picture": address(lit, SMALL)})
    return {"picture": address(picture, SIDE), "maps": maps}


def address(picture: Image.Image, side: int) -> str:
    """Give a picture, ``side`` pixels wide and high, as an address that holds it."""
    stream = io.BytesIO()
    picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
