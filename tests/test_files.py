"""Writing files: whole or not at all, and through links and into devices."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from iif.files import atomic_write


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file.txt"
    with atomic_write(path) as f:
        f.write("first")

    def fail() -> None:
        with atomic_write(path) as f:
            f.write("second")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "elsewhere" / "link.txt"
    target.write_text("old")
    link.parent.mkdir()
    link.symlink_to(target)
    with atomic_write(link) as f:
        f.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no pipes")
def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    with atomic_write(pipe) as f:
        f.write("through")
    reader.join(timeout=30)
    assert read == ["through"]
    assert pipe.is_fifo()
