"""Drawing over a photo: near it if little is drawn, equal to it outside the mask, undone after."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionInpaintPipeline,
)
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from cones.backbones import backbone_for
from cones.cli import app
from cones.concept_file import save
from cones.errors import SearchError, SubjectError
from cones.generate import sample
from cones.plot import read_settings
from cones.redraw import Photo, redraw
from fakes import make_concept

BOX = (16, 24, 39, 55)  # on cells of 8 pixels
STEPS = 10


@pytest.fixture
def photo(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC)
    image.save(tmp_path / "photo.png")
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle(BOX, 255)
    mask.save(tmp_path / "mask.png")
    return Photo(tmp_path / "photo.png")


@pytest.fixture
def masked(photo, tmp_path):
    return Photo(photo.picture, tmp_path / "mask.png")


def array(image):
    return np.asarray(image, dtype=int)


def drawn(pipeline, concepts, photo, prompt="a cat", **options):
    options = {"count": 1, "steps": STEPS, "amount": 0.6, **options}
    return [array(image) for image in redraw(pipeline, concepts, prompt, photo, **options)]


@torch.no_grad()
def round_trip(pipeline, photo):
    """Encode and decode the photo, which is as near as the model can come."""
    latents = backbone_for(pipeline).latents(photo.pixels(64))
    pixels = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return ((pixels[0] / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_little_drawing_stays_near_the_photo(name, request, fresh, photo):
    pipeline = fresh(request.getfixturevalue(name))
    with torch.no_grad():  # an encoder that is sure, of latents larger than the noise
        pipeline.vae.quant_conv.weight[4:] = 0
        pipeline.vae.quant_conv.bias[4:] = -30
    pipeline.vae.register_to_config(scaling_factor=10.0)
    near = round_trip(pipeline, photo)
    gaps = [
        abs(drawn(pipeline, [], photo, amount=amount)[0] - near).mean() for amount in (0.1, 1.0)
    ]
    assert gaps[0] < gaps[1] / 2


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_outside_the_mask_the_picture_is_the_photo(name, request, masked):
    pipeline = request.getfixturevalue(name)
    (image,) = drawn(pipeline, [], masked)
    before = array(Image.open(masked.picture))
    outside = array(Image.open(masked.mask)) == 0
    assert (image[outside] == before[outside]).all()
    assert (image[~outside] != before[~outside]).mean() > 0.9


@pytest.mark.parametrize("sampler", [DPMSolverMultistepScheduler, DDIMScheduler])
def test_inside_the_mask_it_is_what_diffusers_draws(sd1, fresh, masked, sampler):
    pipeline = fresh(sd1)
    pipeline.scheduler = sampler.from_config(pipeline.scheduler.config, clip_sample=False)
    (ours,) = drawn(pipeline, [], masked, seed=3, guidance=4.0)
    theirs = StableDiffusionInpaintPipeline(**pipeline.components, requires_safety_checker=False)
    theirs.set_progress_bar_config(disable=True)
    reference = theirs(
        "a cat",
        image=Image.open(masked.picture),
        mask_image=Image.open(masked.mask),
        strength=0.6,
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(3)],
    ).images[0]
    inside = array(Image.open(masked.mask)) > 0
    assert abs(ours - array(reference))[inside].max() <= 1


def test_the_noised_photo_goes_back_after_every_step(sd1, masked):
    """What is drawn inside depends on the photo outside."""
    other = Image.open(masked.picture).rotate(180)
    hole = Image.open(masked.mask)
    other.paste(Image.open(masked.picture), mask=hole)
    changed = masked.picture.with_name("other.png")
    other.save(changed)
    inside = array(hole) > 0
    one, two = (drawn(sd1, [], Photo(path, masked.mask))[0] for path in (masked.picture, changed))
    assert (one[inside] != two[inside]).any()


def test_the_same_seed_gives_the_same_picture(sd1, photo, masked):
    for source in (photo, masked):
        many = drawn(sd1, [], source, count=9, seed=4)
        (alone,) = drawn(sd1, [], source, seed=6)
        assert (many[2] == drawn(sd1, [], source, count=9, seed=4)[2]).all()
        assert abs(many[2] - alone).max() <= 1  # another batch size rounds otherwise
        assert abs(many[8] - drawn(sd1, [], source, seed=12)[0]).max() <= 1
        assert (many[2] != many[3]).any()


def test_concepts_change_the_picture_and_the_weights_come_back(sd1, fresh, masked):
    pipeline = fresh(sd1)
    concept = make_concept(pipeline)
    bits = {n: w.detach().clone() for n, w in pipeline.unet.named_parameters()}
    before = array(sample(pipeline, ["a cat"], seeds=[1], steps=2)[0])
    (plain,) = drawn(pipeline, [], masked, "a V* cat", strength=1.0)
    (shut,) = drawn(pipeline, [concept], masked, "a V* cat")
    none = drawn(pipeline, [concept], masked, "a V* cat", strength=0.0)[0]
    assert (shut != plain).any()
    assert (shut != none).any()
    assert all(torch.equal(w, bits[n]) for n, w in pipeline.unet.named_parameters())
    assert (array(sample(pipeline, ["a cat"], seeds=[1], steps=2)[0]) == before).all()


def test_grey_is_mixed_and_traces_of_grey_are_black(sd1, masked, tmp_path):
    (full,) = drawn(sd1, [], masked)
    hole = array(Image.open(masked.mask))
    Image.fromarray((hole // 2 + 5).clip(0, 255).astype(np.uint8)).save(tmp_path / "grey.png")
    share = (132 / 255 - 1 / 16) / (1 - 1 / 8)
    grey = Photo(masked.picture, tmp_path / "grey.png")
    assert grey.inside(64).unique().tolist() == pytest.approx([0, share])
    (mixed,) = drawn(sd1, [], grey)
    before = array(Image.open(masked.picture))
    assert abs(mixed - (share * full + (1 - share) * before))[hole > 0].max() <= 1.5


def test_a_large_photo_is_cut_to_its_centre_like_its_mask(tmp_path):
    Image.new("RGB", (200, 100), "red").save(tmp_path / "wide.png")
    wide = Image.new("L", (200, 100))
    ImageDraw.Draw(wide).rectangle((50, 0, 99, 99), 255)
    wide.save(tmp_path / "half.png")
    inside = Photo(tmp_path / "wide.png", tmp_path / "half.png").inside(64)[0, 0]
    assert inside[:, :30].min() == 1
    assert inside[:, 34:].max() == 0
    ImageDraw.Draw(wide).rectangle((50, 0, 149, 99), 0)
    wide.save(tmp_path / "black.png")
    with pytest.raises(SubjectError, match="black in the centre"):
        Photo(tmp_path / "wide.png", tmp_path / "black.png")


def test_files_that_do_not_fit_are_refused(photo, masked, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (64, 48), 255).save(tmp_path / "small.png")
    with pytest.raises(SubjectError, match=r"text\.png: not a picture"):
        Photo(tmp_path / "text.png")
    with pytest.raises(SubjectError, match=r"text\.png: not a picture"):
        Photo(photo.picture, tmp_path / "text.png")
    with pytest.raises(SubjectError, match=r"mask of 64x48 pixels for a picture of 64x64"):
        Photo(photo.picture, tmp_path / "small.png")
    with pytest.raises(SubjectError, match=r"gone\.png: no such file"):
        Photo(tmp_path / "gone.png")
    assert set(photo.digests) == {"picture"}
    assert masked.digests["picture"] == photo.digests["picture"] != masked.digests["mask"]


@pytest.mark.parametrize(("amount", "steps"), [(0, 50), (-1, 50), (1.1, 50), (0.01, 50)])
def test_an_amount_that_cannot_be_is_refused(sd1, photo, amount, steps):
    with pytest.raises(SearchError, match=f"found amount {amount} of {steps} steps"):
        redraw(sd1, [], "a cat", photo, amount=amount, steps=steps)


def test_the_command_draws_over_a_photo(sd1, fresh, masked, tmp_path):
    sd1.save_pretrained(tmp_path / "model")
    save(make_concept(fresh(sd1)), tmp_path / "cat.safetensors")
    concept, model = str(tmp_path / "cat.safetensors"), str(tmp_path / "model")

    def run(*words, out="out"):
        said = ["generate", "-c", concept, "a V* cat", "--model", model, "--steps", "5", "-n", "1"]
        return CliRunner().invoke(app, [*said, "-o", str(tmp_path / out), *map(str, words)])

    result = run("--image", masked.picture, "--inpaint", masked.mask, "--json")
    assert result.exit_code == 0, result.output
    told = read_settings(tmp_path / "out" / "000.png")["photo"]
    assert told == {**masked.digests, "amount": 0.6}
    assert json.loads(result.stdout)["settings"]["photo"] == told
    image = array(Image.open(tmp_path / "out" / "000.png"))
    same = image == array(Image.open(masked.picture))
    outside = array(Image.open(masked.mask)) == 0
    assert same[outside].all()
    assert not same[~outside].all()
    refusals = {
        "at least one step": ("--image", masked.picture, "--amount", 0.1),
        "--inpaint without --image": ("--inpaint", masked.mask),
        "--excite with --image": ("--image", masked.picture, "--excite", "cat"),
        "no such file": ("--image", Path("gone.png")),
    }
    shutil.rmtree(tmp_path / "model")  # nothing is loaded before the check
    for said, words in refusals.items():
        result = run(*words, out="bad")
        assert result.exit_code == 1
        assert said in " ".join(result.stderr.split())
        assert not (tmp_path / "bad").exists()
