"""Image bytes in, RGB arrays out: every odd input is converted or refused with a reason.

What a file is, its first bytes say, never its name. Its size is checked before a pixel is decoded,
and a file that ends early is refused: libraries would fill the missing part with grey.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from sseg_core.errors import DataError, printable

RGBImage = npt.NDArray[np.uint8]
"""[H, W, 3] uint8 RGB."""

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
)
"""What is taken from a folder; a file that is named itself may be called anything."""

# The readers by signature. Calling them directly, rather than Image.open, keeps every other format
# of Pillow out (EPS starts Ghostscript) and leaves the pixel limit to us: Pillow's is one global.
_READERS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"), TiffImageFile),
    (re.compile(rb"P[1-6]\s"), PpmImageFile),
)
try:
    # By name: its __all__ lists objects, which hides them from type checkers.
    _turbojpeg: Any = import_module("simplejpeg")
except ImportError:  # an exported model runs with Pillow alone
    _turbojpeg = None
_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112  # EXIF tag


class ImageError(DataError):
    """An image that cannot be used.

    Attributes:
        reason: why, in one or two words to count by: empty, unsupported, corrupt, truncated,
            too large, unreadable, unreachable; bad truth for a label image, bad label for what a
            teacher said.
        problem: why, as the rest of a sentence that starts with the image.
    """

    def __init__(self, reason: str, problem: str, subject: str = "The image") -> None:
        hint = {
            "too large": "Make it smaller, or raise the limit with --set max_pixels=N.",
            "unreachable": "Check the address, or fetch the image and give the file.",
            "bad truth": "Check the label image, or fetch it again.",
            "bad label": "Make the labels again: sseg selftrain",
        }.get(reason, "Check the file, or save it again as JPEG or PNG.")
        super().__init__(f"{subject} {problem}.", hint)
        self.reason = reason
        self.problem = problem

    def __reduce__(self) -> tuple[object, ...]:
        # It crosses process borders; the default would call __init__ with the message alone.
        return ImageError, (self.reason, self.problem), self.__dict__


def resize_with_pillow(pixels: RGBImage, size: tuple[int, int]) -> RGBImage:
    """Return [H, W, 3] uint8 pixels at `size` (height, width), without aliasing and torch."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_image(pixels: RGBImage, size: tuple[int, int]) -> RGBImage:
    """Return [H, W, 3] uint8 pixels at `size` (height, width), without aliasing."""
    if pixels.shape[:2] == size:
        return pixels
    try:
        import torch  # it takes a second, and images that keep their size do not need it
        import torch.nn.functional as F
    except ImportError:  # an exported model runs without
        return resize_with_pillow(pixels, size)
    # Pillow's method, within one grey level of its result, in a fifth of the time.
    pixels_HW3 = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
    resized_13HW = F.interpolate(
        pixels_HW3[None].permute(0, 3, 1, 2), size, mode="bilinear", antialias=True
    )
    resized: RGBImage = resized_13HW[0].permute(1, 2, 0).contiguous().numpy()
    return resized


def decode_image(
    data: bytes,
    *,
    max_pixels: int,
    size: tuple[int, int] | None = None,
    resize: Callable[[RGBImage, tuple[int, int]], RGBImage] = resize_image,
    fast: bool = False,
) -> RGBImage:
    """Decode one image to RGB, upright as its EXIF orientation says.

    Transparent parts show white, the paper that cut-outs and diagrams are drawn for; the colour
    stored under full transparency is arbitrary. Of an animation the first frame is taken, and
    16-bit and float images are scaled to 8 bits.

    Args:
        data: the bytes of a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM file.
        max_pixels: a larger image is refused before it is decoded.
        size: (H, W) of the result, reached by anti-aliased resizing without regard to the aspect;
            a JPEG is decoded at the nearest larger of a half, a quarter and an eighth of its
            size. None keeps the size.
        resize: what brings the decoded pixels to `size`.
        fast: whether pixels of a JPEG may be a few grey levels off, for a quarter of the time.

    Returns:
        [H, W, 3] uint8, contiguous.

    Raises:
        ImageError: the image is empty, of another format, too large, truncated or corrupt.
    """
    if data.startswith(_JPEG):
        pixels = _decode_jpeg(data, max_pixels, size, fast=fast)
        if pixels is not None:
            return pixels if size is None else resize(pixels, size)
    reader = _open(data)
    _check_size(reader.height, reader.width, max_pixels)
    try:
        pixels = to_rgb(reader)
        pixels = _upright(pixels, _orientation(reader))
        return pixels if size is None else resize(pixels, size)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles on
        raise _as_image_error(error) from error


def image_size(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Return (H, W) of the upright image from its header.

    Raises:
        ImageError: the image is empty, of another format, too large, or its header is corrupt.
    """
    reader = _open(data)
    height, width = reader.height, reader.width
    _check_size(height, width, max_pixels)
    return (height, width) if _orientation(reader) < 5 else (width, height)  # 5 to 8 lie


def is_plain_jpeg(data: bytes) -> bool:
    """Whether `data` is a JPEG that any reader shows alike: grey or colour, stored upright."""
    if not data.startswith(_JPEG):
        return False
    try:
        _, _, color_space, _ = _turbojpeg.decode_jpeg_header(data)
        reader = _open(data)
    except (ValueError, ImageError):
        return False
    return color_space in {"YCbCr", "Gray"} and _orientation(reader) == 1


def read_image(path: Path, max_pixels: int) -> RGBImage:
    """Read an image file; see `decode_image`.

    Raises:
        ImageError: one sentence that names the file.
    """
    name = printable(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
        raise ImageError("unreadable", f"cannot be read: {reason}", name) from error
    try:
        return decode_image(data, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(error.reason, error.problem, name) from error


def encode_jpeg(image: RGBImage, quality: int) -> bytes:
    """Encode [H, W, 3] uint8 RGB as a JPEG with full chroma: masks are clustered by colour."""
    return bytes(_turbojpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality))


def _decode_jpeg(
    data: bytes, max_pixels: int, size: tuple[int, int] | None, *, fast: bool
) -> RGBImage | None:
    """Decode with libjpeg-turbo; None where only Pillow can, or knows the variant."""
    if _turbojpeg is None:
        return None
    try:
        height, width, _, _ = _turbojpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _check_size(height, width, max_pixels)
    orientation = _orientation(_open(data)) if b"Exif\0\0" in data else 1
    target_height, target_width = size or (height, width)
    if orientation >= 5:
        target_height, target_width = target_width, target_height
    # The other scales of the DCT, such as 6/8, take longer than decoding everything.
    scales = ((-(-height // part), -(-width // part)) for part in (8, 4, 2, 1))
    scaled_height, scaled_width = next(
        ((h, w) for h, w in scales if h >= target_height and w >= target_width), (height, width)
    )
    try:
        pixels = _turbojpeg.decode_jpeg(
            data,
            min_height=scaled_height,
            min_width=scaled_width,
            fastdct=fast,
            fastupsample=fast,
        )
    except ValueError as error:
        # A recoverable error of libjpeg means grey or shifted blocks; Pillow would let it pass.
        if str(error).lower().startswith(("premature", "corrupt")):
            raise _as_image_error(error) from error
        return None
    return _upright(pixels, orientation)


def _upright(pixels: RGBImage, orientation: int) -> RGBImage:
    """Undo the EXIF orientation 1 to 8 of [H, W, 3]; anything else is taken as 1."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _open(data: bytes) -> ImageFile:
    """Parse the header with the reader that the signature names."""
    if not data:
        raise ImageError("empty", "is empty")
    matching = [reader for signature, reader in _READERS if signature.match(data)]
    if not matching:
        raise ImageError("unsupported", "is no JPEG, PNG, WebP, GIF, BMP, TIFF or PPM")
    try:
        return matching[0](io.BytesIO(data))
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles on
        raise _as_image_error(error) from error


def _orientation(reader: ImageFile) -> int:
    if isinstance(reader, TiffImageFile):
        return 1  # Pillow turns these itself
    try:
        return int(reader.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF data is no reason to lose the picture
        return 1


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        problem = f"has {height * width:,} pixels, more than the limit of {max_pixels:,}"
        raise ImageError("too large", problem)


def to_rgb(image: Image.Image) -> RGBImage:
    """Convert a Pillow image of any mode to [H, W, 3] uint8 RGB; this decodes it.

    Raises:
        ImageError: pixel values that are not finite.
    """
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        # Whole numbers are 16-bit samples; floats are by custom 0 to 1, else 0 to 255.
        ranges = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
        grey = _to_8_bits(np.asarray(image, dtype=np.float64), ranges)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _to_8_bits(values: npt.NDArray[np.float64], ranges: tuple[float, ...]) -> npt.NDArray[np.uint8]:
    """Scale one wide channel by the first of `ranges` that holds it, else by its largest value."""
    top = float(values.max())
    full = next((limit for limit in ranges if top <= limit), top)
    if not np.isfinite(full):
        raise ImageError("unsupported", "has pixel values that are not finite")
    return np.round(np.clip(values / full, 0, 1) * 255).astype(np.uint8)


def _as_image_error(error: Exception) -> ImageError:
    text = str(error).lower()
    if isinstance(error, Image.DecompressionBombError):
        return ImageError("too large", "has a frame of too many pixels")
    if "truncated" in text or "premature" in text:
        return ImageError("truncated", "is truncated: the file ends too early")
    return ImageError("corrupt", "is corrupt")
