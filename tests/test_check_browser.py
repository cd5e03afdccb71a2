"""The page of "iif check" in a browser: nothing loaded, no sideways scrolling, table and bars."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from helpers_browser import find_axe, resize, start_browser
from iif.check.run import check
from iif.report.check import write_check_page

CLASSES = 60
NASTY = "<b>kind</b> & co"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = start_browser()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    for k in range(1, CLASSES):
        for image in rng.permutation(300)[: max(1, int(280 / k**1.1))].tolist():
            box = [*rng.integers(0, 60, 2).tolist(), 20, 20]
            annotations.append(
                {"id": len(annotations), "image_id": image, "category_id": k, "bbox": box}
            )
    annotations[3]["image_id"] = 999
    annotations[4]["segmentation"] = {"size": [100, 120], "counts": "zzz"}
    content = {
        "images": [
            {"id": i, "height": 100, "width": 120, "file_name": f"{i}_{'x' * 200}.jpg"}
            for i in range(300)
        ],
        "categories": [{"id": k, "name": f"kind {k}" if k else NASTY} for k in range(CLASSES)],
        "annotations": annotations,
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    write_check_page(check(path), folder / "check.html")
    return folder / "check.html"


def test_no_errors_and_nothing_is_loaded(browser: Any, page: Path) -> None:
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.get_log("browser") == []
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map((e) => e.name)"
    )
    assert [url for url in loaded if not url.startswith("data:")] == []


@pytest.mark.parametrize("width", [390, 800, 1400])
def test_page_never_scrolls_sideways(browser: Any, page: Path, width: int) -> None:
    resize(browser, width, 900)
    browser.get(page.as_uri())
    scroll, client = browser.execute_script(
        "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    )
    assert scroll <= client


def test_findings_classes_and_bars(browser: Any, page: Path) -> None:
    resize(browser, 1400, 900)
    browser.get(page.as_uri())
    assert browser.find_element(By.CSS_SELECTOR, ".verdict").text.startswith("Not usable: 2 kinds")
    levels = [e.text for e in browser.find_elements(By.CSS_SELECTOR, ".findings .level")]
    assert levels == sorted(levels, key=["Error", "Warning", "Note"].index)
    fills = {
        e.value_of_css_property("fill")
        for e in browser.find_elements(By.CSS_SELECTOR, "#histogram svg [class*='group-']")
    }
    assert len(fills) == 3  # one for each group
    count = browser.find_element(By.ID, "category-count")
    assert count.text == f"{CLASSES} classes"
    assert NASTY in browser.find_element(By.ID, "category-table").text
    Select(browser.find_element(By.ID, "category-group")).select_by_visible_text("frequent")
    assert count.text == f"2 of {CLASSES} classes"


def test_no_violation_of_accessibility(browser: Any, page: Path) -> None:
    script = find_axe()
    browser.get(page.as_uri())
    browser.execute_script(script.read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found["violations"]] == []
