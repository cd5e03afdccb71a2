"""Pages of the documentation site that are not files of docs/: the README, and the reference.

MkDocs calls the functions of this file (``hooks`` in mkdocs.yml).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# What is for users to call; the other modules serve these.
REFERENCE = (
    "iif.methods",
    "iif.methods.base",
    "iif.methods.iif",
    "iif.statistics",
    "iif.augmentation",
    "iif.evaluation.evaluate",
    "iif.evaluation.compare",
    "iif.evaluation.false_positives",
    "iif.tv",
    "iif.d2",
)


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the first page, and the reference of the public modules."""
    files.append(File.generated(config, "index.md", content=_readme()))
    files.append(File.generated(config, "reference.md", content=_reference()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Files outside of docs/ are on no page: their links become plain names."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"`\1`", markdown)


def _readme() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    return text.replace("[THIRD_PARTY.md](THIRD_PARTY.md)", "`THIRD_PARTY.md`")


def _reference() -> str:
    parts = ["# Reference\n"]
    parts += [f"::: {module}\n" for module in REFERENCE]
    return "\n".join(parts)
