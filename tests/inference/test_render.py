"""Colours, palette PNGs and overlays."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sseg_core.inference import render
from sseg_core.inference.render import class_colors, overlay, palette_png

NAMES = ["tiger", "minion", "traffic light", "café"]


def _quarters(height: int, width: int) -> np.ndarray:
    """Background and three classes, a quarter of the image each."""
    label_map = np.full((height, width), -1, np.int16)
    label_map[: height // 2, width // 2 :] = 0
    label_map[height // 2 :, : width // 2] = 1
    label_map[height // 2 :, width // 2 :] = 2
    return label_map


def test_a_name_has_the_same_colour_in_every_run() -> None:
    """Colours depend neither on the process nor on its hash seed."""
    code = f"from sseg_core.inference.render import class_colors as c; print(c({NAMES}).tolist())"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {str(class_colors(NAMES).tolist())}


def test_case_and_unicode_form_do_not_matter() -> None:
    """Tiger and TIGER, and the two ways to write an accent, share a colour."""
    for one, other in (("tiger", "TIGER"), ("caf\u00e9", "cafe\u0301")):
        np.testing.assert_array_equal(class_colors([one]), class_colors([other]))


def test_sixty_names_have_sixty_colours() -> None:
    """No two names of a call share a colour while there are colours left; none is black."""
    colors = class_colors([f"class {index}" for index in range(60)])
    assert len({tuple(color) for color in colors.tolist()}) == 60
    assert colors.max(axis=1).min() > 40


def test_more_names_than_colours_are_fine() -> None:
    """Beyond the palette colours repeat; an empty list gives an empty table."""
    assert class_colors([str(index) for index in range(1000)]).shape == (1000, 3)
    assert class_colors([]).shape == (0, 3)


def test_an_earlier_name_keeps_its_colour() -> None:
    """Names added at the end of a list change no colour before them."""
    np.testing.assert_array_equal(class_colors(NAMES), class_colors([*NAMES, "fish", "boat"])[:4])


def test_a_palette_png_survives_the_disk() -> None:
    """Values are labels plus 1, colours those of the classes, background black."""
    label_map = _quarters(10, 14)
    stream = io.BytesIO()
    palette_png(label_map, NAMES).save(stream, "PNG")
    image = Image.open(stream)
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), label_map + 1)
    rgb = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(rgb[0, 0], (0, 0, 0))
    np.testing.assert_array_equal(rgb[0, 13], class_colors(NAMES)[0])
    np.testing.assert_array_equal(rgb[9, 13], class_colors(NAMES)[2])


@pytest.mark.parametrize(("count", "mode"), [(255, "P"), (256, "I;16")])
def test_the_last_class_fits_its_file(count: int, mode: str) -> None:
    """255 classes fit a palette; more are written with 16 bits and the same values."""
    stream = io.BytesIO()
    label_map = np.array([[-1, 0, count - 1]])
    palette_png(label_map, [str(index) for index in range(count)]).save(stream, "PNG")
    image = Image.open(stream)
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image), [[0, 1, count]])


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [
        (1, 1, 500),
        (64, 64, 512),
        (63, 17, 504),
        (480, 640, 640),
        (2, 3000, 3000),
        (3000, 2000, 3000),
    ],
)
def test_an_overlay_fits_any_size(height: int, width: int, shown: int) -> None:
    """Small images are enlarged by a whole factor; the legend comes below and fits."""
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    result = overlay(image, _quarters(height, width), NAMES)
    factor = shown // max(height, width)
    assert result.mode == "RGB"
    assert result.width >= factor * width
    assert result.height > factor * height


def test_an_overlay_tints_classes_and_leaves_the_background() -> None:
    """Away from lines and text, a pixel is the blend of photo and class colour."""
    image = np.full((700, 700, 3), 100, np.uint8)
    result = np.asarray(overlay(image, _quarters(700, 700), NAMES, opacity=0.5))
    np.testing.assert_array_equal(result[5, 5], (100, 100, 100))
    expected = 0.5 * class_colors(NAMES)[0] + 50
    np.testing.assert_allclose(result[5, 695], expected, atol=1)
    np.testing.assert_array_equal(result[5, 350], (255, 255, 255))


def test_the_name_is_written_on_its_region() -> None:
    """The plate of a class lies inside the region of that class."""
    image = np.zeros((700, 700, 3), np.uint8)
    color = class_colors(NAMES)[0]
    result = np.asarray(overlay(image, _quarters(700, 700), NAMES, opacity=0.5))
    rows, columns = np.nonzero((result[:700] == color).all(axis=-1))
    assert rows.size > 100
    assert (rows.max(), columns.min()) < (350, 700)
    assert columns.min() >= 350


def test_absent_classes_do_not_appear_in_the_legend() -> None:
    """An image that is all background has a legend of one entry, with or without class names."""
    image = np.zeros((32, 32, 3), np.uint8)
    nothing = np.full((32, 32), -1)
    expected = overlay(image, nothing, []).tobytes()
    assert overlay(image, nothing, NAMES).tobytes() == expected


@pytest.mark.parametrize(
    "name",
    [
        "x" * 5000,
        "two\nlines\ttab",
        "老虎",
        "🐯",
        "a\u0000b\u001b[31m",
        "\u202eevil",
        "",
        " ",
        "ß Łódź",
    ],
)
def test_odd_names_are_drawn_somehow(name: str) -> None:
    """Long names, line breaks, scripts without glyphs and control characters do not crash."""
    image = np.zeros((64, 64, 3), np.uint8)
    result = overlay(image, np.zeros((64, 64), np.int16), [name])
    assert result.width == 512
    assert result.height < 800
    assert result.tobytes() != overlay(image, np.zeros((64, 64), np.int16), ["other"]).tobytes()


def test_a_large_image_is_drawn_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a whole factor, in bands, with the mean of the photo; shares are those of all pixels."""
    monkeypatch.setattr(render, "_MAX_SIDE", 700)
    monkeypatch.setattr(render, "_BAND", 5000)
    image = np.random.default_rng(0).integers(0, 255, (1001, 1800, 3), dtype=np.uint8)
    label_map = np.full((1001, 1800), -1, np.int16)
    label_map[:, 900:] = 1
    label_map[500] = 0  # one row, that none of the drawn ones is
    result = np.asarray(overlay(image, label_map, NAMES, opacity=0.5))
    assert result.shape[1] == 600
    photo = np.asarray(Image.fromarray(image).reduce(3))
    np.testing.assert_array_equal(result[: len(photo), :290], photo[:, :290])
    tinted = 0.5 * photo[:40, 310:] + 0.5 * class_colors(NAMES)[1]
    np.testing.assert_allclose(result[:40, 310:], tinted, atol=1)
    legend = result[len(photo) :].reshape(-1, 3)
    assert (legend == class_colors(NAMES)[0]).all(axis=1).any()


@pytest.mark.parametrize("band", [1, 100, 1 << 20])
def test_bands_do_not_show(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is the same whether it is drawn row by row or at once, lines included."""
    image = np.random.default_rng(0).integers(0, 255, (90, 1400, 3), dtype=np.uint8)
    label_map = np.random.default_rng(1).integers(-1, 3, (9, 140)).repeat(10, 0).repeat(10, 1)
    expected = overlay(image, label_map, NAMES).tobytes()
    monkeypatch.setattr(render, "_BAND", band)
    assert overlay(image, label_map, NAMES).tobytes() == expected


def test_text_does_not_fill_a_long_strip() -> None:
    """The legend of 4000 x 100 pixels is lower than the strip, which is drawn as it is."""
    image = np.zeros((100, 4000, 3), np.uint8)
    label_map = np.zeros((100, 4000), np.int16)
    assert overlay(image, label_map, NAMES).height - 100 < 60
