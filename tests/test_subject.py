"""Reading pictures as people have them, and saying a subject."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cones.errors import SubjectError
from cones.subject import MAX_IMAGES, PROMPT_TEMPLATES, Subject, read_images


@pytest.fixture
def halves() -> Image.Image:
    """Give a picture whose upper half is red and lower half blue."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :, 0] = pixels[32:, :, 2] = 255
    return Image.fromarray(pixels)


def colour(pixels: torch.Tensor, y: int, x: int) -> list[float]:
    """Give one pixel, rounded."""
    return [round(float(value), 2) for value in pixels[:, y, x]]


def test_reads_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for name, value in (("b.png", 200), ("a.png", 100), ("C.PNG", 50)):
        Image.new("RGB", (40, 40), (value,) * 3).save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("not a picture, and not named like one")
    (tmp_path / ".hidden.png").write_text("left by some system")
    pixels = read_images(tmp_path, size=16)
    assert pixels.shape == (3, 3, 16, 16)
    assert pixels.dtype == torch.float32
    found = (pixels[:, 0, 0, 0] * 255).round().tolist()
    assert found == [50, 100, 200]


@pytest.mark.parametrize(
    ("orientation", "top"), [(1, "red"), (3, "blue"), (6, "beside"), (8, "beside")]
)
def test_turns_pictures_upright(
    tmp_path: Path, halves: Image.Image, orientation: int, top: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves.save(tmp_path / "a.png", exif=exif)
    pixels = read_images(tmp_path, size=32)[0]
    corners = {"red": ([1, 0, 0], [1, 0, 0]), "blue": ([0, 0, 1], [0, 0, 1])}
    left, right = colour(pixels, 2, 2), colour(pixels, 2, 29)
    expected = corners.get(top)
    if expected is None:  # a quarter turn: red on one side, blue on the other
        expected = ([0, 0, 1], [1, 0, 0]) if orientation == 6 else ([1, 0, 0], [0, 0, 1])
    assert (left, right) == expected


def test_crops_the_centre_and_keeps_proportions(tmp_path: Path) -> None:
    pixels = np.zeros((60, 180, 3), np.uint8)
    pixels[:, 60:120] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    assert read_images(tmp_path, size=20).min() > 0.9  # stretched would be 0


def test_size_of_one_and_the_mirror_images(tmp_path: Path, halves: Image.Image) -> None:
    halves.rotate(90).save(tmp_path / "a.png")
    Image.new("RGB", (40, 40), "green").save(tmp_path / "b.png")
    plain, both = (read_images(tmp_path, size=32, flip=flip) for flip in (False, True))
    assert both.shape[0] == 4
    assert torch.equal(both[:2], plain)
    assert torch.equal(both[2:], plain.flip(-1))
    assert not torch.equal(both[0], both[2])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_falls_on_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (40, 40), (200, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 40, 20))
    if mode == "P":
        paletted = Image.new("P", (40, 40), 1)
        paletted.putpalette([0, 0, 0, 200, 0, 0])
        paletted.paste(0, (0, 0, 40, 20))
        paletted.save(tmp_path / "a.png", transparency=1)
    else:
        image.convert(mode).save(tmp_path / "a.png")
    pixels = read_images(tmp_path, size=40)[0]
    assert colour(pixels, 5, 5) == [0, 0, 0]
    assert colour(pixels, 35, 5) == [1, 1, 1]


def test_reads_grey_palette_cmyk_webp_and_gif(tmp_path: Path) -> None:
    red = Image.new("RGB", (40, 40), (255, 0, 0))
    red.convert("P").save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    red.save(tmp_path / "web.webp", lossless=True)
    red.save(tmp_path / "film.gif", save_all=True, append_images=[Image.new("RGB", (40, 40))])
    pixels = read_images(tmp_path, size=8)
    assert pixels.shape[0] == 4
    torch.testing.assert_close(
        pixels, torch.tensor([1.0, 0, 0])[:, None, None].expand_as(pixels), atol=0.02, rtol=0
    )
    Image.new("L", (40, 40), 51).save(tmp_path / "grey.png")
    assert colour(read_images(tmp_path / "grey.png", size=8)[0], 0, 0) == [0.2, 0.2, 0.2]


def test_sixteen_bit_greys_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "scan.png")
    pixels = read_images(tmp_path, size=64)[0]
    torch.testing.assert_close(pixels[0, 0], torch.linspace(0, 1, 64), atol=2 / 255, rtol=0)


def test_lists_every_bad_file_with_its_reason(tmp_path: Path, halves: Image.Image) -> None:
    halves.save(tmp_path / "good.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    (tmp_path / "text.jpg").write_text("I am no picture")
    halves.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:100])
    Image.new("F", (40, 40)).save(tmp_path / "float.tiff")
    with pytest.raises(SubjectError, match="found 4 of 5 files") as caught:
        read_images(tmp_path, size=32)
    message = str(caught.value)
    assert "dot.png: too small, 1x1 px; at least 32 px" in message
    assert "text.jpg: not a picture" in message
    assert "cut.png" in message
    assert "float.tiff: floating-point" in message
    assert "good.png" not in message


def test_refuses_nothing_and_too_much(tmp_path: Path, halves: Image.Image) -> None:
    with pytest.raises(SubjectError, match="found no pictures"):
        read_images(tmp_path, size=32)
    with pytest.raises(SubjectError, match="found no pictures"):
        read_images([], size=32)
    with pytest.raises(SubjectError, match="found nothing at"):
        read_images(tmp_path / "absent", size=32)
    with pytest.raises(SubjectError, match="no such file"):
        read_images([tmp_path / "absent.png"], size=32)
    with pytest.raises(SubjectError, match="found size 0"):
        read_images(tmp_path, size=0)
    for number in range(MAX_IMAGES + 1):
        halves.save(tmp_path / f"{number}.png")
    with pytest.raises(SubjectError, match="found 21 pictures; expected 1 to 20"):
        read_images(tmp_path, size=32)
    assert len(read_images(tmp_path, size=8, most=21)) == 21


def test_a_subject_speaks(tmp_path: Path, halves: Image.Image) -> None:
    halves.save(tmp_path / "a.png")
    subject = Subject.from_folder(tmp_path, noun="teddy bear", identifier="V2*", size=32)
    assert subject.prompt == "a V2* teddy bear"
    assert len(subject) == 1
    prompts = subject.prompts()
    assert len(prompts) == len(PROMPT_TEMPLATES)
    assert all("V2* teddy bear" in prompt for prompt in prompts)
    assert subject.prompts(["{} in the {snow}"]) == ("V2* teddy bear in the {snow}",)


@pytest.mark.parametrize(
    ("images", "noun", "identifier", "message"),
    [
        (torch.rand(3, 8, 8), "cat", "V*", "found images of shape"),
        (torch.rand(0, 3, 8, 8), "cat", "V*", "at least one picture"),
        (torch.rand(1, 4, 8, 8), "cat", "V*", "found images of shape"),
        (torch.full((1, 3, 8, 8), 2.0), "cat", "V*", r"outside \[0, 1\]"),
        (torch.full((1, 3, 8, 8), torch.nan), "cat", "V*", r"outside \[0, 1\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "cat", "V*", "uint8"),
        (torch.rand(1, 3, 8, 8), " ", "V*", "found an empty noun"),
        (torch.rand(1, 3, 8, 8), "cat", "my cat", "one word without spaces"),
        (torch.rand(1, 3, 8, 8), "cat", "", "one word without spaces"),
    ],
)
def test_a_subject_refuses(images: torch.Tensor, noun: str, identifier: str, message: str) -> None:
    with pytest.raises(SubjectError, match=message):
        Subject(images, noun, identifier)
