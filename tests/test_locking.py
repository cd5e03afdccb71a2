"""One run in a folder at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from iif.errors import InputError
from iif.locking import folder_lock

fcntl = pytest.importorskip("fcntl", reason="this platform has no file locks")

HOLD = (
    "import os, sys, time\n"
    "from iif.locking import folder_lock\n"
    "with folder_lock(sys.argv[1]):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.readline()\n"
    "    if sys.argv[2] == 'kill':\n"
    "        os.kill(os.getpid(), 9)\n"
)


def hold(folder: Path, end: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("end", ["end", "kill"])
def test_a_folder_is_held_until_the_process_ends_however_it_ends(tmp_path: Path, end: str) -> None:
    process = hold(tmp_path / "run", end)
    with pytest.raises(InputError, match=rf"process {process.pid} on .* is writing into it"):
        folder_lock(tmp_path / "run").__enter__()
    process.communicate("\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with folder_lock(tmp_path / "run"):
            pass
    said = [str(w.message) for w in caught]
    assert len(said) == (end == "kill")
    assert all(f"process {process.pid} on" in text and "taking over" in text for text in said)


def test_it_can_be_held_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with folder_lock(tmp_path):
                pass


def test_an_error_in_the_block_releases_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), folder_lock(tmp_path):
        raise RuntimeError
    with folder_lock(tmp_path):
        pass


FORK = (
    "import os, sys, time\n"
    "from iif.locking import folder_lock\n"
    "with folder_lock(sys.argv[1]):\n"
    "    if os.fork() == 0:\n"
    "        print(os.getpid(), flush=True)\n"
    "    time.sleep(60)\n"
)


def test_a_forked_process_does_not_hold_it_on(tmp_path: Path) -> None:
    """As processes that load images live on for some seconds after a training was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", FORK, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        with pytest.warns(UserWarning, match="taking over"), folder_lock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()
