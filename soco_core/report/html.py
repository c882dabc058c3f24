"""The report as one HTML file that needs nothing beside it."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

from soco_core.report.page import Page
from soco_core.report.tables import heading, shown


def to_html(page: Page, folder: Path) -> str:
    """Return the page as HTML; the pictures below `folder` go into it as data URIs."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    def picture(file: str) -> str:
        return f"data:image/png;base64,{b64encode((folder / file).read_bytes()).decode()}"

    environment = Environment(
        loader=PackageLoader("soco_core.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"picture": picture, "shown": shown, "heading": heading}
    return environment.get_template("report.html").render(page=page)
