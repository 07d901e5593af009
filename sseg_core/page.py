"""Self-contained HTML pages from templates."""

from __future__ import annotations

from typing import Any


def render_page(template: str, **values: Any) -> str:
    """Return the page that a template of this package makes; whatever `values` hold is escaped.

    Args:
        template: path below the package, such as `evaluation/report/demo.html.j2`.
        values: what the template shows; one that it lacks is an error.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sseg_core", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
