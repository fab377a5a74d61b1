"""Recorded attention is the network's own, and recording leaves no trace."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import Tensor, nn

from cones.analysis.attention import Recording, attend, overlay, recorded, token_positions
from cones.concept import Concept, Word
from cones.errors import PromptError
from cones.fingerprint import Fingerprint
from cones.mask import Mask
from cones.models import Pipeline, model_for
from cones.models.applied import applied
from cones.models.sampling import sample
from fakes import tiny_pipeline

PROMPT = "a V* cat on the grass"


def concept(pipeline: Pipeline, density: float = 0.3) -> Concept:
    model = model_for(pipeline)
    draw = torch.Generator().manual_seed(1)
    hits = {n: torch.rand(w.shape, generator=draw) < density for n, w in model.weights().items()}
    vectors = {"text_encoder": torch.randn(1, 32, generator=draw)}
    base = Fingerprint.of(model.weights(), model.name)
    return Concept((Mask.where(hits),), (Word("V*", "cat", vectors),), base)


class Reference:
    """Attend as diffusers' own processor does, and keep its probabilities."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(
        self,
        attn: nn.Module,
        hidden: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        states = hidden if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden), attn.to_k(states), attn.to_v(states)
        query, key, value = map(attn.head_to_batch_dim, (query, key, value))
        scores = attn.get_attention_scores(query, key, attention_mask)
        self.seen.append(scores.unflatten(0, (-1, attn.heads)))
        return attn.to_out[1](attn.to_out[0](attn.batch_to_head_dim(scores @ value)))


def inputs(pipeline: Pipeline) -> tuple[Tensor, Tensor, Tensor]:
    model = model_for(pipeline)
    latents = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    states = model.condition(["a cat", "a dog on the grass"])["encoder_hidden_states"]
    return latents, torch.tensor([300, 300]), states


def hooks(module: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in module.modules())


@torch.no_grad()
def test_maps_are_those_of_the_attention_processor() -> None:
    pipeline = tiny_pipeline()
    given = inputs(pipeline)
    with recorded(pipeline.unet, images=1) as recording:
        pipeline.unet(*given)
    layers = {n: p for n, p in pipeline.unet.named_modules() if n.endswith("attn2")}
    assert sorted(recording) == sorted(layers)
    for name, layer in layers.items():
        reference, own = Reference(), layer.processor
        layer.set_processor(reference)
        pipeline.unet(*given)
        layer.set_processor(own)
        expected = reference.seen[0][-1:].mean(1)  # over heads
        torch.testing.assert_close(recording[name], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_attention_by_hand() -> None:
    net = nn.ModuleList([Attention(4, 4, heads=2, dim_head=2)])  # scales by 1 / sqrt(2)
    for name in ("to_q", "to_k"):
        net[0].get_submodule(name).weight.copy_(torch.eye(4))
    query = torch.tensor([[[1.0, 0.0, 0.0, 2.0]]])
    key = torch.tensor([[[1.0, 5.0, 3.0, 0.0], [0.0, 7.0, 9.0, 1.0]]])
    with recorded(net, images=1) as recording:
        net[0](query, key)
    expected = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).div(2**0.5).softmax(1).mean(0)
    torch.testing.assert_close(recording["0"], expected[None, None])


@torch.no_grad()
def test_passes_are_averaged() -> None:
    unet = tiny_pipeline().unet
    latents, times, states = inputs(tiny_pipeline())
    alone = []
    for scale in (1, 2):
        with recorded(unet, images=2) as one:
            unet(latents * scale, times, states)
        alone.append(one.map([2]))
    with recorded(unet, images=2) as both:
        for scale in (1, 2):
            unet(latents * scale, times, states)
    torch.testing.assert_close(both.map([2]), torch.stack(alone).mean(0))


def test_layers_and_tokens_are_averaged() -> None:
    shares = torch.tensor([[[0.5, 0.2, 0.3], [0.1, 0.8, 0.1], [0.2, 0.4, 0.4], [0.0, 0.0, 1.0]]])
    recording = Recording(fine=2 * shares)  # of two passes
    expected = torch.tensor([[[0.2, 0.8], [0.4, 0.0]]])
    torch.testing.assert_close(recording.map([1]), expected)
    torch.testing.assert_close(recording.map([0, 2]), (1 - expected) / 2)
    recording["coarse"] = torch.tensor([[[1.0, 0.6, 0.4]]])
    torch.testing.assert_close(recording.map([1]), (expected + 0.3) / 2)


def test_pictures_are_the_same_bits_while_recording_and_no_hook_survives() -> None:
    pipeline = tiny_pipeline()
    draw: dict[str, Any] = {"seeds": [3], "num_inference_steps": 3, "guidance_scale": 4.0}
    plain = sample(pipeline, ["a cat"], **draw)[0]
    with recorded(pipeline.unet, images=1) as recording:
        again = sample(pipeline, ["a cat"], **draw)[0]
    assert np.array_equal(np.asarray(plain), np.asarray(again))
    for sums in recording.values():
        torch.testing.assert_close(sums.sum(2), torch.full(sums.shape[:2], 3.0))
    with pytest.raises(ZeroDivisionError), recorded(pipeline.unet, images=1):
        raise ZeroDivisionError
    assert hooks(pipeline.unet) == 0


def test_words_are_found_whole() -> None:
    pipeline = tiny_pipeline()
    with applied(pipeline, [concept(pipeline)]):
        ids = pipeline.tokenizer(PROMPT).input_ids
        for word in ("V*", "grass", "V* cat"):
            positions = token_positions(pipeline, PROMPT, word)
            own = pipeline.tokenizer(word, add_special_tokens=False).input_ids
            assert [ids[p] for p in positions] == own
    with pytest.raises(PromptError, match="found no 'dog' in .*; expected words of the prompt"):
        token_positions(pipeline, PROMPT, "dog")
    # Of 16 tokens the first and the last are marks: the 21st word is the 7th of the second part.
    assert token_positions(pipeline, "the " * 20 + "cat", "cat") == (16 + 7,)


def test_rows_differ_by_the_weights_alone_and_nothing_is_left() -> None:
    pipeline = tiny_pipeline()
    bits = {n: w.detach().clone() for n, w in pipeline.unet.named_parameters()}
    given, drawing = [concept(pipeline)], {"num_inference_steps": 2}
    rows = attend(pipeline, given, PROMPT, ["V* cat", "grass"], seed=5, **drawing)
    assert list(rows) == ["untouched", "shut"]
    for row, strengths in (("untouched", [0.0]), ("shut", [1.0])):
        with applied(pipeline, given, strengths=strengths):
            positions = token_positions(pipeline, PROMPT, "V* cat")
            with recorded(pipeline.unet, images=1) as heard:
                (image,) = sample(pipeline, [PROMPT], seeds=[5], **drawing)
        expected = [image, overlay(image, heard.map(positions)[0])]
        assert len(rows[row]) == 3
        for found, own in zip(rows[row], expected, strict=False):
            assert np.array_equal(np.asarray(found), np.asarray(own))
    assert not np.array_equal(np.asarray(rows["untouched"][1]), np.asarray(rows["shut"][1]))
    assert all(torch.equal(w, bits[n]) for n, w in pipeline.unet.named_parameters())
    assert hooks(pipeline.unet) == 0
    with pytest.raises(PromptError, match="found no 'dog'"):
        attend(pipeline, given, PROMPT, ["dog"])


def test_overlay_is_light_where_the_map_is_high_and_keeps_the_picture_in_grey() -> None:
    picture = Image.new("RGB", (4, 4), (100, 100, 100))
    picture.putpixel((0, 0), (200, 200, 200))
    found = torch.tensor([[2.0, 0.0], [1.0, 2.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    lit = np.asarray(overlay(picture, found)).astype(float)
    expected = 0.35 * 100 + 0.65 * np.array([[252, 253, 191], [0, 0, 4], [182, 54, 121]])
    for (x, y), colour in zip(((0, 1), (3, 0), (0, 3)), expected, strict=True):
        assert np.abs(lit[y, x] - colour).max() <= 1
    assert np.abs(lit[0, 0] - lit[1, 0] - 35).max() <= 1
    assert overlay(picture, torch.zeros(2, 2)).size == (4, 4)
