"""Attend-and-Excite: the loss by hand, moves that lower it, no trace on the model."""

import pytest
import torch

from cones.attention import record_attention
from cones.errors import SearchError
from cones.excite import Excite, attending, neglect
from cones.generate import sample

PROMPT = "a cat on the grass"


def hooks(module):
    return sum(len(part._forward_hooks) for part in module.modules())


def latents_of(pipeline, steps, **settings):
    seen = []

    def keep(pipe, step, time, given):
        seen.append(given["latents"].clone())
        return Excite.of(pipeline, PROMPT, ["cat"], **settings)(pipe, step, time, given)

    sample(pipeline, [PROMPT] * 2, seeds=[0, 1], steps=steps, on_step=keep)
    return seen


def test_the_most_neglected_word_decides():
    found = torch.zeros(2, 9, 6)
    found[..., 0] = 0.9  # the start token, left out like what comes after the last word
    found[0, 4, 2] = 0.1  # one word holds the middle place, the other nothing
    lost = neglect(found, [2, 3], last=5)
    words = (100 * found[..., 1:5]).softmax(-1)
    line = torch.exp(-torch.tensor([-1.0, 0, 1]).square() / 0.5)
    kernel = torch.outer(line, line) / line.sum() ** 2
    middle = (kernel * words[0, :, 1].view(3, 3)).sum()
    weakest = words[0, :, 2].max()  # the same everywhere but in the middle
    assert lost[0] > 1 - middle
    torch.testing.assert_close(neglect(found, [2], last=5)[0], 1 - middle)
    torch.testing.assert_close(lost[1], torch.tensor(0.75))
    assert 1 - weakest <= lost[0] + 1e-6
    shifted = found.clone()
    shifted[..., 5] = 0.7
    torch.testing.assert_close(neglect(shifted, [2, 3], last=5), lost)


def test_maps_are_those_of_a_recording(sd1):
    unet, side = sd1.unet, sd1.unet.config.sample_size
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, unet.config.in_channels, side, side, generator=draw)
    states = torch.randn(1, 77, unet.config.cross_attention_dim, generator=draw)
    before = hooks(unet)
    with torch.no_grad(), attending(unet, side) as maps, record_attention(unet, images=1) as heard:
        unet(latents, 10, encoder_hidden_states=states)
    assert hooks(unet) == before
    places = {name: heard.of(name).shape[2] for name in heard.layers}
    size = (side // 4) ** 2 if (side // 4) ** 2 in places.values() else max(places.values())
    expected = [heard.of(n).mean(1) for n, count in places.items() if count == size]
    assert len(maps) == len(expected) > 0
    for found, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, other)


def test_a_move_lowers_the_loss_and_leaves_the_model(sd1):
    weights = {name: weight.clone() for name, weight in sd1.unet.named_parameters()}
    before = hooks(sd1.unet)
    excite = Excite.of(sd1, PROMPT, ["cat"])
    sd1.scheduler.set_timesteps(4)
    draw = torch.Generator().manual_seed(0)
    shape = (2, sd1.unet.config.in_channels, *[sd1.unet.config.sample_size] * 2)
    latents = torch.randn(shape, generator=draw)
    states = sd1.encode_prompt(PROMPT, "cpu", 2, False)[0]
    time = sd1.scheduler.timesteps[1]
    losses, gradient = excite._slope(sd1, latents, time, states)
    assert losses.shape == (2,)
    step = 1e-2 * losses.view(2, 1, 1, 1) / gradient.square().sum((1, 2, 3), keepdim=True)
    after, _ = excite._slope(sd1, latents - step * gradient, time, states)
    assert (after < losses).all()
    assert hooks(sd1.unet) == before
    assert all(weights[n].equal(weight) for n, weight in sd1.unet.named_parameters())
    assert all(weight.grad is None for weight in sd1.unet.parameters())


def test_only_the_accompanied_steps_are_moved(sd1):
    plain = latents_of(sd1, 4, until=0.0)
    still = latents_of(sd1, 4, scale=0.0)
    moved = latents_of(sd1, 4, targets=())
    assert all(a.equal(b) for a, b in zip(plain, still, strict=True))
    assert plain[0].equal(moved[0])  # the end of the first step, before any move
    assert not plain[1].equal(moved[1])
    once = latents_of(sd1, 4, targets=((0.25, 0.999),), most=1)
    often = latents_of(sd1, 4, targets=((0.25, 0.999),), most=3)
    reached = latents_of(sd1, 4, targets=((0.25, 0.0),))
    assert once[1].equal(moved[1])
    assert not often[1].equal(once[1])
    assert reached[1].equal(plain[1])  # enough attention already: no move


def test_words_that_are_not_said_are_refused(sd1):
    with pytest.raises(SearchError, match="found no 'dog'"):
        Excite.of(sd1, PROMPT, ["dog"])
    with pytest.raises(SearchError, match="no word to excite"):
        Excite.of(sd1, PROMPT, [])
