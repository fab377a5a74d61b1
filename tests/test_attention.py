"""Recorded attention is the network's own, and recording leaves no trace."""

import numpy as np
import pytest
import torch

from cones.attention import (
    Recording,
    attention,
    before_and_after,
    record_attention,
    share_inside,
    token_positions,
)
from cones.backbones import backbone_for
from cones.errors import BackboneError, SearchError
from cones.find import Settings, find
from cones.generate import sample
from cones.subject import Subject


class Reference:
    """Attend as diffusers' own processor does, and keep its probabilities."""

    def __init__(self):
        self.seen = []

    def __call__(self, attn, hidden, encoder_hidden_states=None, attention_mask=None, **_):
        states = hidden if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden), attn.to_k(states), attn.to_v(states)
        query, key, value = map(attn.head_to_batch_dim, (query, key, value))
        scores = attn.get_attention_scores(query, key, attention_mask)
        self.seen.append(scores.unflatten(0, (-1, attn.heads)))
        mixed = attn.batch_to_head_dim(scores @ value)
        return attn.to_out[1](attn.to_out[0](mixed))


def inputs(pipeline, count=2):
    draw = torch.Generator().manual_seed(0)
    backbone = backbone_for(pipeline)
    latents = torch.randn(count, *backbone.latent_shape, generator=draw)
    states = backbone.condition(["a cat", "a dog on the grass"])["encoder_hidden_states"]
    return latents, torch.tensor([300] * count), states


def hooks(module):
    return sum(len(part._forward_hooks) for part in module.modules())


@torch.no_grad()
def test_maps_are_those_of_the_attention_processor(sd1, fresh):
    pipeline = fresh(sd1)
    given = inputs(pipeline)
    with record_attention(pipeline.unet, images=1) as recording:
        pipeline.unet(*given)
    assert hooks(pipeline.unet) == 0
    layers = dict(pipeline.unet.named_modules())
    for name in recording.layers:
        reference = Reference()
        before = layers[name].processor
        layers[name].set_processor(reference)
        pipeline.unet(*given)
        layers[name].set_processor(before)
        found = recording.of(name)
        assert torch.allclose(found, reference.seen[0][-1:], atol=1e-5)  # the last picture's
        assert torch.allclose(found.sum(-1), torch.ones(()))
    assert len(recording.layers) == sum(name.endswith("attn2") for name in layers)


def test_attention_by_hand():
    query = torch.tensor([[[1.0, 0.0, 0.0, 2.0]]])
    key = torch.tensor([[[1.0, 5.0, 3.0, 0.0], [0.0, 7.0, 9.0, 1.0]]])
    found = attention(query, key, heads=2, scale=0.5)
    expected = torch.tensor([[0.5, 0.0], [0.0, 1.0]]).exp()
    assert torch.allclose(found[0, :, 0], expected / expected.sum(1, keepdim=True))


def test_pictures_are_the_same_bits_while_recording_and_no_hook_survives(sd1):
    draw = {"seeds": [3], "steps": 3, "guidance": 4.0}
    plain = sample(sd1, ["a cat"], **draw)[0]
    with record_attention(sd1.unet, images=1, steps=(0, 2)) as recording:
        recorded = sample(sd1, ["a cat"], **draw)[0]
    assert np.array_equal(np.asarray(plain), np.asarray(recorded))
    assert set(recording.counts.values()) == {3}
    assert set(recording.recorded.values()) == {2}
    with pytest.raises(ZeroDivisionError), record_attention(sd1.unet, images=1):
        raise ZeroDivisionError
    assert hooks(sd1.unet) == 0


@torch.no_grad()
def test_steps_are_averaged_and_can_be_chosen(sd1):
    latents, times, states = inputs(sd1)
    alone = []
    for step in range(2):
        with record_attention(sd1.unet, images=2) as one:
            sd1.unet(latents * (step + 1), times, states)
        alone.append(one)
    for steps, expected in ((None, alone), ((1,), alone[1:])):
        with record_attention(sd1.unet, images=2, steps=steps) as both:
            for step in range(2):
                sd1.unet(latents * (step + 1), times, states)
        for name in both.layers:
            mean = torch.stack([one.of(name) for one in expected]).mean(0)
            assert torch.allclose(both.of(name), mean, atol=1e-6)


def test_layers_heads_and_tokens_are_averaged():
    values = torch.arange(2 * 4 * 3, dtype=torch.float).reshape(1, 2, 4, 3)
    recording = Recording(
        sums={"fine": 2 * values, "coarse": torch.full((1, 2, 1, 3), 5.0)},
        recorded={"fine": 2, "coarse": 1},
    )
    one = recording.map([1], layers=["fine"], heads=[1])
    assert one.tolist() == [[[13.0, 16.0], [19.0, 22.0]]]
    two = recording.map([0, 2], layers=["fine"])
    assert two.tolist() == [[[7.0, 10.0], [13.0, 16.0]]]
    assert recording.map([0, 2]).tolist() == [[[6.0, 7.5], [9.0, 10.5]]]
    assert recording.map([0], side=6).shape == (1, 6, 6)
    with pytest.raises(SearchError, match="expected some of fine, coarse"):
        recording.map([0], layers=["middle"])
    with pytest.raises(SearchError, match="found layers none"):
        Recording().map([0])


def test_words_of_several_pieces_are_found_whole(sd1, fresh):
    pipeline = fresh(sd1)
    backbone_for(pipeline).register("V*")
    prompt = "a photo of a V* cat on the grass"
    ids = pipeline.tokenizer(prompt).input_ids
    for word in ("V*", "grass", "V* cat"):
        positions = token_positions(pipeline.tokenizer, prompt, word)
        own = pipeline.tokenizer(word, add_special_tokens=False).input_ids
        assert [ids[p] for p in positions] == own
        assert positions == tuple(range(positions[0], positions[0] + len(own)))
    with pytest.raises(SearchError, match="found no 'dog' among the first"):
        token_positions(pipeline.tokenizer, prompt, "dog")
    with pytest.raises(SearchError, match="shorten the prompt"):
        token_positions(pipeline.tokenizer, "very " * 200 + "late", "late")


def test_share_inside_is_a_share():
    found = torch.tensor([[[1.0, 3.0], [4.0, 2.0]], [[1.0, 0.0], [0.0, 0.0]]])
    inside = torch.tensor([[[True, False], [True, False]], [[False, True], [True, True]]])
    assert share_inside(found, inside).tolist() == [0.5, 0.0]


def test_a_network_without_cross_attention_is_refused():
    with pytest.raises(BackboneError, match="found 0 cross-attention layers"):
        record_attention(torch.nn.Linear(2, 2), images=1).__enter__()


def test_before_and_after_differ_and_restore(sd1, fresh):
    pipeline = fresh(sd1)
    side = backbone_for(pipeline).resolution
    photos = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    tiny = Settings(steps=2, refine_steps=2, batch=2, held_out=4, density=0.3, levels=False)
    concept = find(pipeline, Subject(photos, "cat"), settings=tiny, prior=photos)
    bits = {n: w.detach().clone() for n, w in pipeline.unet.named_parameters()}
    before, after = before_and_after(pipeline, [concept], "a V* cat", steps=2, seed=5)
    plain = sample(pipeline, ["a V* cat"], seeds=[5], steps=2)[0]
    assert np.array_equal(np.asarray(before.images[0]), np.asarray(plain))
    word = token_positions(pipeline.tokenizer, "a V* cat", "cat")
    assert not torch.equal(before.recording.map(word), after.recording.map(word))
    assert all(torch.equal(w, bits[n]) for n, w in pipeline.unet.named_parameters())
    with pytest.raises(SearchError, match="found no concept"):
        before_and_after(pipeline, [], "a cat")
