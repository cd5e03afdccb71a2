"""The page of classification runs in a browser: layout, tables, charts, contrast, print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers_predictions import make_statistics, write_pair
from helpers_report import NASTY, make_image

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from helpers_browser import resize, start_browser
from iif.evaluation.classification.compare import compare_classifications
from iif.report.classification.page import write_classification_report
from iif.report.classification.pictures import make_examples

CLASSES = 100


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = start_browser()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    pair = write_pair(folder, statistics=make_statistics(CLASSES), per_class=10)
    full = compare_classifications(pair, bootstrap=50)
    for i, name in enumerate(full.runs[0].predictions.images):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(i, 16, 16 + i % 30)).save(path)
    made = {
        "full": (full, make_examples(full, folder / "images")),
        "single": (compare_classifications(pair[:1], bootstrap=0), None),
        "three": (compare_classifications([*pair, pair[0]], names=["a", "b", "c"]), None),
        "long names": (compare_classifications(pair, names=["a" * 80, "b_" * 40]), None),
    }
    for name, (comparison, examples) in made.items():
        write_classification_report(comparison, folder / f"{name}.html", examples=examples)
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture
def page(browser: Any, pages: dict[str, Path]) -> Any:
    resize(browser, 1400, 900)
    media = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(pages["full"].as_uri())
    return browser


def column(page: Any, number: int) -> list[str]:
    return page.execute_script(
        "return [...document.getElementById('category-table').tBodies[0].rows]"
        ".filter((r) => !r.hidden).map((r) => r.cells[arguments[0]].textContent)",
        number,
    )


@pytest.mark.parametrize("name", ["full", "single", "three", "long names"])
def test_no_errors_and_nothing_is_loaded(browser: Any, pages: dict[str, Path], name: str) -> None:
    browser.get_log("browser")
    browser.get(pages[name].as_uri())
    assert browser.get_log("browser") == []
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map((e) => e.name)"
    )
    assert [url for url in loaded if not url.startswith("data:")] == []


@pytest.mark.parametrize("name", ["full", "single", "three", "long names"])
@pytest.mark.parametrize("width", [390, 800, 1400])
def test_page_never_scrolls_sideways(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    resize(browser, width, 900)
    browser.get(pages[name].as_uri())
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    scroll, client = browser.execute_script(
        "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    )
    assert scroll <= client
    over = browser.execute_script(
        """
        return [...document.querySelectorAll('main *, header *, footer')].filter((e) =>
          e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
          && !e.closest('.scroll, .pan, nav, svg, .skip')).map((e) => e.outerHTML.slice(0, 80));
        """
    )
    assert over == []


def test_sorting_and_filtering_classes(page: Any) -> None:
    assert NASTY in column(page, 0)
    buttons = page.find_elements(By.CSS_SELECTOR, "#category-table thead tr:last-child button")
    buttons[10].click()
    headings = [b.text for b in buttons]
    assert headings[10:] == ["baseline", "adjusted", "Difference"]
    counts = [int(text.replace(",", "")) for text in column(page, 10)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    buttons[7].click()  # precision: undefined where a class is never predicted
    texts = column(page, 7)
    assert "-" in texts
    assert texts[-1] == "-"
    assert "-" not in texts[: len(texts) - texts.count("-")]
    count = page.find_element(By.ID, "category-count")
    assert count.text == "100 classes"
    Select(page.find_element(By.ID, "category-group")).select_by_visible_text("few")
    assert set(column(page, 1)) == {"few"}
    assert count.text == "30 of 100 classes"


def test_charts_show_values_by_keyboard(page: Any) -> None:
    charts = page.find_elements(By.CSS_SELECTOR, ".chart svg")
    assert len(charts) == 6  # two against training images, four reliability diagrams
    dots = charts[0].find_elements(By.CSS_SELECTOR, "circle")
    assert len(dots) == 2 * CLASSES
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", charts[0])
    page.execute_script("arguments[0].focus({focusVisible: true})", charts[0])
    charts[0].send_keys(Keys.END)
    tip = page.find_element(By.ID, "tip").text
    assert "500 training images" in tip
    assert NASTY in tip


def test_examples_are_shown(page: Any) -> None:
    sizes = page.execute_script(
        "return [...document.querySelectorAll('.example img')].map((e) => e.naturalWidth)"
    )
    assert len(sizes) == 24
    assert min(sizes) > 0
    names = page.execute_script(
        "return [...document.querySelectorAll('.example img')].map((e) => e.alt)"
    )
    assert all(names)


def test_regions_can_be_reached_by_keyboard(page: Any) -> None:
    regions = page.find_elements(By.CSS_SELECTOR, ".scroll")
    assert all(r.get_attribute("tabindex") == "0" for r in regions)
    labels = page.execute_script(
        """
        return [...document.querySelectorAll('.scroll')].map((e) =>
          e.getAttribute('aria-label') ?? document.getElementById(
            e.getAttribute('aria-labelledby')).textContent);
        """
    )
    assert all(labels)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(page: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        ratios = page.execute_script(
            """
            const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            const light = (rgb) => {
              const [r, g, b] = rgb.match(/[\\d.]+/g).map(Number).map(channel);
              return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const ground = (e) => {
              for (; e; e = e.parentElement) {
                const color = getComputedStyle(e).backgroundColor;
                if (color !== 'rgba(0, 0, 0, 0)') return color;
              }
            };
            const wanted = ['.verdict', '.caveat', '.limits', '.range', 'td.better', 'td.worse',
              '.example .right', '.example .quiet', '.settings td', 'tbody th .quiet'];
            return wanted.map((selector) => {
              const e = document.querySelector(selector);
              const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
              return [selector, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
            });
            """
        )
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert [(s, r) for s, r in ratios if r < 4.5] == []


def test_prints_without_controls_on_landscape_a4(page: Any) -> None:
    resize(page, 1032, 700)  # 297 mm less the margins, at 96 pixels an inch
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = [
            e for e in page.find_elements(By.CSS_SELECTOR, "nav, .controls") if e.is_displayed()
        ]
        clipped = page.execute_script(
            "return [...document.querySelectorAll('.tall')].map((e) =>"
            " e.scrollHeight - e.clientHeight)"
        )
        wide = page.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert shown == []
    assert max(clipped) <= 2
    assert wide <= 0
