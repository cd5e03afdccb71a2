"""Make the links of a Markdown file absolute, for where it is shown away from the repository.

    python tools/absolute_links.py README.md https://github.com/OWNER/NAME v0.2.0

The release workflow does this before it builds, so that the package's page has links that work.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")


def absolute_links(text: str, repository: str, ref: str) -> str:
    """Return Markdown whose relative links and pictures lead to files of a repository.

    Args:
        text: Markdown.
        repository: its address, without a slash at the end.
        ref: a tag, branch or commit.
    """

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link[1] else "blob"
        return f"{link[1]}[{link[2]}]({repository}/{kind}/{ref}/{link[3].removeprefix('./')})"

    return _LINK.sub(absolute, text)


def main() -> None:
    """Change the file in place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("repository")
    parser.add_argument("ref")
    args = parser.parse_args()
    text = args.file.read_text(encoding="utf-8")
    args.file.write_text(absolute_links(text, args.repository, args.ref), encoding="utf-8")


if __name__ == "__main__":
    main()
