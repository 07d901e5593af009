"""Self-contained HTML pages from templates, with their pictures inside."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    import jinja2
    from PIL import Image


def render_page(template: str, **values: Any) -> str:
    """Return the page that a template of this package makes; whatever `values` hold is escaped.

    Args:
        template: path below the package, such as `evaluation/report/demo.html.j2`.
        values: what the template shows; one that it lacks is an error.
    """
    return _template(template).render(**values)


def write_page(stream: TextIO, template: str, **values: Any) -> None:
    """Write such a page piece by piece: an iterator among `values` is never held in memory."""
    stream.writelines(_template(template).generate(**values))


def data_uri(picture: Image.Image, kind: Literal["JPEG", "PNG", "WEBP"], **options: Any) -> str:
    """Return a picture as an address that holds all of it.

    Args:
        picture: of a mode that the format knows.
        kind: the format.
        options: of Pillow's encoder, such as `quality`.
    """
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    encoded = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{encoded}"


def _template(name: str) -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sseg_core", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
