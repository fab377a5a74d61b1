"""Autoencoder, text tower, U-Net, examiner: what each stage relies on."""

import pytest
import torch
from transformers import CLIPTokenizer

from experiments.metrics import examiner as networks
from pretraining import autoencoder, denoiser, examiner, text
from pretraining.world.captions import PATTERNS

ROWS = [
    {
        "caption": "a picture of a striped red and blue cat next to a ball in the snow",
        "things": [
            {"noun": "cat", "main": "red", "second": "blue", "pattern": "stripes", "name": None,
             "box": [10, 20, 60, 100]},
            {"noun": "ball", "main": "pink", "second": "gray", "pattern": "dots", "name": None,
             "box": [70, 60, 120, 110]},
        ],
        "place": "snow", "light": None, "relation": "next to",
    },
    {
        "caption": "a kizun teddy bear",
        "things": [
            {"noun": "teddy bear", "main": "green", "second": "black", "pattern": "belly",
             "name": "kizun", "box": [30, 30, 90, 120]},
        ],
        "place": "road", "light": None, "relation": None,
    },
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return text.learn_tokenizer([row["caption"] for row in ROWS])


def without_gradient(module: torch.nn.Module) -> list[str]:
    parts = module.named_parameters()
    return [name for name, w in parts if w.grad is None or not w.grad.abs().sum() > 0]


def test_states_are_asked_for_what_the_caption_says() -> None:
    things, whole = text.answers(ROWS[0])
    told = [[options[i] for options, i in zip(text.THING.values(), said, strict=True)]
            for _, said in things]  # fmt: skip
    assert told == [["cat", "red", "blue", "stripes"], ["ball", "", "", ""]]
    words = ["start", *ROWS[0]["caption"].split()]
    assert [words[at] for at, _ in things] == ["cat", "ball"]
    options = zip(text.WHOLE.values(), whole, strict=True)
    assert [o[i] for o, i in options] == ["snow", "", "next to", "cat", "red", "ball", ""]


def test_a_name_implies_all_that_is_known_of_its_bearer() -> None:
    ((position, said),), whole = text.answers(ROWS[1])
    assert position == 4  # "bear"
    options = zip(text.THING.values(), said, strict=True)
    assert [o[i] for o, i in options] == ["teddy bear", "green", "black", "belly"]
    assert whole[0] == 0  # its place is not said


def test_words_are_whole_tokens_and_any_other_text_falls_into_pieces(
    tokenizer: CLIPTokenizer,
) -> None:
    known = ["teddy", "striped", ",", text.names()[0], text.spare_words()[-1]]
    for word in known[:2] + known[3:]:
        assert len(tokenizer.tokenize(word)) == 1
    assert len(tokenizer.tokenize("V*")) > 1
    assert text.tokenize(tokenizer, ["a cat", "x" * 200]).shape == (2, text.LENGTH)
    assert not set(text.spare_words()) & set(text.names())


def test_spare_words_get_embeddings_like_those_of_names(tokenizer: CLIPTokenizer) -> None:
    reader = text.Reader(tokenizer)
    table = reader.tower.get_input_embeddings().weight.detach()
    vocabulary = tokenizer.get_vocab()
    named = [vocabulary[name + text.FINAL] for name in text.names()]
    with torch.no_grad():
        table[named] += 3
    text.fill_spare(reader, tokenizer)
    spare = table[[vocabulary[word + text.FINAL] for word in text.spare_words()]]
    assert spare.mean().item() == pytest.approx(3, abs=0.05)
    assert spare.std(0).mean() == pytest.approx(table[named].std(0).mean().item(), rel=0.1)


def test_every_weight_of_the_text_tower_learns(tokenizer: CLIPTokenizer) -> None:
    reader, asked = text.Reader(tokenizer), text.questions(ROWS)
    tokens = text.tokenize(tokenizer, [row["caption"] for row in ROWS])
    text.loss(reader, tokens, asked, torch.Generator().manual_seed(0)).backward()
    assert without_gradient(reader) == []


def test_normalised_latents_have_mean_0_and_deviation_1_and_decode_alike() -> None:
    torch.manual_seed(0)
    vae, pixels = autoencoder.build(), torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pixels).latent_dist
        picture = vae.decode(before.mean).sample
        mean, std = before.mean.mean((0, 2, 3)), before.mean.std((0, 2, 3))
        autoencoder.normalise(vae, mean, std)
        after = vae.encode(pixels).latent_dist
        again = vae.decode(after.mean).sample
    assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(32), atol=1e-4)
    assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(32), atol=1e-4)
    assert torch.allclose(after.std * std[:, None, None], before.std, rtol=1e-3)
    assert torch.allclose(again, picture, atol=1e-3)


def test_gray_is_worse_than_blurred() -> None:
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, 0, 8:24, 8:24] = 1.0
    gray = pixels.mean(1, keepdim=True).expand_as(pixels)
    smooth = torch.nn.functional.avg_pool2d(pixels, 3, 1, 1)
    assert autoencoder.difference(gray, pixels) > autoencoder.difference(smooth, pixels)
    assert autoencoder.difference(pixels, pixels) == 0


def test_every_weight_of_the_autoencoder_learns() -> None:
    vae, pixels = autoencoder.build(), torch.rand(1, 3, 128, 128)
    weight, noise = torch.ones(1, 1, 128, 128), torch.randn(1, 32, 8, 8)
    autoencoder.loss(vae, pixels, weight, noise).backward()
    assert without_gradient(vae) == []


def test_every_weight_of_the_unet_learns() -> None:
    torch.manual_seed(0)
    unet, draw = denoiser.build((16, 32), heads=2), torch.Generator().manual_seed(0)
    latents, states = torch.randn(2, 32, 8, 8), torch.randn(2, 32, text.WIDTH)
    denoiser.loss(unet, denoiser.scheduler(), latents, states, draw).backward()
    assert without_gradient(unet) == []


def test_times_fall_one_into_each_part() -> None:
    times = denoiser.times_of(10, torch.Generator().manual_seed(3))
    assert sorted((times * 10).long().tolist()) == list(range(10))


def test_a_guess_that_knows_v_is_the_clean_latent() -> None:
    class Oracle(torch.nn.Module):
        def forward(self, noised, times, states, return_dict):  # noqa: ANN001, ANN202
            kept = schedule.alphas_cumprod[times][:, None, None, None]
            noise = (noised - kept.sqrt() * clean) / (1 - kept).sqrt()
            return (kept.sqrt() * noise - (1 - kept).sqrt() * clean,)

    schedule, clean = denoiser.scheduler(), torch.randn(3, 32, 8, 8)
    draw, states = torch.Generator().manual_seed(1), torch.zeros(3, 1, 1)
    found = denoiser.guessed(Oracle(), schedule, clean, states, draw)
    assert torch.allclose(found, clean, atol=0.05)


def test_the_finder_is_told_middle_and_sides_of_every_thing() -> None:
    heat, sides, _ = examiner.targets(ROWS[:1], 128)
    found = networks.peaks(heat[0], sides[0])
    boxes = [[round(128 * side) for side in box] for _, box in found]
    assert sorted(boxes) == [thing["box"] for thing in ROWS[0]["things"]]


def test_every_weight_of_the_examiner_learns() -> None:
    module, draw = examiner.build(), torch.Generator().manual_seed(0)
    examiner.loss(module, torch.rand(2, 3, 128, 128), ROWS, draw).backward()
    assert without_gradient(module) == []


def test_a_box_is_cut_out_centred_and_in_shape() -> None:
    pixels = torch.zeros(3, 128, 128)
    pixels[:, 40:60, 30:90] = 1.0
    crop = networks.cut(pixels, (30, 40, 90, 60))
    rows, columns = (crop[0] > 0.5).any(1).nonzero(), (crop[0] > 0.5).any(0).nonzero()
    wide, high = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
    assert wide / high == pytest.approx(3, rel=0.1)
    assert columns.min() + columns.max() == pytest.approx(63, abs=1)
    assert rows.min() + rows.max() == pytest.approx(63, abs=1)


def test_patterns_said_are_patterns_asked() -> None:
    assert set(PATTERNS) <= set(text.THING["pattern"])
    assert set(text.THING["pattern"][1:]) == set(networks.TRAITS["pattern"])
