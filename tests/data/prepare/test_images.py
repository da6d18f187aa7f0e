"""Pictures of all kinds become RGB squares; broken ones say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimodal.data.prepare import UnreadableError
from tests.data.prepare.pictures import cut, picture

Image = pytest.importorskip("PIL.Image")
ImageFile = pytest.importorskip("PIL.ImageFile")

from equimodal.data.prepare.readers import read_image  # noqa: E402


def save(path: Path, mode: str, value: object, form: str, size: tuple[int, int] = (12, 8)) -> Path:
    Image.new(mode, size, value).save(path, form)
    return path


def test_channels_come_first_in_the_order_red_green_blue(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", "RGB", (250, 100, 3), "PNG")  # the content counts, not the name
    pixels = read_image(path, 5)
    assert pixels.shape == (3, 5, 5)
    assert pixels.dtype == np.uint8
    assert [int(c) for c in pixels[:, 2, 2]] == [250, 100, 3]
    assert pixels.flags["C_CONTIGUOUS"]


def striped(path: Path) -> Path:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :10, 0] = pixels[:, 10:30, 1] = pixels[:, 30:, 2] = 255
    Image.fromarray(pixels).save(path, "PNG")
    return path


def test_crop_keeps_the_aspect_and_cuts_the_centre(tmp_path: Path) -> None:
    path = striped(tmp_path / "a.png")
    centre = read_image(path, 20, "crop")  # 40 x 20: the shorter side is 20 already, columns 10 to 29 are green
    assert (centre[1] == 255).all()
    assert not centre[[0, 2]].any()
    doubled = read_image(path, 20, "crop", shorter=40)  # 80 x 40: columns 30 to 49 are 15 to 24 before
    assert (doubled[1] == 255).all()
    squashed = read_image(path, 20)
    assert squashed[0, 10, 0] == 255
    assert squashed[2, 10, 19] == 255


def test_crop_of_a_tall_picture_cuts_rows(tmp_path: Path) -> None:
    pixels = np.zeros((40, 20, 3), np.uint8)
    pixels[10:30] = 77
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 20, "crop") == 77).all()


def test_crop_of_a_sliver_is_never_too_small(tmp_path: Path) -> None:
    assert read_image(save(tmp_path / "a.png", "RGB", (9, 9, 9), "PNG", (300, 2)), 7, "crop").shape == (3, 7, 7)


@pytest.mark.parametrize(
    ("mode", "value", "form", "expected"),
    [
        ("L", 90, "JPEG", (90, 90, 90)),
        ("1", 1, "PNG", (255, 255, 255)),
        ("LA", (40, 0), "PNG", (40, 40, 40)),
        ("RGBA", (1, 2, 3, 0), "PNG", (1, 2, 3)),
        ("I;16", 0x8000, "PNG", (128, 128, 128)),
        ("CMYK", (0, 255, 255, 0), "JPEG", (255, 0, 0)),
        ("P", 0, "GIF", (0, 0, 0)),
    ],
)
def test_other_modes_are_converted(
    mode: str, value: object, form: str, expected: tuple[int, ...], tmp_path: Path
) -> None:
    pixels = read_image(save(tmp_path / "a.jpg", mode, value, form), 4)
    np.testing.assert_allclose(pixels[:, 1, 1], expected, atol=3)


def test_interpolations_differ(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", size=(50, 50))
    assert (read_image(path, 9) != read_image(path, 9, interpolation="bicubic")).any()


def test_a_truncated_picture_is_refused_and_no_setting_is_changed(tmp_path: Path) -> None:
    path = cut(picture(tmp_path / "a.jpg", size=(60, 60)))
    with pytest.raises(UnreadableError, match="cannot be decoded .*truncated"):
        read_image(path, 8)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html>404 not found</html>", "a web page"),
        (b"gone with the wind", "begins with 'gone with the wind'"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cannot be decoded|a PNG image"),
    ],
)
def test_what_is_no_picture_is_named_without_its_folder(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=reason) as caught:
        read_image(path, 8)
    assert str(tmp_path) not in str(caught.value)


def test_a_broken_checksum_is_refused(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", form="PNG")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UnreadableError):
        read_image(path, 8)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.jpg", size=(60, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableError, match="decompression bombs"):
        read_image(path, 8)
