"""Reading photos as people have them, and saying a subject."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cones.errors import SubjectError
from cones.subject import MOST_PHOTOS, Subject, check_words, read_pixels, with_article


@pytest.fixture
def halves() -> Image.Image:
    """Give a picture whose upper half is red and lower half blue."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32, :, 0] = pixels[32:, :, 2] = 255
    return Image.fromarray(pixels)


def colour(pixels: torch.Tensor, y: int, x: int) -> list[float]:
    """Give one pixel, rounded."""
    return [round(float(value), 2) for value in pixels[:, y, x]]


def claim(path: Path, width: int, height: int) -> None:
    """Write a PNG whose header claims a size that its data do not have."""
    Image.new("1", (1, 1)).save(path)
    data = path.read_bytes()
    header = b"IHDR" + width.to_bytes(4) + height.to_bytes(4) + data[24:29]
    path.write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4) + data[33:])


def test_reads_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("d.png", "a.png", "h.png", "C.PNG", "f.png", "b.png", "g.png", "e.png"):
        grey = Image.new("RGB", (40, 40), (ord(name[0]),) * 3)
        grey.save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("not a picture, and not named like one")
    (tmp_path / ".hidden.png").write_text("left by some system")
    pixels = read_pixels(tmp_path, size=16)
    assert pixels.shape == (8, 3, 16, 16)
    assert "".join(map(chr, (pixels[:, 0, 0, 0] * 255).round().int())) == "Cabdefgh"


def test_files_and_pictures_in_the_order_given(tmp_path: Path, halves: Image.Image) -> None:
    halves.save(tmp_path / "a.png")
    both = read_pixels([halves.rotate(180), str(tmp_path / "a.png")], size=32)
    assert torch.equal(both[0], both[1].flip(1))
    assert torch.equal(read_pixels(halves, size=32)[0], both[1])
    assert torch.equal(read_pixels(tmp_path / "a.png", size=32)[0], both[1])


@pytest.mark.parametrize(
    ("orientation", "left", "right"),
    [(1, "red", "red"), (3, "blue", "blue"), (6, "blue", "red"), (8, "red", "blue")],
)
def test_turns_photos_upright(
    tmp_path: Path, halves: Image.Image, orientation: int, left: str, right: str
) -> None:
    exif, colours = Image.Exif(), {"red": [1, 0, 0], "blue": [0, 0, 1]}
    exif[0x0112] = orientation
    halves.save(tmp_path / "a.png", exif=exif)
    pixels = read_pixels(tmp_path, size=32)[0]
    assert [colour(pixels, 2, x) for x in (2, 29)] == [colours[left], colours[right]]


def test_crops_the_centre_and_keeps_proportions() -> None:
    pixels = np.zeros((60, 180, 3), np.uint8)
    pixels[:, 60:120] = 255
    wide, tall = Image.fromarray(pixels), Image.fromarray(pixels.transpose(1, 0, 2))
    assert read_pixels([wide, tall], size=20).min() > 0.9  # stretched would be 0


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
    pixels = read_pixels(tmp_path, size=40)[0]
    assert colour(pixels, 5, 5) == [0, 0, 0]
    assert colour(pixels, 35, 5) == [1, 1, 1]


def test_reads_grey_palette_cmyk_webp_and_gif(tmp_path: Path) -> None:
    red = Image.new("RGB", (40, 40), (255, 0, 0))
    red.convert("P").save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    red.save(tmp_path / "web.webp", lossless=True)
    red.save(tmp_path / "film.gif", save_all=True, append_images=[Image.new("RGB", (40, 40))])
    pixels = read_pixels(tmp_path, size=8)
    expected = torch.tensor([1.0, 0, 0])[:, None, None].expand(4, 3, 8, 8)
    torch.testing.assert_close(pixels, expected, atol=0.02, rtol=0)
    assert colour(read_pixels(Image.new("L", (40, 40), 51), size=8)[0], 0, 0) == [0.2] * 3


def test_lists_every_bad_file_with_its_reason(tmp_path: Path, halves: Image.Image) -> None:
    halves.save(tmp_path / "good.png")
    Image.new("RGB", (1, 40)).save(tmp_path / "dot.png")
    (tmp_path / "text.jpg").write_text("I am no picture")
    halves.save(tmp_path / "post.eps")
    (tmp_path / "post.eps").rename(tmp_path / "post.jpg")
    halves.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:100])
    Image.new("F", (40, 40)).save(tmp_path / "float.tiff")
    claim(tmp_path / "huge.png", 10_000, 6_500)
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(SubjectError, match="found 9 of 10 photos") as caught:
        read_pixels(tmp_path, size=32)
    lines = {line.split(":")[0].strip(): line for line in str(caught.value).splitlines()}
    for name, reason in {
        "dot.png": "1 x 40 px; expected at least 32 px",
        "text.jpg": "cannot identify image file",
        "post.jpg": "cannot identify image file",  # Ghostscript is never started
        "cut.png": "",
        "float.tiff": "floating-point pixels",
        "huge.png": "at most 64 megapixels",
        "link.png": "a broken link",
        "pipe.png": "no regular file",
        "photo.heic": "cannot identify image file",
    }.items():
        assert reason in lines[name]


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    claim(tmp_path / "bomb.png", 20_000, 20_000)
    with pytest.raises(SubjectError, match="bomb.png: .*decompression bomb"):
        read_pixels(tmp_path, size=8)


def test_refuses_nothing_and_too_much(tmp_path: Path, halves: Image.Image) -> None:
    for nothing in (tmp_path, []):
        with pytest.raises(SubjectError, match="found 0 photos; expected 1 to 20"):
            read_pixels(nothing, size=32)
    with pytest.raises(SubjectError, match="absent: no such file"):
        read_pixels(tmp_path / "absent", size=32)
    assert len(read_pixels([halves] * MOST_PHOTOS, size=32)) == 20
    with pytest.raises(SubjectError, match="found 21 photos"):
        read_pixels([halves] * (MOST_PHOTOS + 1), size=32)


def test_a_subject_holds_photos_and_words(tmp_path: Path, halves: Image.Image) -> None:
    halves.save(tmp_path / "a.png")
    subject = Subject.from_folder(tmp_path, noun="teddy bear", identifier="V2*", size=32)
    assert subject.prompt == "a V2* teddy bear"
    assert len(subject) == 1
    assert subject.masks is None
    with pytest.raises(SubjectError, match="the noun is"):  # before any photo is read
        Subject.from_folder(tmp_path / "absent", noun="", size=32)
    masks = torch.ones(1, 1, 32, 32)
    assert Subject(subject.pixels, "cat", masks=masks).identifier == "V*"


@pytest.mark.usefixtures("unchecked")
def test_unusable_subjects_are_refused() -> None:
    pixels = torch.zeros(2, 3, 8, 8)
    odd = [pixels[0], pixels[:0], pixels[:, :1], pixels + 2, pixels.byte(), pixels * torch.nan]
    with pytest.raises(SubjectError, match="the identifier is 'a cat'"):
        Subject(pixels, "cat", "a cat")
    for bad in odd:
        with pytest.raises(SubjectError, match=r"pixels are .*expected floats in \[0, 1\]"):
            Subject(bad, "cat")
    for bad in (pixels[:, :1, :4], pixels[:1, :1], pixels[:, :1] - 1):
        with pytest.raises(SubjectError, match="masks as large as pixels"):
            Subject(pixels, "cat", masks=bad)


def test_words_are_short_printable_and_one() -> None:
    for identifier in ("", " ", "a cat", "V*\n", "x" * 65, "\ud800", "\x1b[31m"):
        with pytest.raises(SubjectError, match="the identifier is"):
            check_words(identifier, "cat")
    for noun in ("", "  ", "x" * 65, "cat\x07", "\u202ecat"):
        with pytest.raises(SubjectError, match="the noun is"):
            check_words("V*", noun)
    check_words("V*", "teddy bear")


@pytest.mark.parametrize(
    "said",
    [
        "an apple", "a V* cat", "a unicorn", "an umbrella", "an hourglass", "a one-eyed cat",
        "sunglasses", "V* sunglasses", "V* people", "a glass", "a bus", "a lens", "a European",
        "an orange cat", "a cactus", "scissors",
    ],
)  # fmt: skip
def test_articles(said: str) -> None:
    words = said.removeprefix("a ").removeprefix("an ")
    assert with_article(words) == said
