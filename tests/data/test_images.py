"""Every odd image is converted or refused with a reason."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sseg_core.data.images import (
    ImageError,
    decode_image,
    encode_jpeg,
    image_size,
    is_plain_jpeg,
    read_image,
)
from sseg_core.errors import printable

LIMIT = 10_000_000


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth picture that no flip or rotation maps onto itself."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 255 / height, columns * 255 / width, (rows + columns) % 97]
    return np.stack(channels, axis=-1).astype(np.uint8)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def reason_of(data: bytes, max_pixels: int = LIMIT) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, max_pixels=max_pixels)
    assert str(caught.value).startswith("The image ")
    return caught.value.reason


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_exactly(file_format: str) -> None:
    """A lossless RGB file decodes to the very pixels that were saved."""
    data = encoded(Image.fromarray(picture()), file_format)
    assert np.array_equal(decode_image(data, max_pixels=LIMIT), picture())


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats_come_back_nearly(file_format: str) -> None:
    """A lossy RGB file decodes to nearly the pixels that were saved."""
    data = encoded(Image.fromarray(picture()), file_format, quality=100)
    difference = decode_image(data, max_pixels=LIMIT).astype(int) - picture()
    assert np.abs(difference).mean() < 5  # chroma subsampling blurs the third channel


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(file_format: str, orientation: int) -> None:
    """A picture with any EXIF orientation decodes as a viewer shows it, at any requested size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture()), file_format, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    decoded = decode_image(data, max_pixels=LIMIT)
    assert upright.shape == decoded.shape == (*image_size(data, max_pixels=LIMIT), 3)
    assert np.abs(decoded.astype(int) - upright).max() <= 2  # two JPEG decoders may round apart
    small = decode_image(data, max_pixels=LIMIT, size=(24, 20))
    expected = np.asarray(Image.fromarray(upright).resize((20, 24), Image.Resampling.BILINEAR))
    assert np.abs(small.astype(int) - expected).mean() < 6
    assert is_plain_jpeg(data) == (file_format == "JPEG" and orientation == 1)


def test_cmyk_jpeg_is_converted() -> None:
    """A CMYK JPEG decodes to the RGB that Pillow converts it to, and is not taken as plain."""
    data = encoded(Image.fromarray(picture()).convert("CMYK"), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_image(data, max_pixels=LIMIT) - expected).max() <= 2
    assert not is_plain_jpeg(data)


def test_grey_and_progressive_jpegs_are_plain() -> None:
    """Grey and progressive JPEGs need no re-encoding; grey becomes three equal channels."""
    grey = encoded(Image.fromarray(picture()).convert("L"), "JPEG")
    progressive = encoded(Image.fromarray(picture()), "JPEG", progressive=True)
    assert is_plain_jpeg(grey)
    assert is_plain_jpeg(progressive)
    pixels = decode_image(grey, max_pixels=LIMIT)
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled(file_format: str) -> None:
    """A 16-bit picture spans the same brightness in 8 bits instead of clipping to white."""
    values = np.linspace(0, 65535, 256).reshape(16, 16).round().astype(np.uint16)
    decoded = decode_image(encoded(Image.fromarray(values), file_format), max_pixels=LIMIT)
    assert np.array_equal(decoded[..., 0], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("top", [1.0, 200.0, 1e6])
def test_float_grey_is_scaled(top: float) -> None:
    """A float picture of 0 to 1, of 0 to 255, or of anything larger keeps its order."""
    values = np.linspace(0, top, 64, dtype=np.float32).reshape(8, 8)
    grey = decode_image(encoded(Image.fromarray(values), "TIFF"), max_pixels=LIMIT)[..., 0]
    assert grey.max() == (200 if top == 200 else 255)
    assert (np.diff(grey.ravel().astype(int)) > 0).all()


def test_float_nan_is_refused() -> None:
    """A float picture with a NaN is refused."""
    values = np.full((4, 4), np.nan, dtype=np.float32)
    assert reason_of(encoded(Image.fromarray(values), "TIFF")) == "unsupported"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(mode: str) -> None:
    """Fully transparent pixels come out white, opaque ones as they are."""
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[:, :2, 3] = 255  # the left half is opaque black, the right half transparent black
    image = Image.fromarray(rgba)
    if mode == "P":
        image = Image.fromarray(np.tile(np.array([0, 0, 1, 1], np.uint8), (4, 1)), "P")
        image.putpalette([0, 0, 0, 0, 0, 0])
        data = encoded(image, "PNG", transparency=1)
    else:
        data = encoded(image.convert(mode), "PNG")
    decoded = decode_image(data, max_pixels=LIMIT)
    assert decoded[:, :2].max() == 0
    assert decoded[:, 2:].min() == 255


def test_palette_and_bilevel_images_are_converted() -> None:
    """A palette picture shows its palette's colours, a 1-bit one black and white."""
    flat = np.zeros((6, 6, 3), dtype=np.uint8)
    flat[:3] = (200, 30, 90)
    palette = encoded(Image.fromarray(flat).quantize(2), "PNG")
    assert np.array_equal(decode_image(palette, max_pixels=LIMIT), flat)
    bilevel = encoded(Image.fromarray(flat[..., 0] > 0), "PNG")
    assert sorted(np.unique(decode_image(bilevel, max_pixels=LIMIT))) == [0, 255]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(file_format: str) -> None:
    """The first frame of an animation is the picture."""
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert decode_image(data, max_pixels=LIMIT)[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("shape", [(1, 1), (3, 20_000), (20_000, 1)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_extreme_shapes_are_fine(file_format: str, shape: tuple[int, int]) -> None:
    """One pixel and 20,000-pixel sides decode, and resize to any size."""
    data = encoded(Image.new("RGB", shape[::-1], (10, 200, 30)), file_format)
    assert decode_image(data, max_pixels=LIMIT).shape == (*shape, 3)
    small = decode_image(data, max_pixels=LIMIT, size=(32, 48))
    assert small.shape == (32, 48, 3)
    assert np.abs(small.astype(int) - [10, 200, 30]).max() <= 3


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.95])
def test_a_cut_file_is_refused(file_format: str, share: float) -> None:
    """A file that ends early is refused instead of shown half grey."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    assert reason_of(data[: int(len(data) * share)]) in {"truncated", "corrupt"}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0"}])
def test_a_cut_jpeg_with_an_end_marker_is_refused(options: dict[str, object]) -> None:
    """A JPEG whose second half is missing is refused though it closes properly."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", **options)
    assert reason_of(data[: len(data) // 2]) == "truncated"
    if not options:
        assert reason_of(data[: len(data) // 2] + b"\xff\xd9") == "truncated"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!doctype html><title>404</title>", "unsupported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported"),
        (b"\xff\xd8\xff" + b"\0" * 50, "corrupt"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "corrupt"),
        (b"GIF89a", "corrupt"),
        (b"II*\0" + b"\xff" * 40, "corrupt"),
        (b"P6\nx y\n", "corrupt"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, reason: str) -> None:
    """Junk is refused for a reason, whatever its first bytes promise."""
    assert reason_of(data) == reason


def png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    """A file that claims too many pixels is refused before decoding, at exactly the limit."""
    assert reason_of(png_claiming(60_000, 60_000), max_pixels=300_000_000) == "too large"
    with pytest.raises(ImageError, match="more than the limit"):
        image_size(png_claiming(60_000, 60_000), max_pixels=300_000_000)
    jpeg = encoded(Image.fromarray(picture()), "JPEG")
    assert reason_of(jpeg, max_pixels=48 * 64 - 1) == "too large"
    assert decode_image(jpeg, max_pixels=48 * 64).shape == (48, 64, 3)


def test_dct_scaling_agrees_with_decoding_whole() -> None:
    """A JPEG decoded at a small size is close to the whole one shrunk."""
    data = encoded(Image.fromarray(picture(480, 640)), "JPEG", quality=95)
    small = decode_image(data, max_pixels=LIMIT, size=(60, 70))
    whole = Image.fromarray(decode_image(data, max_pixels=LIMIT))
    expected = np.asarray(whole.resize((70, 60), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(small - expected).mean() < 3


def test_resizing_is_anti_aliased() -> None:
    """A fine checkerboard shrinks to grey, not to a random choice of its pixels."""
    board = (np.indices((400, 400)).sum(axis=0) % 2 * 255).astype(np.uint8)
    data = encoded(Image.fromarray(board), "PNG")
    small = decode_image(data, max_pixels=LIMIT, size=(40, 40))
    assert np.abs(small[4:-4, 4:-4].astype(int) - 127).max() < 10


def test_encode_jpeg_round_trip() -> None:
    """A picture survives high-quality encoding nearly unchanged, from a flipped view as well."""
    flipped = picture()[:, ::-1]
    decoded = decode_image(encode_jpeg(flipped, 95), max_pixels=LIMIT)
    assert np.abs(decoded.astype(int) - flipped).mean() < 3


def test_the_error_names_the_file_harmlessly(tmp_path: Path) -> None:
    """A file is named in one line without control characters; a missing one is an error too."""
    path = tmp_path / "evil\x1b[31m\nname.jpg"
    path.write_bytes(b"nonsense")
    with pytest.raises(ImageError, match=r"evil\?\[31m\?name.jpg is no JPEG"):
        read_image(path, LIMIT)
    with pytest.raises(ImageError, match="cannot be read: no such file") as caught:
        read_image(tmp_path / "missing.jpg", LIMIT)
    assert caught.value.reason == "unreadable"


def test_image_errors_survive_pickling() -> None:
    """The error crosses process borders whole."""
    error = ImageError("corrupt", "is corrupt", "cat.jpg")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.reason, copy.message, copy.hint) == (error.reason, error.message, error.hint)


def test_printable_bounds_its_length() -> None:
    """Long names are cut to their end."""
    assert printable("x" * 200 + "end.jpg", limit=20) == "..." + "x" * 10 + "end.jpg"
    assert printable("caf\u00e9\u202e.jpg") == "caf\u00e9?.jpg"
    family = "\U0001f469\u200d\U0001f467"
    assert printable(f"{family}\u3000a\u00a0b") == f"{family} a b"
