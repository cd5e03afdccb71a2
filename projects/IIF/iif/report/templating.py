"""Self-contained pages from the templates: style and script inside, the script allowed by hash."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from iif.report.tables import page_number


def render_template(
    name: str,
    variables: Mapping[str, Any],
    *,
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """Return a page as HTML text; everything is escaped.

    Args:
        name: of the template.
        variables: of the template, which also gets style, script and script_hash.
        filters: of the template, beside thousands, general and fixed.
    """
    environment = Environment(
        loader=PackageLoader("iif.report"),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {
        "thousands": "{:,}".format,
        "general": "{:g}".format,
        "fixed": page_number,
        **(filters or {}),
    }
    style, script = (
        Markup(environment.loader.get_source(environment, name)[0])  # type: ignore[union-attr]
        for name in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(name).render(
        **variables, style=style, script=script, script_hash=digest
    )
