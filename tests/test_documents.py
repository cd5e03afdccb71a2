"""The documents: links lead somewhere, and are absolute where a package's page shows them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from absolute_links import absolute_links

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        other = path.parent / file if file else path
        assert other.exists(), f"{path.name}: {target}"
        if heading:
            assert heading in anchors(other), f"{path.name}: {target}"


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub and MkDocs give to headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", text)).strip() for text in headings)
    return {re.sub(r"\s", "-", text.lower()) for text in plain}


def test_links_of_the_packages_page_are_absolute() -> None:
    text = "![a](docs/images/a.png) [b](docs/b.md#c) [d](https://e.org/f) [g](#h) [i](./j.md)"
    assert absolute_links(text, "https://host/own/iif", "v1") == (
        "![a](https://host/own/iif/raw/v1/docs/images/a.png) "
        "[b](https://host/own/iif/blob/v1/docs/b.md#c) [d](https://e.org/f) [g](#h) "
        "[i](https://host/own/iif/blob/v1/j.md)"
    )
    readme = absolute_links((ROOT / "README.md").read_text(), "https://host/own/iif", "v1")
    assert all(target.startswith("http") for target in LINK.findall(readme))
