"""The report's page in a browser: sorting, searching, filtering, tooltips, keyboard, layout."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers_report import (
    NASTY,
    category_names,
    make_analysis,
    make_findings,
    make_missed_crops,
)
from iif.evaluation.confusion import ConfusionCell
from iif.report.html import Report, write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from helpers_browser import NUM_CATEGORIES, find_axe, resize, start_browser, write_pages

# Of the full page: around detections, and 6 around missed objects.
NUM_CROPS = 36


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    driver = start_browser()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def page(browser: Any, pages: dict[str, Path]) -> Any:
    resize(browser, 1280, 900)
    # No smooth scrolling, during which nothing can be clicked.
    media = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(pages["full"].as_uri())
    return browser


def column(page: Any, number: int, table: str = "category-table") -> list[str]:
    return page.execute_script(
        "return [...document.getElementById(arguments[0]).tBodies[0].rows]"
        ".filter((r) => !r.hidden).map((r) => r.cells[arguments[1]].textContent)",
        table,
        number,
    )


def numbers(texts: list[str]) -> list[float]:
    """Defined values; asserts that undefined ones come last."""
    defined = [t for t in texts if t != "-"]
    assert texts == defined + ["-"] * (len(texts) - len(defined))
    return [float(t.replace(",", "").replace("\N{MINUS SIGN}", "-")) for t in defined]


def tip(page: Any) -> str | None:
    element = page.find_element(By.ID, "tip")
    return element.text if element.is_displayed() else None


def head_button(page: Any, number: int) -> Any:
    return page.find_elements(By.CSS_SELECTOR, "#category-table thead tr:last-child button")[number]


@pytest.mark.parametrize("name", ["full", "single", "many", "long names"])
def test_no_errors_and_nothing_is_loaded(browser: Any, pages: dict[str, Path], name: str) -> None:
    browser.get_log("browser")
    browser.get(pages[name].as_uri())
    assert browser.get_log("browser") == []
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map((e) => e.name)"
    )
    assert [url for url in loaded if not url.startswith("data:")] == []


def test_injected_names_are_text(page: Any) -> None:
    assert NASTY in column(page, 0)
    assert len(page.find_elements(By.TAG_NAME, "script")) == 2
    names = [o.text for o in Select(page.find_element(By.ID, "crop-category")).options]
    assert len(names) > 1


@pytest.mark.parametrize("number", [2, 4, 6, 12])
def test_sorting_numbers(page: Any, number: int) -> None:
    before = sorted(column(page, 0))
    head_button(page, number).click()
    down = numbers(column(page, number))
    assert down == sorted(down, reverse=True)
    head_button(page, number).click()
    up = numbers(column(page, number))
    assert up == sorted(up)
    assert len(set(up)) > 10
    assert sorted(column(page, 0)) == before
    states = page.execute_script(
        "return [...document.querySelectorAll('#category-table thead tr:last-child th')]"
        ".map((h) => h.getAttribute('aria-sort'))"
    )
    assert states[number] == "ascending"
    assert states.count("ascending") == 1
    assert "descending" not in states


def test_sorting_names_moves_whole_rows(page: Any) -> None:
    pairs = dict(zip(column(page, 0), column(page, 4), strict=True))
    head_button(page, 0).click()
    names = column(page, 0)
    assert names[1].startswith("aerosol can")
    assert names[-1].startswith("tow truck")
    assert names.index("mug 8") < names.index("mug 15") < names.index("mug 1002")
    assert dict(zip(names, column(page, 4), strict=True)) == pairs


def test_sorting_1203_rows_is_quick(page: Any) -> None:
    # Processor time, not the clock's: the machine may be busy.
    page.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = page.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        wanted = ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
        return sum(m["value"] for m in metrics if m["name"] in wanted)

    before = spent()
    page.execute_script(
        """
        const button = document.querySelectorAll('#category-table thead tr:last-child button')[4];
        for (let i = 0; i < 5; i++) { button.click(); document.body.offsetHeight; }
        """
    )
    elapsed = (spent() - before) / 5
    page.execute_cdp_cmd("Performance.disable", {})
    assert 0.001 < elapsed < 1


def test_search_and_group_filter(page: Any) -> None:
    search = page.find_element(By.ID, "category-search")
    search.send_keys("Bird_Feeder")
    found = column(page, 0)
    assert found
    assert all("bird feeder" in name for name in found)
    count = page.find_element(By.ID, "category-count")
    assert count.text == f"{len(found)} of 1,203 categories"
    Select(page.find_element(By.ID, "category-group")).select_by_visible_text("rare")
    rare = column(page, 0)
    assert 0 < len(rare) < len(found)
    assert set(column(page, 1)) == {"rare"}
    search.clear()
    search.send_keys("no such thing")
    assert column(page, 0) == []
    assert count.text == "0 of 1,203 categories"


def crops_drawn(page: Any) -> list[str]:
    return [e.text for e in page.find_elements(By.CSS_SELECTOR, ".crop header")]


def test_crops_come_in_batches(page: Any) -> None:
    assert len(crops_drawn(page)) == 12
    count = page.find_element(By.ID, "crop-count")
    assert count.text == f"12 of {NUM_CROPS} shown"
    more = page.find_element(By.ID, "crop-more")
    page.execute_script("arguments[0].click(); arguments[0].click()", more)
    assert len(crops_drawn(page)) == NUM_CROPS
    assert not more.is_displayed()
    assert count.text == f"{NUM_CROPS} of {NUM_CROPS} shown"


def test_crop_filters(page: Any) -> None:
    def choose(control: str, value: str) -> None:
        Select(page.find_element(By.ID, control)).select_by_value(value)

    crops = page.execute_script("return JSON.parse(document.getElementById('payload').textContent)")
    crops = crops["crops"]
    for control, key in (
        ("crop-change", "change"),
        ("crop-kind", "kind"),
        ("crop-group", "group"),
        ("crop-category", "name"),
    ):
        value = crops[3][key]
        choose(control, value)
        expected = [c for c in crops if c[key] == value]
        assert 0 < len(expected) < NUM_CROPS
        count = page.find_element(By.ID, "crop-count").text
        drawn = crops_drawn(page)
        assert count == f"{len(drawn)} of {len(expected)} shown that match, of {NUM_CROPS} in all"
        assert len(drawn) == min(12, len(expected))
        for text, crop in zip(drawn, expected, strict=False):
            assert f"image {crop['id']}" in text
            assert crop["name"] in text
        choose(control, "")
    choose("crop-kind", crops[3]["kind"])
    choose("crop-group", crops[3]["group"])
    both = [c for c in crops if all(c[k] == crops[3][k] for k in ("kind", "group"))]
    assert len(crops_drawn(page)) == min(12, len(both))


def test_boxes_masks_and_unverifiable_can_be_hidden(page: Any) -> None:
    def visible(selector: str) -> int:
        return page.execute_script(
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter((e) => e.getBoundingClientRect().width > 0).length",
            f"#crop-list {selector}",
        )

    for control, selector in (
        ("show-masks", ".shape path"),
        ("show-boxes", ".shape path ~ rect"),
        ("show-labels", "text.tag"),
        ("show-ignored", ".kind-ignored"),
        ("show-unverifiable", ".kind-unverifiable"),
    ):
        assert visible(selector) > 0
        page.find_element(By.ID, control).click()
        assert visible(selector) == 0
        page.find_element(By.ID, control).click()
        assert visible(selector) > 0


def test_unverifiable_is_grey_and_dashed(page: Any) -> None:
    style = page.execute_script(
        "const e = document.querySelector('.shape.kind-unverifiable rect:not(.casing)');"
        "const s = getComputedStyle(e); return [s.stroke, s.strokeDasharray]"
    )
    red, green, blue = (int(v) for v in style[0].removeprefix("rgb(").rstrip(")").split(","))
    assert red == green == blue
    assert style[1] != "none"


def test_ignored_and_unverifiable_are_told_apart(page: Any) -> None:
    styles = page.execute_script(
        "return ['ignored', 'unverifiable'].map((kind) => {"
        "const e = document.querySelector(`.shape.kind-${kind} rect:not(.casing)`);"
        "const s = getComputedStyle(e);"
        "return [s.stroke, s.strokeDasharray]; })"
    )
    assert len({stroke for stroke, _ in styles}) == 2
    assert len({dashes for _, dashes in styles} - {"none"}) == 2


def test_outlines_have_names_and_scores_and_the_lower_the_thinner(page: Any) -> None:
    found = page.execute_script(
        """
        const payload = JSON.parse(document.getElementById('payload').textContent);
        const width = (e) =>
          parseFloat(getComputedStyle(e.querySelector('rect:not(.casing)')).strokeWidth);
        const labels = [...document.querySelectorAll('#crop-list text.tag')];
        const plain = [...document.querySelectorAll('#crop-list .shape:not(.subject)')]
          .filter((e) => e.dataset.tip.includes('score'));
        return [payload.short, labels.map((e) => e.textContent),
          plain.map((e) => [Number(e.dataset.tip.split('score ')[1]), width(e)])];
        """
    )
    short, labels, widths = found
    assert len(labels) > 20
    for label in labels:
        name = re.sub(r" \d\.\d\d$", "", label)
        assert name in short
        assert len(name) <= 18
    ordered = [width for _, width in sorted(widths)]
    assert ordered == sorted(ordered)
    assert ordered[0] < ordered[-1]


def test_true_class_is_in_the_heading(page: Any) -> None:
    crops = page.execute_script("return JSON.parse(document.getElementById('payload').textContent)")
    for text, crop in zip(crops_drawn(page), crops["crops"], strict=False):
        assert f"Detected: {crop['name']}" in text
        truth = crop["truth"] or "nothing annotated there"
        assert f"in truth: {truth}" in text


def test_a_crop_leads_to_its_whole_image(page: Any) -> None:
    crop = page.find_element(By.CSS_SELECTOR, ".crop")
    assert crop.find_elements(By.CSS_SELECTOR, ".whole svg") == []
    summary = crop.find_element(By.CSS_SELECTOR, ".whole summary")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", summary)
    summary.click()
    svg = WebDriverWait(page, 20).until(
        lambda _: crop.find_elements(By.CSS_SELECTOR, ".whole svg")
    )[0]
    data = page.execute_script(
        "return JSON.parse(document.getElementById('payload').textContent).crops[0]"
    )
    place = svg.find_element(By.CSS_SELECTOR, ".window")
    assert [int(place.get_attribute(a)) for a in ("x", "y", "width", "height")] == data["window"]
    assert svg.get_dom_attribute("viewBox") == "0 0 640 480"


def test_a_category_leads_to_its_crops_and_back(page: Any) -> None:
    link = page.find_element(By.CSS_SELECTOR, "#category-table a.cell-link")
    name = link.text
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    WebDriverWait(page, 20).until(lambda p: "name=" in p.execute_script("return location.hash"))
    chosen = Select(page.find_element(By.ID, "crop-category")).first_selected_option.text
    assert chosen == name
    assert crops_drawn(page)
    assert all(f"Detected: {name}" in text for text in crops_drawn(page))
    top = page.execute_script("return document.getElementById('crops').getBoundingClientRect().top")
    assert abs(top) < 200


def test_a_bar_leads_to_its_crops_by_click_and_by_keys(page: Any) -> None:
    bar = page.find_element(By.CSS_SELECTOR, "#false-positives .bar rect[data-href]")
    wanted = bar.get_attribute("data-href")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", bar)
    bar.click()
    WebDriverWait(page, 20).until(lambda p: p.execute_script("return location.hash") == wanted)
    kind = re.search(r"kind=(\w+)", wanted)[1]
    assert Select(page.find_element(By.ID, "crop-kind")).first_selected_option.text == kind
    assert all(f"{kind}:" in text for text in crops_drawn(page))
    page.execute_script(
        "history.replaceState(null, '', '#x'); document.activeElement.blur();"
        "arguments[0].ownerSVGElement.focus()", bar
    )  # fmt: skip
    webdriver.ActionChains(page).send_keys(Keys.HOME).perform()
    current = page.execute_script("return document.querySelector('.current')?.dataset.href")
    webdriver.ActionChains(page).send_keys(Keys.ENTER).perform()
    assert current
    assert page.execute_script("return location.hash") == current


def test_the_state_is_in_the_address(browser: Any, pages: dict[str, Path]) -> None:
    resize(browser, 1280, 900)
    url = pages["full"].as_uri()
    browser.get("about:blank")
    browser.get(f"{url}#categories?search=mug&in=r&sort=-2")
    assert browser.find_element(By.ID, "category-search").get_attribute("value") == "mug"
    assert set(column(browser, 1)) == {"rare"}
    found = numbers(column(browser, 2))
    assert found == sorted(found, reverse=True)
    head_button(browser, 2).click()
    assert "sort=2" in browser.execute_script("return location.hash")
    Select(browser.find_element(By.ID, "crop-group")).select_by_value("c")
    state = browser.execute_script("return location.hash")
    assert state == "#crops?group=c"
    shown = crops_drawn(browser)
    browser.get("about:blank")
    browser.get(url + state)
    assert crops_drawn(browser) == shown
    # What is not offered, and what is no section, changes nothing.
    browser.get("about:blank")
    browser.get(f"{url}#crops?kind=Nonsense")
    assert len(crops_drawn(browser)) == 12
    browser.get_log("browser")
    browser.get(f"{url}#nowhere?x=1")
    assert browser.get_log("browser") == []


def test_methods_with_seeds_sort_by_their_mean(browser: Any, pages: dict[str, Path]) -> None:
    resize(browser, 1400, 900)
    browser.get(pages["many"].as_uri())
    names = column(browser, 0, "method-table")
    assert len(names) == 12
    assert set(column(browser, 1, "method-table")) == {"3"}
    heads = browser.find_elements(By.CSS_SELECTOR, "#method-table thead button")
    browser.execute_script("arguments[0].click()", heads[2])
    values = [float(text.split()[0]) for text in column(browser, 2, "method-table")]
    assert values == sorted(values, reverse=True)
    over = browser.execute_script(
        "const e = document.getElementById('method-table').closest('.scroll');"
        "return e.scrollWidth - e.clientWidth"
    )
    assert over <= 0


@pytest.mark.parametrize("name", ["full", "many"])
@pytest.mark.parametrize("table", ["#category-table", "#metrics table", "#false-positives table"])
def test_tables_are_within_their_boxes_at_1400(
    browser: Any, pages: dict[str, Path], name: str, table: str
) -> None:
    resize(browser, 1400, 900)
    browser.get(pages[name].as_uri())
    over = browser.execute_script(
        "const e = document.querySelector(arguments[0]).closest('.scroll');"
        "return e.scrollWidth - e.clientWidth",
        table,
    )
    assert over <= 0


def test_intervals_are_in_view_on_a_phone(browser: Any, pages: dict[str, Path]) -> None:
    resize(browser, 390, 800)
    browser.get(pages["full"].as_uri())
    hidden = browser.execute_script(
        "return [...document.querySelectorAll('#metrics .range')].filter((e) => {"
        "const box = e.getBoundingClientRect();"
        "const frame = e.closest('.scroll').getBoundingClientRect();"
        "return box.width === 0 || box.right > frame.right + 1; }).length"
    )
    assert hidden == 0


@pytest.mark.parametrize("name", ["full", "single", "many", "long names"])
def test_print_clips_nothing(browser: Any, pages: dict[str, Path], name: str) -> None:
    # A4 on its side without the margins, in CSS pixels.
    resize(browser, 1032, 800)
    browser.get(pages[name].as_uri())
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        over = browser.execute_script(
            """
            for (const d of document.querySelectorAll('details')) d.open = true;
            return [...document.querySelectorAll('td, th, h2, p, li, dd, figure')].filter((e) =>
              e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
              .map((e) => e.outerHTML.slice(0, 80));
            """
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert over == []


@pytest.mark.parametrize("name", ["full", "single", "many"])
def test_axe_has_no_finding(browser: Any, pages: dict[str, Path], name: str) -> None:
    axe = find_axe()
    resize(browser, 1280, 900)
    browser.get(pages[name].as_uri())
    browser.execute_script(axe.read_text(encoding="utf-8"))
    browser.set_script_timeout(120)
    found = browser.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        axe.run().then((result) => done(result.violations.map((v) => [v.id, v.nodes[0].html])));
        """
    )
    assert found == []


def hover(page: Any, element: Any) -> None:
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    webdriver.ActionChains(page).move_to_element(element).perform()


def tip_of(page: Any, element: Any) -> str:
    """Hover over an element until its tip shows: a busy browser may lay the page out in between."""

    def shown(page: Any) -> str | None:
        hover(page, element)
        return tip(page)

    return WebDriverWait(page, 20).until(shown)


def test_hover_shows_category_score_and_type(page: Any) -> None:
    crop = page.execute_script(
        "return JSON.parse(document.getElementById('payload').textContent).crops[0]"
    )
    run = 0 if any(s[5] for s in crop["panels"][0]) else 1
    (subject,) = [s for s in crop["panels"][run] if s[5]]
    assert tip(page) is None
    shape = page.find_element(By.CSS_SELECTOR, ".crop .shape.subject path")
    words = tip_of(page, shape)
    name, kind, score = words.split("\n")
    assert name == crop["name"]
    assert kind.startswith(f"{crop['kind']}: ")
    assert float(score.removeprefix("score ")) == pytest.approx(subject[2], rel=5e-3)
    webdriver.ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert tip(page) is None


def test_a_tap_shows_category_score_and_type(page: Any) -> None:
    rect = page.find_element(By.CSS_SELECTOR, ".crop .shape.subject path")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", rect)
    page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        place = page.execute_script(
            "const b = arguments[0].getBoundingClientRect();"
            "return {x: b.x + b.width / 2, y: b.y + b.height / 2}", rect
        )  # fmt: skip
        for kind, points in (("touchStart", [place]), ("touchEnd", [])):
            page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        assert "score" in (tip(page) or "")
    finally:
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_hover_inside_boxes_without_masks(browser: Any, pages: dict[str, Path]) -> None:
    resize(browser, 1280, 900)
    browser.get(pages["single"].as_uri())
    assert browser.find_elements(By.ID, "show-masks") == []
    shape = browser.find_element(By.CSS_SELECTOR, ".shape.subject rect:not(.casing)")
    assert "score" in tip_of(browser, shape)


def test_hover_on_charts(page: Any) -> None:
    dot = page.find_elements(By.CSS_SELECTOR, "#curves .dot")[8]
    assert "false positives per 1,000 verified images" in tip_of(page, dot)
    bar = page.find_element(By.CSS_SELECTOR, "#false-positives .bar rect")
    WebDriverWait(page, 20).until(lambda page: "Loc" in tip_of(page, bar))
    hover(page, page.find_element(By.CSS_SELECTOR, "#provenance h2"))
    assert tip(page) is None


def test_focus_and_arrow_keys_show_the_same(page: Any) -> None:
    more = page.find_element(By.ID, "show-unverifiable")
    page.execute_script("arguments[0].focus()", more)
    webdriver.ActionChains(page).send_keys(Keys.TAB).perform()
    focused = page.switch_to.active_element
    assert focused.tag_name == "svg"
    shapes = focused.find_elements(By.CSS_SELECTOR, ".shape")
    seen = {tip(page)}
    assert None not in seen
    for _ in range(len(shapes) - 1):
        webdriver.ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
        seen.add(tip(page))
    assert seen == {s.get_attribute("data-tip") for s in shapes}
    announced = page.find_element(By.ID, "announce").get_attribute("textContent")
    assert announced == (tip(page) or "").replace("\n", ", ")
    webdriver.ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert tip(page) is None
    webdriver.ActionChains(page).send_keys(Keys.HOME).perform()
    assert tip(page) == shapes[0].get_attribute("data-tip")
    webdriver.ActionChains(page).send_keys(Keys.TAB).perform()
    assert page.switch_to.active_element != focused


def test_arrow_keys_pass_by_what_is_hidden(page: Any) -> None:
    svg = page.execute_script(
        "return document.querySelector('.shape.greyed').closest('svg[data-roving]')"
    )
    total = len(svg.find_elements(By.CSS_SELECTOR, ".shape"))
    hidden = svg.find_elements(By.CSS_SELECTOR, ".shape.greyed")
    for what in ("show-ignored", "show-unverifiable"):
        page.find_element(By.ID, what).click()
    page.execute_script("arguments[0].focus()", svg)
    seen = set()
    for _ in range(total):
        webdriver.ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
        seen.add(tip(page))
    assert len(seen) == total - len(hidden)
    assert seen.isdisjoint({shape.get_attribute("data-tip") for shape in hidden})


def test_sorting_with_the_keyboard_and_visible_focus(page: Any) -> None:
    page.execute_script("document.getElementById('category-group').focus()")
    # The table's scroll area, then the heads.
    webdriver.ActionChains(page).send_keys(Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB).perform()
    focused = page.switch_to.active_element
    assert focused.text == "Training images"
    assert focused.value_of_css_property("outline-style") == "solid"
    webdriver.ActionChains(page).send_keys(Keys.ENTER).perform()
    down = numbers(column(page, 2))
    assert down == sorted(down, reverse=True)


def test_controls_have_names(page: Any) -> None:
    unnamed = page.execute_script(
        """
        return [...document.querySelectorAll('input, select, button')]
          .filter((e) => !(e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML);
        """
    )
    assert unnamed == []
    regions = page.find_elements(By.CSS_SELECTOR, ".scroll")
    assert all(r.get_attribute("tabindex") == "0" for r in regions)


@pytest.mark.parametrize("name", ["full", "single", "many", "long names"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_page_never_scrolls_sideways(
    browser: Any, pages: dict[str, Path], name: str, width: int
) -> None:
    resize(browser, width, 800)
    browser.get(pages[name].as_uri())
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    scroll, client = browser.execute_script(
        "const e = document.documentElement; return [e.scrollWidth, e.clientWidth]"
    )
    assert scroll <= client
    # Nothing but what scrolls by itself reaches over the edge.
    over = browser.execute_script(
        """
        return [...document.querySelectorAll('main *, header *, footer')].filter((e) =>
          e.getBoundingClientRect().right > document.documentElement.clientWidth + 1
          && !e.closest('.scroll, .pan, nav, svg, .skip')).map((e) => e.outerHTML.slice(0, 80));
        """
    )
    assert over == []


def test_panels_stack_on_a_narrow_screen(page: Any) -> None:
    def rows() -> int:
        return page.execute_script(
            "return new Set([...document.querySelector('.panels').children]"
            ".map((e) => e.getBoundingClientRect().top)).size"
        )

    assert rows() == 1
    resize(page, 360, 800)
    assert rows() == 3


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
            const wanted = ['.verdict', '.caveat', '.limits', '.reading', 'nav a', 'thead th',
              'tbody td', 'td.better', '.quiet', '.range', 'summary', 'output', '.kicker',
              'footer'];
            return wanted.map((selector) => {
              const e = document.querySelector(selector);
              const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
              return [selector, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
            });
            """
        )
        paper = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert (paper == "rgb(252, 252, 250)") == (scheme == "light")
    assert [(s, r) for s, r in ratios if r < 4.5] == []


def test_prints_without_controls(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = [
            e for e in page.find_elements(By.CSS_SELECTOR, "nav, .controls") if e.is_displayed()
        ]
        clipped = page.execute_script(
            "const e = document.querySelector('.tall'); return e.scrollHeight - e.clientHeight"
        )
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert shown == []
    assert clipped <= 2


def test_missed_objects_are_selected_by_why(page: Any) -> None:
    link = page.find_element(By.CSS_SELECTOR, "#missed table a.cell-link")
    page.execute_script(
        "arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", link
    )
    WebDriverWait(page, 20).until(
        lambda p: "kind=Missed" in p.execute_script("return location.hash")
    )
    drawn = crops_drawn(page)
    assert drawn
    assert all(text.startswith("Missed: ") for text in drawn)
    Select(page.find_element(By.ID, "crop-why")).select_by_value("Cls")
    some = crops_drawn(page)
    assert 0 < len(some) < 6
    assert all("class: another category is detected on it" in text for text in some)
    assert "why=Cls" in page.execute_script("return location.hash")
    # The object is outlined in each panel of the first crop.
    subjects = page.execute_script(
        "return [...document.querySelector('.crop .panels').children]"
        ".map((f) => f.querySelectorAll('.shape.subject.kind-ground-truth').length)"
    )
    assert subjects == [1, 1, 1]


def test_a_bar_of_missed_objects_leads_to_their_crops(page: Any) -> None:
    bar = page.find_element(By.CSS_SELECTOR, "#missed .bar rect[data-href]")
    wanted = bar.get_attribute("data-href")
    page.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", bar)
    WebDriverWait(page, 20).until(lambda p: p.execute_script("return location.hash") == wanted)
    assert all(text.startswith("Missed: ") for text in crops_drawn(page))


def curve_state(page: Any) -> tuple[str, list[str], int]:
    return tuple(
        page.execute_script(
            "return [document.getElementById('curve-note').textContent,"
            "[...document.querySelectorAll('#curve-table tbody tr')].map((r) => r.textContent),"
            "document.querySelectorAll('#curve-precision circle').length]"
        )
    )


def test_curves_of_a_category_are_drawn_and_linked(browser: Any, pages: dict[str, Path]) -> None:
    resize(browser, 1280, 900)
    browser.get("about:blank")
    browser.get(f"{pages['full'].as_uri()}#thresholds?category=mug%208")
    note, rows, dots = curve_state(browser)
    assert note == "mug 8"
    assert [row.startswith(name) for row, name in zip(rows, ("baseline", "IIF"), strict=True)]
    assert 2 * 5 < dots <= 2 * 18
    assert len(browser.find_elements(By.CSS_SELECTOR, "#curve-f1 circle.best")) == 2
    box = browser.find_element(By.ID, "curve-category")
    box.clear()
    box.send_keys("no such thing")
    assert curve_state(browser)[0] == 'no category "no such thing"'
    assert curve_state(browser)[1:] == (rows, dots)
    box.clear()
    box.send_keys("mug 1")
    assert curve_state(browser)[0] == "mug 1"
    assert curve_state(browser)[1] != rows
    assert "category=mug+1" in browser.execute_script("return location.hash")
    # The arrow keys read the points.
    browser.execute_script(
        "document.activeElement.blur(); document.querySelector('#curve-f1 svg').focus()"
    )
    webdriver.ActionChains(browser).send_keys(Keys.HOME).perform()
    assert "score at least" in (tip(browser) or "")


def test_all_thresholds_are_a_table_that_leads_to_the_curves(page: Any) -> None:
    details = page.find_element(By.ID, "threshold-all")
    assert details.find_elements(By.TAG_NAME, "tr") == []
    page.execute_script("arguments[0].open = true", details)
    WebDriverWait(page, 20).until(lambda _: details.find_elements(By.TAG_NAME, "tr"))
    count, last = page.execute_script(
        "const rows = arguments[0].querySelectorAll('tbody tr');"
        "const link = rows[rows.length - 1].querySelector('a');"
        "return [rows.length, [link.textContent, link.getAttribute('href')]]",
        details,
    )
    assert 1000 < count <= 1203
    page.execute_script("location.hash = arguments[0]", last[1])
    WebDriverWait(page, 20).until(lambda p: curve_state(p)[0] == last[0])


@pytest.mark.parametrize("what", ["thresholds", "confusion"])
def test_tables_are_saved_as_csv(browser: Any, pages: dict[str, Path], what: str) -> None:
    resize(browser, 1280, 900)
    browser.get(pages["full"].as_uri())
    text = browser.execute_script("return iifTables.csv[arguments[0]]()", what)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["run"] for row in rows} == {"baseline", "IIF"}
    assert NASTY in {row["category"] for row in rows}
    found = make_findings(NUM_CATEGORIES)
    first = [row for row in rows if row["run"] == "baseline"]
    if what == "thresholds":
        expected = {one.category_id: one for one in found.thresholds}
        assert {int(row["category_id"]) for row in first} == set(expected)
        for row in first:
            assert float(row["f1"]) == pytest.approx(expected[int(row["category_id"])].f1, abs=0.06)
    else:
        key = {"None": "background"}
        counts = {
            (key.get(str(c.category_id), str(c.category_id)),
             "missed" if c.predicted_id is None else str(c.predicted_id)): c.count
            for c in found.confusion
        }  # fmt: skip
        assert all(
            counts[row["category_id"], row["predicted_id"]] == int(row["count"]) for row in first
        )
    button = browser.find_element(By.CSS_SELECTOR, f"[data-csv={what}][data-do=save]")
    browser.execute_script(
        "const made = URL.createObjectURL; window.blobs = [];"
        "URL.createObjectURL = (blob) => { window.blobs.push(blob.size); return made(blob); };"
        "arguments[0].click()",
        button,
    )
    assert browser.execute_script("return window.blobs") == [len(text.encode())]
    said = browser.execute_script(
        "return arguments[0].parentElement.querySelector('output').textContent", button
    )
    assert said == f"Saved: {len(rows):,} rows"


def test_names_like_formulas_are_inert_in_the_csv(browser: Any, tmp_path: Path) -> None:
    analysis = make_analysis()
    names = ["=1+1", 'a "b", c', *analysis.category_names[2:]]
    report = Report(
        None,
        [replace(analysis, category_names=names)],
        findings=[make_findings(seed=run) for run in range(2)],
    )
    write_report(report, tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    text = browser.execute_script("return iifTables.csv.thresholds()")
    found = {row["category"] for row in csv.DictReader(io.StringIO(text))}
    assert "'=1+1" in found
    assert 'a "b", c' in found


def test_the_matrix_of_a_run_is_chosen_and_in_the_address(
    browser: Any, pages: dict[str, Path]
) -> None:
    def shown() -> list[str]:
        return browser.execute_script(
            "return [...document.querySelectorAll('.matrix')].filter((m) => !m.hidden)"
            ".map((m) => m.querySelector('h3').textContent)"
        )

    resize(browser, 1280, 900)
    browser.get("about:blank")
    browser.get(pages["full"].as_uri())
    assert shown() == ["IIF"]
    Select(browser.find_element(By.ID, "confusion-run")).select_by_visible_text("baseline")
    assert shown() == ["baseline"]
    state = browser.execute_script("return location.hash")
    assert state == "#confusions?run=0"
    browser.get("about:blank")
    browser.get(pages["full"].as_uri() + state)
    assert shown() == ["baseline"]
    browser.get("about:blank")
    browser.get(pages["full"].as_uri() + "#confusions?run=nonsense")
    assert shown() == ["IIF"]
    cell = browser.find_element(By.CSS_SELECTOR, ".matrix:not([hidden]) td.cell.right")
    words = tip_of(browser, cell)
    assert "detected as" in words
    assert "in this row" in words


def test_a_cell_of_the_matrix_leads_to_its_crops(browser: Any, tmp_path: Path) -> None:
    crops = make_missed_crops(6)
    names = category_names(60)
    k = names.index(crops[0].truth)
    # The category of the crop is confused most: it is in the matrix.
    cells = [ConfusionCell(k + 1, (k + 1) % 60 + 1, 99), ConfusionCell(k + 1, None, 7)]
    report = Report(
        None,
        [make_analysis()],
        crops,
        findings=[replace(make_findings(seed=run), confusion=cells) for run in range(2)],
    )
    write_report(report, tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    link = browser.find_element(By.CSS_SELECTOR, ".matrix:not([hidden]) td.cell a")
    browser.execute_script("arguments[0].click()", link)
    WebDriverWait(browser, 20).until(lambda b: "truth=" in b.execute_script("return location.hash"))
    drawn = crops_drawn(browser)
    assert drawn
    assert all(text.startswith(f"Missed: {crops[0].truth}") for text in drawn)


def test_the_matrix_is_within_its_box_at_1400(browser: Any, pages: dict[str, Path]) -> None:
    resize(browser, 1400, 900)
    browser.get(pages["full"].as_uri())
    over = browser.execute_script(
        "const e = document.querySelector('.matrix:not([hidden]) .scroll');"
        "return e.scrollWidth - e.clientWidth"
    )
    assert over <= 0


def test_all_matrices_are_printed(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        heights = page.execute_script(
            "return [...document.querySelectorAll('.matrix')].map((m) => m.clientHeight)"
        )
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert len(heights) == 2
    assert min(heights) > 100


def test_the_head_of_many_runs_is_about_methods(browser: Any, pages: dict[str, Path]) -> None:
    resize(browser, 390, 800)
    browser.get(pages["many"].as_uri())
    assert browser.find_element(By.TAG_NAME, "h1").text.startswith("36 runs on ")
