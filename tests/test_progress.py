"""Progress: lines where stderr is no terminal, bars where it is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from iif import progress as module
from iif.progress import progress, show_as


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Return a clock on which 30 seconds have passed since the last line just now."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module._Lines, "last_line", clock.now - module.SILENCE)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    return clock


@pytest.fixture
def unnamed():
    yield
    show_as("", 0)


def lines(capsys) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "\r" not in captured.err
    return captured.err.splitlines()


def step(bar) -> None:
    """Go one step on, and look at the clock as tqdm does at most once a second."""
    bar.update()
    bar.refresh()


def test_a_line_says_what_how_far_how_fast_and_how_long(clock, capsys):
    with progress(desc="counting", total=4, unit="image") as bar:
        bar.update(3)
        bar.set_postfix(loss="0.5", refresh=False)
        bar.refresh()
        clock.now += 1
        bar.update(1)
    first, last = lines(capsys)
    assert re.fullmatch(r"counting: 3/4, \S+image/s, \d\d:\d\d left, loss=0\.5", first)
    assert last.startswith("counting: 4/4, ")


def test_without_a_total(clock, capsys):
    for _ in progress(iter(range(3)), desc="moments", unit="it", mininterval=0):
        pass
    with progress(desc="moments", unit="it") as bar:
        step(bar)
        clock.now += module.SILENCE
        step(bar)
    assert re.fullmatch(r"moments: 2, \S+(it/s|s/it)", lines(capsys)[-1])


def test_no_more_than_one_line_every_half_minute_of_all_bars(clock, capsys):
    clock.now -= 1  # 29 seconds since the last line
    with progress(desc="one", total=9) as bar:
        step(bar)
        assert lines(capsys) == []
        clock.now += 1
        step(bar)
        assert len(lines(capsys)) == 1
        with progress(desc="two", total=9) as other:
            for seconds in (0, 29.5, 29.9):
                clock.now = 1000 + seconds
                step(bar)
                step(other)
            assert lines(capsys) == []
            clock.now = 1030
            step(other)
            assert [line.partition(":")[0] for line in lines(capsys)] == ["two"]


def test_short_work_is_silent(clock, capsys):
    clock.now -= 1
    assert list(progress(range(5), desc="short")) == list(range(5))
    assert lines(capsys) == []


def test_what_is_written_between_lines_is_a_line(clock, capsys):
    with progress(desc="runs", total=2) as bar:
        step(bar)
        bar.write("seed 0: done", file=sys.stderr)
    first, second = lines(capsys)
    assert first.startswith("runs: 1/2, ")
    assert second == "seed 0: done"


def test_the_name_of_the_process_comes_first(clock, capsys, unnamed):
    show_as("baseline", 1)
    with progress(desc="training", total=2) as bar:
        step(bar)
    assert lines(capsys)[0].startswith("baseline: training: 1/2, ")


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_alone_shows_it(clock, capsys, monkeypatch, rank):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    with progress(desc="training", total=2) as bar:
        step(bar)
    assert len(lines(capsys)) == (rank == 0)


@pytest.mark.parametrize(("value", "count"), [("1", 0), ("0", 1), ("", 1)])
def test_it_can_be_switched_off(clock, capsys, monkeypatch, value, count):
    monkeypatch.setenv("TQDM_DISABLE", value)
    with progress(desc="training", total=2) as bar:
        step(bar)
    assert len(lines(capsys)) == count


BARS = (
    "import sys, multiprocessing\n"
    "from iif.progress import progress, share_terminal, show_as\n"
    "def work(name, row, lock):\n"
    "    share_terminal(lock)\n"
    "    show_as(name, row)\n"
    "    for _ in progress(range(3), desc='training', mininterval=0):\n"
    "        pass\n"
    "if __name__ == '__main__':\n"
    "    context = multiprocessing.get_context('fork')\n"
    "    lock = context.RLock()\n"
    "    both = [context.Process(target=work, args=(n, r, lock)) for r, n in enumerate('ab')]\n"
    "    [p.start() for p in both]\n"
    "    [p.join() for p in both]\n"
)


@pytest.mark.skipif(os.name != "posix", reason="this platform has no pseudo-terminals")
def test_on_a_terminal_each_process_has_a_row(tmp_path):
    import fcntl
    import struct
    import termios

    script = tmp_path / "bars.py"
    script.write_text(BARS)
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TQDM")}
    done = subprocess.run([sys.executable, str(script)], stderr=terminal, env=environment)
    os.close(terminal)
    shown = ""
    while True:
        try:
            part = os.read(master, 1 << 16)
        except OSError:  # the end, on Linux
            break
        if not part:
            break
        shown += part.decode()
    os.close(master)
    assert done.returncode == 0
    assert re.search(r"\ra: training: 100%\S* 3/3", re.sub("[^\x00-\x7f]|[|]", "", shown))
    # The other is one row below: the cursor goes down before it and up after it.
    for bar in re.findall(r"\n\rb: training: [^\r\n]*", shown):
        assert bar.endswith("\x1b[A")
    assert "\n\rb: training: 100%" in shown.replace("\r\n", "\n")
