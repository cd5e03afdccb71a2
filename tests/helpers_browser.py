"""A browser without a window, and pages of the report to open in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from helpers_report import (
    make_analysis,
    make_comparison,
    make_crops,
    make_findings,
    make_missed_crops,
)
from iif.report.html import Report, write_report
from iif.report.run_details import RunDetails

NUM_CATEGORIES = 1203
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
)


def start_browser() -> Any:
    """Start Chromium, or skip the tests where it is not installed."""
    options = webdriver.ChromeOptions()
    options.binary_location = find_program("chromium", "chromium-browser", "google-chrome")
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(find_program("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


def find_program(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{names[0]} is not installed")


def find_axe() -> Path:
    """Return axe-core's script, which npm installs beside the checkout, or skip the test."""
    script = Path(__file__).resolve().parents[1] / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        pytest.skip("axe-core is not installed: npm install --no-save axe-core")
    return script


def write_pages(folder: Path) -> dict[str, Path]:
    """Write a full page of LVIS's size, one of a single run, and one with long names."""
    reports = {
        "full": Report(
            make_comparison(num_categories=NUM_CATEGORIES),
            [
                make_analysis(num_categories=NUM_CATEGORIES),
                make_analysis(num_categories=NUM_CATEGORIES, iou_type="bbox"),
            ],
            [
                *make_crops(30, num_categories=NUM_CATEGORIES),
                *make_missed_crops(6, num_categories=NUM_CATEGORIES),
            ],
            findings=[make_findings(NUM_CATEGORIES, seed=run) for run in range(2)],
        ),
        "single": Report(
            make_comparison(("IIF",), iou_types=("bbox",)),
            [make_analysis(("IIF",), iou_type="bbox")],
            make_crops(3, num_runs=1, masks=False),
            findings=[make_findings()],
        ),
        "long names": Report(
            make_comparison(("a" * 80, "mask_rcnn_R_50_FPN_1x_iif_raw_seed_0")),
            [make_analysis(("a" * 80, "mask_rcnn_R_50_FPN_1x_iif_raw_seed_0"))],
            findings=[make_findings(seed=run) for run in range(2)],
        ),
    }
    runs = [f"method {chr(97 + m)} seed {s}" for m in range(12) for s in range(3)]
    pair = (runs[0], runs[-1])
    reports["many"] = Report(
        make_comparison(pair),
        [make_analysis(pair)],
        make_crops(12),
        findings=[make_findings(seed=run) for run in range(2)],
        everything=make_comparison(tuple(runs), num_categories=6),
        details=[
            RunDetails(
                name,
                method=name[:8],
                family=name[:8],
                seed=int(name[-1]),
                settings={"SEED": name[-1], "SOLVER.BASE_LR": "0.02"},
                curves={"total_loss": [(i, 3.0 / (i + 1)) for i in range(0, 900, 20)]},
            )
            for name in runs
        ],
    )
    for name, report in reports.items():
        write_report(report, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in reports}


def resize(browser: Any, width: int, height: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
