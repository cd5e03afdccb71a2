"""Where commands write: never over an input, and only where they can; how a stop is told."""

from __future__ import annotations

import argparse
import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers_compare import make_gt, make_results, write
from helpers_interrupt import start_interruptible
from iif import layout
from iif.cli import COMMANDS, main
from iif.commands.arguments import Argument, check_outputs, inputs_of
from iif.errors import InputError
from iif.evaluation import evaluate
from iif.files import atomic_write
from iif.outputs import check_output, protect

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with gt.json and results.json."""
    gt = make_gt()
    write(tmp_path / "gt.json", gt)
    write(tmp_path / "results.json", make_results(gt))
    return tmp_path


def refused(command: list[object], capsys: Capture) -> str:
    """Run a command that must be refused; return its one line."""
    assert main([str(part) for part in command]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith(f"iif {command[0]}: error: ")
    return error


def linked(source: Path, how: str) -> Path:
    path = source.with_name(f"another-{source.name}")
    if how == "the same":
        return source
    if how == "dots":
        return source.parent / "folder" / ".." / source.name
    (path.symlink_to if how == "symlink" else path.hardlink_to)(source)
    return path


@pytest.mark.parametrize("how", ["the same", "dots", "symlink", "hard link"])
@pytest.mark.parametrize("flag", ["--csv", "--plot"])
def test_a_table_is_not_written_over_the_annotations(
    data: Path, how: str, flag: str, capsys: Capture
) -> None:
    (data / "folder").mkdir()
    before = (data / "gt.json").read_bytes()
    outputs = {"--csv": data / "w.csv"} | {flag: linked(data / "gt.json", how)}
    command = ["weights", "--json", data / "gt.json", "--zero-count", "clamp"]
    error = refused([*command, *(part for pair in outputs.items() for part in pair)], capsys)
    assert "would be written over" in error
    assert (data / "gt.json").read_bytes() == before
    assert not (data / "w.csv").exists()


def given_for(arguments: Sequence[Argument], **values: Path) -> argparse.Namespace:
    """Return a command's arguments with nothing given but some values, by `dest`."""
    empty = dict.fromkeys(map(dest, arguments))
    return argparse.Namespace(**(empty | {"resume": False, "eval_only": False} | values))


def dest(argument: Argument) -> str:
    return argument.options.get("dest") or argument.flags[0].lstrip("-").replace("-", "_")


def test_no_output_of_any_command_may_be_one_of_its_inputs(tmp_path: Path) -> None:
    """Every pair of a file that a command reads and a file that it writes."""
    pairs = 0
    for command in COMMANDS.values():
        reads = [a for a in command.arguments if a.reads is not None]
        writes = [(a, name) for a in command.arguments for name in a.writes or ()]
        for source, (target, name) in itertools.product(reads, writes):
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            output = folder / "output.pth" if "" in (target.writes or ()) else folder
            path = output.with_suffix(name) if name.startswith(".") else output / name
            path.write_text("{}")
            values = {dest(source): path, dest(target): output}
            args = given_for(command.arguments, **values)
            with (
                protect(inputs_of(command.arguments, args)),
                pytest.raises(InputError, match="would be written over"),
            ):
                check_outputs(command.arguments, args)
            path.unlink()
            (folder / "input").touch()
            args = given_for(command.arguments, **values | {dest(source): folder / "input"})
            with protect(inputs_of(command.arguments, args)):
                check_outputs(command.arguments, args)
            pairs += 1
    assert pairs > 50


def test_every_path_says_whether_it_is_read_or_written() -> None:
    """A new argument that names a file or a folder must say so, or nothing guards it."""
    images = {"--images", "--val-images"}  # no command writes images over images
    paths = re.compile(r"FILE|DIR|RUN|CHECKPOINT|IMAGE|^run$")
    for name, command in COMMANDS.items():
        for argument in command.arguments:
            said = argument.reads is not None or argument.writes is not None
            is_path = bool(paths.search(str(argument.options.get("metavar", ""))))
            if argument.flags[0] in images | {"--all"}:  # --all becomes --weights or --run
                continue
            is_path |= argument.flags[0] in ("baseline", "config")
            assert said == is_path, (name, argument.flags)


def test_what_a_run_is_read_from_is_not_written_over(data: Path, capsys: Capture) -> None:
    evaluate = ["evaluate", "--gt", data / "gt.json", "--results", data / "results.json"]
    assert main([str(part) for part in [*evaluate, "--output", data / "run"]]) == 0
    capsys.readouterr()
    for name in (layout.SUMMARY, layout.MATCHES):
        page = data / "run" / name
        command = ["compare", data / "run", data / "run" / layout.SUMMARY, "--html", page]
        assert f"{page}: would be written over" in refused(command, capsys)


def test_the_net_under_the_commands(tmp_path: Path) -> None:
    """Whatever a command writes goes through one function, which knows what is read."""
    source = tmp_path / "source.json"
    source.write_text("kept")
    with protect([source]):
        with (
            pytest.raises(InputError, match="would be written over"),
            atomic_write(tmp_path / "." / "source.json") as f,
        ):
            f.write("lost")
        assert source.read_text() == "kept"
        with atomic_write(tmp_path / "other.json") as f:
            f.write("new")
    with atomic_write(source) as f:
        f.write("rewritten")
    assert source.read_text() == "rewritten"


def test_two_outputs_are_not_one_file(data: Path, capsys: Capture) -> None:
    command = ["weights", "--json", data / "gt.json", "--csv", data / "x", "--plot", data / "x"]
    assert "would be written twice" in refused(command, capsys)


# ---------------------------------------------------------------------------------- probes


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("file", "is a file; give a folder"),
        ("file/below", "file is not a folder"),
        ("file/far/below", "file is not a folder"),
    ],
)
def test_a_folder_that_cannot_be_is_refused_before_work(
    data: Path, output: str, message: str, capsys: Capture
) -> None:
    (data / "file").write_text("kept")
    missing = data / "missing.json"  # would be refused as soon as it is read
    for command in (
        ["evaluate", "--gt", missing, "--results", missing],
        ["false-positives", "--gt", missing, "--results", missing],
        ["compare", missing, missing],
        ["train", "--train", missing, "--images", data],
    ):
        assert message in refused([*command, "--output", data / output], capsys)
    assert (data / "file").read_text() == "kept"


def test_a_folder_where_a_file_is_expected_is_refused_before_work(
    data: Path, capsys: Capture
) -> None:
    missing = data / "missing.json"
    for command in (
        ["weights", "--json", missing, "--csv", data],
        ["report", "--gt", missing, "--run", missing, "--output", data],
        ["compare", missing, missing, "--html", data],
    ):
        assert "is a folder; give a file" in refused(command, capsys)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_refused_before_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            check_output(tmp_path / "file")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="this platform has no /proc")
def test_a_file_system_that_takes_no_files_is_refused_before_work() -> None:
    with pytest.raises(InputError, match=r"cannot be written in /proc \(.*\)"):
        check_output("/proc/file")


def test_a_probe_leaves_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "file")
    check_output(tmp_path / "new", folder=True)
    assert os.listdir(tmp_path) == []


LIMITED = (
    "import resource, signal, sys\n"
    "from iif.cli import main\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))\n"
    "sys.exit(main(sys.argv[2:]))\n"
)


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
@pytest.mark.parametrize(("limit", "told"), [(1 << 10, "cannot be written in"), (80_000, "large")])
def test_what_does_not_fit_is_one_line_and_leaves_nothing_half_written(
    data: Path, limit: int, told: str
) -> None:
    """A limit on the size of files stands in for a disk that is full before or during work."""
    (data / "out").mkdir()
    (data / "out" / layout.outcomes("bbox")).write_text("of an earlier run")
    # More detections than fit into 80 kB as a table.
    gt = make_gt()
    write(data / "results.json", make_results(gt, extra=250, masks=False))
    command = ["evaluate", "--gt", data / "gt.json", "--results", data / "results.json"]
    command += ["--iou-type", "bbox", "--outcomes", "--output", data / "out"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("iif evaluate: error: ")
    assert told in line
    assert str(data / "out") in line
    assert os.listdir(data / "out") == [layout.outcomes("bbox")]
    assert (data / "out" / layout.outcomes("bbox")).read_text() == "of an earlier run"


def test_a_disk_that_fills_at_the_last_file_leaves_the_earlier_evaluation(
    data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", "--gt", data / "gt.json", "--results", data / "results.json"]
    command += ["--outcomes", "--output", data / "out"]
    assert main([str(part) for part in command]) == 0
    before = {path.name: path.read_bytes() for path in (data / "out").iterdir()}
    assert set(before) == set(layout.EVALUATION_FILES)
    capsys.readouterr()

    def fill(path: Path, summary: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(evaluate, "write_summary", fill)
    write(data / "results.json", make_results(make_gt(), seed=1))
    assert "No space left on device; make room" in refused(command, capsys)
    assert "No space left on device; make room" in refused(command[:-3] + command[-2:], capsys)
    assert {path.name: path.read_bytes() for path in (data / "out").iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this platform has no /dev/full")
def test_a_full_disk_names_the_file_and_the_remedy(data: Path, capsys: Capture) -> None:
    command = ["weights", "--json", data / "gt.json", "--zero-count", "clamp"]
    with pytest.warns(UserWarning, match="image_count"):
        assert main([str(part) for part in [*command, "--csv", "/dev/full"]]) == 2
    assert capsys.readouterr().err == (
        "iif weights: error: /dev/full: No space left on device; make room and run it again\n"
    )


# ------------------------------------------------------------------------------- Ctrl-C


STOPPED = (
    "import sys, time\n"
    "from iif import cli\n"
    "def wait(args):\n"
    '    """Wait."""\n'
    "    print('begun', flush=True)\n"
    "    while True:  # a signal just before a sleep is heeded after it: short ones\n"
    "        time.sleep(0.05)\n"
    "name = sys.argv[1]\n"
    "cli.COMMANDS[name] = cli.COMMANDS[name]._replace(run=wait)\n"
    "sys.exit(cli.main(sys.argv[1:]))\n"
)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["methods"], "interrupted; run it again"),
        (
            ["train", "--train", "x", "--images", "x", "--output", "x"],
            "interrupted; go on from the last checkpoint with --resume",
        ),
        (["quickstart", "--out", "x"], "interrupted; run it again: it goes on where it was"),
    ],
)
def test_an_interrupt_is_one_line_and_says_how_to_go_on(
    tmp_path: Path, command: list[str], told: str
) -> None:
    process = start_interruptible(
        [sys.executable, "-c", STOPPED, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == f"iif {command[0]}: {told}\n"


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_an_interrupt_of_a_command_with_several_processes_is_one_line(tmp_path: Path) -> None:
    """Ctrl-C reaches every process of the terminal's group."""
    command = ["openmoji", str(tmp_path / "data"), "--train", "20000", "--workers", "2"]
    process = start_interruptible(
        [sys.executable, "-m", "iif.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".data.*/new/train/*.jpg")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error == "iif openmoji: interrupted; run it again\n"
    assert os.listdir(tmp_path) == []
