"""Writing files: whole or not at all, and through links and into devices."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iif.files import atomic_write, os_error_text, together


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


def write_both(folder: Path, text: str, fail: bool = False) -> None:
    with together():
        for name in ("a.txt", "b.txt"):
            with atomic_write(folder / name) as f:
                f.write(text)
        with together(), atomic_write(folder / "c.txt") as f:
            f.write(text)
        if fail:
            raise RuntimeError


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        write_both(tmp_path, "first", fail=True)
    assert os.listdir(tmp_path) == []
    write_both(tmp_path, "second")
    with pytest.raises(RuntimeError):
        write_both(tmp_path, "third", fail=True)
    names = ["a.txt", "b.txt", "c.txt"]
    assert sorted(os.listdir(tmp_path)) == names
    assert [(tmp_path / name).read_text() for name in names] == ["second"] * 3
    with atomic_write(tmp_path / "a.txt") as f:
        f.write("alone")
    assert (tmp_path / "a.txt").read_text() == "alone"


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


@pytest.mark.skipif(os.name != "posix", reason="folders are synced where POSIX is")
def test_the_file_and_then_its_folder_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append(is_folder)
        assert (tmp_path / "file.txt").exists() == is_folder  # renamed in between
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    with atomic_write(tmp_path / "file.txt") as f:
        f.write("x")
    assert synced == [False, True]


@pytest.mark.skipif(os.name != "posix", reason="folders are synced where POSIX is")
def test_a_file_system_that_cannot_sync_folders_takes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with atomic_write(tmp_path / "file.txt") as f:
        f.write("x")
    assert (tmp_path / "file.txt").read_text() == "x"


@pytest.mark.skipif(os.name != "posix", reason="processes are asked where POSIX is")
def test_a_leftover_that_cannot_be_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's, in a folder like /tmp."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    with atomic_write(tmp_path / "file.txt") as f:
        name = next(name for name in os.listdir(tmp_path))
        f.write("x")
    leftover = tmp_path / name.replace(f"-{os.getpid()}.", f"-{done.pid}.")
    leftover.write_text("theirs")
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == leftover:
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with atomic_write(tmp_path / "file.txt") as f:
        f.write("y")
    assert (tmp_path / "file.txt").read_text() == "y"
    monkeypatch.undo()
    with atomic_write(tmp_path / "file.txt") as f:
        f.write("z")
    assert os.listdir(tmp_path) == ["file.txt"]


def test_what_stands_in_the_way_is_named_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()

    def write(path: Path) -> None:
        with atomic_write(path) as f:
            f.write("y")

    with pytest.raises(OSError, match=r"File exists|Not a directory") as error:
        write(tmp_path / "file" / "below")
    assert str(tmp_path / "file") in os_error_text(error.value)
    with pytest.raises(IsADirectoryError) as error:
        write(tmp_path / "folder")
    assert os_error_text(error.value).startswith(f"{tmp_path / 'folder'}: ")
    assert ".iif-" not in str(error.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this platform has no /dev/full")
def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic_write(tmp_path / "file.txt") as f, open("/dev/full", "w") as full:
            f.write("half")
            full.write("x")

    with pytest.raises(OSError, match="No space left") as error:
        fill()
    text = f"{tmp_path / 'file.txt'}: No space left on device; make room and run it again"
    assert os_error_text(error.value) == text
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this platform has no /dev/full")
def test_a_full_disk_is_told_for_a_checkpoint_too(tmp_path: Path) -> None:
    """torch.save raises a RuntimeError about positions in its archive."""
    torch = pytest.importorskip("torch")

    def fill() -> None:
        with (
            atomic_write(tmp_path / "model.pth", "wb"),
            open("/dev/full", "wb", buffering=0) as full,
        ):
            torch.save({"a": torch.zeros(100_000)}, full)

    with pytest.raises(OSError, match="No space left") as error:
        fill()
    text = f"{tmp_path / 'model.pth'}: No space left on device; make room and run it again"
    assert os_error_text(error.value) == text
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EIO, "Input/output error", "a.jpg"), "a.jpg: Input/output error"),
        (OSError("Caught in a worker.\nTraceback:\n  ...\nOSError: no\n"), "OSError: no"),
        (OSError(), "OSError"),
    ],
)
def test_a_fault_of_the_file_system_is_one_line(error: OSError, text: str) -> None:
    assert os_error_text(error) == text


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="this platform has no /dev/stdout")
def test_a_pipe_behind_a_name_of_the_system_is_written_to() -> None:
    script = "from iif.files import atomic_write\nwith atomic_write('/dev/stdout') as f:\n"
    script += "    f.write('through')\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"through"
