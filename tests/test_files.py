"""Writing files: whole or not at all, and through links and into devices."""

from __future__ import annotations

import os
import subprocess
import sys
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


def test_a_new_file_has_the_permissions_that_open_gives(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    with atomic_write(tmp_path / "ours") as f:
        f.write("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o660])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    path.chmod(mode)
    with atomic_write(path) as f:
        f.write("new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == mode


def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    path = tmp_path / ("n" * longest)
    with atomic_write(path) as f:
        f.write("x")
    assert path.read_text() == "x"


def test_the_umask_of_the_process_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(mask: int) -> int:
        raise AssertionError(f"umask({mask})")

    monkeypatch.setattr(os, "umask", refuse)
    with atomic_write(tmp_path / "file.txt") as f:
        f.write("x")


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from iif.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as f:\n"
        "    f.write('half')\n"
        "    f.flush()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "file.txt")])
    assert killed.returncode == -9
    assert len(os.listdir(tmp_path)) == 1
    with atomic_write(tmp_path / "first.txt") as f:
        f.write("x")
        # The first one is still being written while the second begins and ends.
        with atomic_write(tmp_path / "second.txt") as g:
            g.write("y")
    assert sorted(os.listdir(tmp_path)) == ["first.txt", "second.txt"]
