from __future__ import annotations

import ast
import logging
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# The machines that run the tests are slow and shared: a slow example is not a fault.
settings.register_profile("iif", deadline=None)
settings.load_profile("iif")
# Lines of progress depend on the time that a test takes.
os.environ["TQDM_DISABLE"] = "1"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of `method_contract.MethodContract` with each of a method's ``OPTIONS``."""
    if "options" in metafunc.fixturenames and hasattr(metafunc.cls, "OPTIONS"):
        options = metafunc.cls.OPTIONS
        names = [" ".join(Path(str(v)).name for v in o.values()) or "default" for o in options]
        metafunc.parametrize("options", options, ids=names)


@pytest.fixture(autouse=True)
def _no_handler_of_a_closed_stream() -> None:
    """Remove what Detectron2's trainings in earlier tests left: lines to a stream of that test."""
    for name in ("iif", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)


@pytest.fixture(scope="session")
def openmoji_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny OpenMoji data set, shared by all tests: copy what is to be changed."""
    from iif.demo.openmoji import make_openmoji
    from iif.demo.plan import OpenMojiSettings

    settings = OpenMojiSettings(categories=12, train=40, val=16, image_size=64, seed=0)
    return make_openmoji(tmp_path_factory.mktemp("data") / "openmoji", settings, workers=1)


@pytest.fixture(scope="session")
def config_file(openmoji_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a tiny Detectron2 training on it."""
    from d2_runs import write_config

    return write_config(openmoji_dir, tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="session")
def baseline(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of its baseline: copy what is to be changed."""
    from d2_runs import train_baseline

    return train_baseline(config_file, tmp_path_factory.mktemp("runs") / "baseline")


@pytest.fixture(scope="session")
def iif_run(config_file: Path, baseline: Path) -> Path:
    """The output folder of the same training with IIF."""
    from d2_runs import train_iif

    return train_iif(config_file, baseline, baseline.parent / "iif")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    """Say at the end how many tests were left out for want of Detectron2."""
    yield
    _say_what_detectron2_would_run(terminalreporter)


def _say_what_detectron2_would_run(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if "detectron2 is not installed" in str(report.longrepr).lower()
    ]
    if not skipped:
        return
    # A module without Detectron2 skips as one.
    modules = {report.nodeid for report in skipped if report.nodeid.endswith(".py")}
    root = terminalreporter.config.rootpath
    functions = sum(_count_tests(root / module) for module in modules)
    single = sum(report.nodeid not in modules for report in skipped)
    terminalreporter.write_line(
        f"Detectron2 is not installed: {functions + single} tests were skipped "
        f"(all of {len(modules)} files, {single} in others). To run them: make detectron2 test",
        yellow=True,
    )


def _count_tests(path: Path) -> int:
    nodes = ast.walk(ast.parse(path.read_text()))
    return sum(isinstance(n, ast.FunctionDef) and n.name.startswith("test_") for n in nodes)
