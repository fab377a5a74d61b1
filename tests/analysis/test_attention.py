"""Recorded attention is the network's own, and recording leaves no trace."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cones.analysis.attention import (
    Recording,
    attend,
    attention,
    recorded,
    share_inside,
    token_positions,
)
from cones.analysis.plots import attention_rows, overlay
from cones.concept import Concept, Word
from cones.errors import ModelError, PromptError
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
    assert sorted(recording.sums) == sorted(layers)
    for name, layer in layers.items():
        reference, own = Reference(), layer.processor
        layer.set_processor(reference)
        pipeline.unet(*given)
        layer.set_processor(own)
        torch.testing.assert_close(recording.sums[name], reference.seen[0][-1:], atol=1e-6, rtol=0)


def test_attention_by_hand() -> None:
    query = torch.tensor([[[1.0, 0.0, 0.0, 2.0]]])
    key = torch.tensor([[[1.0, 5.0, 3.0, 0.0], [0.0, 7.0, 9.0, 1.0]]])
    found = attention(query, key, heads=2, scale=0.5)
    expected = torch.tensor([[0.5, 0.0], [0.0, 1.0]]).exp()
    torch.testing.assert_close(found[0, :, 0], expected / expected.sum(1, keepdim=True))


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


def test_layers_heads_and_tokens_are_averaged() -> None:
    values = torch.arange(2 * 4 * 3, dtype=torch.float).reshape(1, 2, 4, 3)
    coarse = torch.full((1, 2, 1, 3), 5.0)
    recording = Recording({"fine": 2 * values, "coarse": coarse}, {"fine": 2, "coarse": 1})
    one = recording.map([1], layers=["fin"], heads=[1])
    assert one.tolist() == [[[13.0, 16.0], [19.0, 22.0]]]
    two = recording.map([0, 2], layers=["fine"])
    assert two.tolist() == [[[7.0, 10.0], [13.0, 16.0]]]
    assert recording.map([0, 2]).tolist() == [[[6.0, 7.5], [9.0, 10.5]]]
    with pytest.raises(ModelError, match="expected parts of fine, coarse"):
        recording.map([0], layers=["middle"])
    with pytest.raises(ModelError, match="nothing was drawn"):
        Recording().map([0])


def test_pictures_are_the_same_bits_while_recording_and_no_hook_survives() -> None:
    pipeline = tiny_pipeline()
    draw: dict[str, Any] = {"seeds": [3], "num_inference_steps": 3, "guidance_scale": 4.0}
    plain = sample(pipeline, ["a cat"], **draw)[0]
    with recorded(pipeline.unet, images=1) as recording:
        again = sample(pipeline, ["a cat"], **draw)[0]
    assert np.array_equal(np.asarray(plain), np.asarray(again))
    assert set(recording.passes.values()) == {3}
    with pytest.raises(ZeroDivisionError), recorded(pipeline.unet, images=1):
        raise ZeroDivisionError
    assert hooks(pipeline.unet) == 0


def test_a_network_without_cross_attention_is_refused() -> None:
    with (
        pytest.raises(ModelError, match="found 0 cross-attention layers"),
        recorded(nn.Linear(2, 2), images=1),
    ):
        pass


def test_share_inside_is_a_share() -> None:
    found = torch.tensor([[[1.0, 3.0], [4.0, 2.0]], [[1.0, 0.0], [0.0, 0.0]]])
    inside = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]])
    assert share_inside(found, inside).tolist() == [0.5, 0.0]
    assert share_inside(torch.ones(2, 2, 2), inside).tolist() == [0.5, 0.75]


def test_words_are_found_whole() -> None:
    pipeline = tiny_pipeline()
    with applied(pipeline, [concept(pipeline)]):
        ids = pipeline.tokenizer(PROMPT).input_ids
        for word in ("V*", "grass", "V* cat"):
            positions = token_positions(pipeline, PROMPT, word)
            own = pipeline.tokenizer(word, add_special_tokens=False).input_ids
            assert [ids[p] for p in positions] == own
    with pytest.raises(PromptError, match="found no 'dog' in the first 16 tokens"):
        token_positions(pipeline, PROMPT, "dog")
    with pytest.raises(PromptError, match="shorten the prompt"):
        token_positions(pipeline, "the " * 20 + "cat", "cat")


def test_looks_differ_by_the_weights_alone_and_nothing_is_left() -> None:
    pipeline = tiny_pipeline()
    bits = {n: w.detach().clone() for n, w in pipeline.unet.named_parameters()}
    given, drawing = [concept(pipeline)], {"num_inference_steps": 2}
    looks = attend(pipeline, given, PROMPT, ["V* cat"], seed=5, **drawing)
    assert list(looks) == ["untouched", "shut"]
    for row, strengths in (("untouched", [0.0]), ("shut", [1.0])):
        with applied(pipeline, given, strengths=strengths):
            (image,) = sample(pipeline, [PROMPT], seeds=[5], **drawing)
        assert np.array_equal(np.asarray(looks[row].image), np.asarray(image))
    before, after = (look.maps["V* cat"] for look in looks.values())
    assert not torch.equal(before, after)
    again = attend(pipeline, given, PROMPT, seed=5, **drawing)
    assert list(again["shut"].maps) == PROMPT.split()
    assert all(torch.equal(w, bits[n]) for n, w in pipeline.unet.named_parameters())
    assert hooks(pipeline.unet) == 0
    with pytest.raises(PromptError, match="found no concept"):
        attend(pipeline, [], PROMPT)
    rows = attention_rows(looks)
    assert [len(row) for row in rows.values()] == [2, 2]
    expected = overlay(looks["shut"].image, after)
    assert np.array_equal(np.asarray(rows["shut"][1]), np.asarray(expected))
