"""HTML pages that load nothing: templates that escape all text, and pictures as data URIs."""

from __future__ import annotations

import base64
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def page_environment(package: str) -> Environment:
    """Return the templates in the folder `templates` of a package.

    They escape all text, since class names, file names and commands come from a user; `data | tojson` is safe inside a
    script.
    """
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(content: bytes, kind: str) -> str:
    """Return an encoded image as a data URI; `kind` is "png" or "jpeg"."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")
