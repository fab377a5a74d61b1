"""Autoencoder, text tower, U-Net, examiner: what each stage relies on."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from experiments.metrics import examiner as networks
from pretraining import autoencoder, denoiser, examiner, text
from pretraining.loop import Stage, Work
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
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Two pictures of noise under the captions and labels above."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    np.save(folder / "pictures" / "pictures-00000.npy", pixels)
    (folder / "pictures" / "pictures-00000.json").write_text(json.dumps({"rows": ROWS}))
    return Work(folder)


@pytest.fixture(scope="module")
def tokenizer(work: Work) -> CLIPTokenizer:
    return text.tokenizer_of(work)


def lost(stage: Stage) -> Tensor:
    """Return the loss of both pictures, the second twice."""
    return stage.loss(torch.tensor([0, 1, 1]), torch.Generator().manual_seed(0))


def without_gradient(module: torch.nn.Module) -> list[str]:
    parts = module.named_parameters()
    return [name for name, w in parts if w.grad is None or not w.grad.abs().sum() > 0]


def test_states_are_asked_for_what_the_caption_says() -> None:
    things, place = text.said(ROWS[0])
    told = [[thing[key] for key in text.THING] for thing in things]
    assert told == [["cat", "red", "blue", "stripes"], ["ball", "", "", ""]]
    assert place == "snow"
    words = ["start", *ROWS[0]["caption"].split()]
    assert [words[thing["at"]] for thing in things] == ["cat", "ball"]
    where, each, whole = text.questions(ROWS[:1])
    assert where.tolist() == [[things[0]["at"], things[1]["at"], 0]]
    assert each[0, 2].tolist() == [0, 0, 0, 0]
    options = zip(text.WHOLE.values(), whole[0].tolist(), strict=True)
    assert [o[i] for o, i in options] == ["snow", "", "next to", "cat", "red", "ball", ""]


def test_a_name_implies_all_that_is_known_of_its_bearer() -> None:
    ((thing,), place) = text.said(ROWS[1])
    assert thing["at"] == 4  # "bear"
    assert [thing[key] for key in text.THING] == ["teddy bear", "green", "black", "belly"]
    assert place == ""  # is not said


def test_words_are_whole_tokens_and_any_other_text_falls_into_pieces(
    tokenizer: CLIPTokenizer,
) -> None:
    known = ["teddy", "striped", ",", text.names()[0], text.SPARE[-1]]
    for word in known[:2] + known[3:]:
        assert len(tokenizer.tokenize(word)) == 1
    assert len(tokenizer.tokenize("V*")) > 1
    assert text.tokenize(tokenizer, ["a cat", "x" * 200]).shape == (2, text.LENGTH)
    assert not set(text.SPARE) & set(text.names())


def test_the_tokenizer_is_the_same_in_every_run() -> None:
    captions = [row["caption"] for row in ROWS]
    first, second = (text.learn_tokenizer(captions).get_vocab() for _ in range(2))
    assert first == second


def test_spare_words_get_embeddings_like_those_of_names(work: Work) -> None:
    stage = text.Text(work)
    vocabulary, table = (
        text.tokenizer_of(work).get_vocab(),
        "tower.text_model.embeddings.token_embedding.weight",
    )
    named = [vocabulary[name + text.FINAL] for name in text.names()]
    table = next(name for name in stage.average if "token_embedding" in name)
    stage.average[table][named] += 3
    stage.save()
    reader, _ = text.finished(work)
    found = reader.tower.get_input_embeddings().weight
    spare = found[[vocabulary[word + text.FINAL] for word in text.SPARE]]
    assert spare.mean().item() == pytest.approx(3, abs=0.05)
    assert spare.std(0).mean() == pytest.approx(found[named].std(0).mean().item(), rel=0.1)


def test_every_weight_of_the_text_tower_learns(work: Work) -> None:
    stage = text.Text(work)
    assert stage._prepare().tolist() == [1.0, text.NAMED_OFTEN]
    lost(stage).backward()
    assert without_gradient(stage.module) == []


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
    pixels, even = torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    pixels[:, 0, 8:24, 8:24] = 1.0
    gray = pixels.mean(1, keepdim=True).expand_as(pixels)
    smooth = torch.nn.functional.avg_pool2d(pixels, 3, 1, 1)
    lost = [autoencoder.difference(found, pixels, even) for found in (gray, smooth, pixels)]
    assert lost[0] > lost[1]
    assert lost[2] == 0


def test_every_weight_of_the_autoencoder_learns(work: Work) -> None:
    stage = autoencoder.Autoencoder(work)
    lost(stage).backward()
    assert without_gradient(stage.module) == []


def test_pixels_of_things_weigh_more(work: Work) -> None:
    weight = autoencoder.Autoencoder(work)._weight(torch.tensor([0]))
    assert weight.mean().item() == pytest.approx(1)
    assert weight[0, 0, 50, 30] == pytest.approx(autoencoder.INSIDE * weight[0, 0, 0, 0])


def test_every_weight_of_the_unet_learns(work: Work) -> None:
    stage = denoiser.Denoiser(work)
    stage.latents, stage.states = torch.randn(2, 32, 8, 8), torch.randn(3, 32, text.WIDTH)
    lost(stage).backward()
    assert without_gradient(stage.module) == []


def test_times_fall_one_into_each_part() -> None:
    times = denoiser.spread_times(10, torch.Generator().manual_seed(3))
    assert sorted((times // 100).tolist()) == list(range(10))


def test_a_guess_that_knows_v_is_the_clean_latent() -> None:
    class Oracle(torch.nn.Module):
        def forward(self, noised, times, states, return_dict):  # noqa: ANN001, ANN202
            kept = schedule.alphas_cumprod[times][:, None, None, None]
            noise = (noised - kept.sqrt() * clean) / (1 - kept).sqrt()
            return (kept.sqrt() * noise - (1 - kept).sqrt() * clean,)

    schedule, clean = denoiser.SCHEDULE, torch.randn(3, 32, 8, 8)
    draw, states = torch.Generator().manual_seed(1), torch.zeros(3, 1, 1)
    found = denoiser.guessed(Oracle(), clean, states, draw)
    assert torch.allclose(found, clean, atol=0.05)


def test_the_finder_is_told_middle_and_sides_of_every_thing() -> None:
    heat, sides, _ = examiner.targets(ROWS[:1], 128)
    found = networks.peaks(heat[0], sides[0])
    boxes = [[round(128 * side) for side in box] for _, box in found]
    assert sorted(boxes) == [thing["box"] for thing in ROWS[0]["things"]]


def test_every_weight_of_the_examiner_learns(work: Work) -> None:
    stage = examiner.Examiner(work)
    stage.vae = autoencoder.build().requires_grad_(False)
    stage.latents = torch.randn(2, 32, 8, 8)
    lost(stage).backward()
    assert without_gradient(stage.module) == []


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
