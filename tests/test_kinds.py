"""The kinds of the OpenMoji data set, and how they were chosen."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from iif import InputError
from iif.demo.font import ink_ratio, render
from iif.demo.kinds import all_kinds, choose_kinds

PATH = Path(__file__).parents[1] / "tools" / "list_kinds.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("list_kinds", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["list_kinds"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["list_kinds"]


@pytest.fixture(scope="module")
def pictures():
    return [render(kind.code, 128) for kind in all_kinds()]


def test_there_are_as_many_as_lvis_has_categories():
    kinds = all_kinds()
    assert len(kinds) == 1203
    assert len({kind.code for kind in kinds}) == 1203
    assert len({kind.name for kind in kinds}) == 1203


def test_no_two_look_the_same_in_any_pose(tool, pictures):
    assert tool.similarity(pictures).max() <= tool.MAX_SIMILARITY


def test_the_rule_knows_what_is_turned_mirrored_and_recoloured(tool):
    names = "1F34E 1F345 1F981 27A1 2B05 2198 1F7E7 1F536 1F9E1 2665 1F554 1F555"
    apple, tomato, lion, right, left, down, square, diamond, orange, red, *clocks = range(12)
    same = tool.similarity([render(int(n, 16), 128) for n in names.split()]) > tool.MAX_SIMILARITY
    assert same[right, left]
    assert same[right, down]
    assert same[square, diamond]
    assert same[orange, red]
    assert same[tuple(clocks)]
    assert not same[apple, tomato]
    assert not same[lion].any()


def test_each_has_a_body(tool, pictures):
    assert all(tool.has_body(picture) for picture in pictures)
    solid = [(np.asarray(p.getchannel("a")) > 127).mean() for p in pictures]
    assert np.median(solid) > 0.5
    assert not tool.has_body(render(0x1F4CE, 128))  # a paper clip


def test_no_skin_tones_flags_keycaps_or_sequences():
    codes = [kind.code for kind in all_kinds()]
    assert not set(codes) & {*range(0x1F3FB, 0x1F400), *range(0x1F1E6, 0x1F200), 0x20E3, 0x1F51F}
    assert all(kind.family not in ("flag", "country_flag", "skin_tone") for kind in all_kinds())


def test_the_first_40_are_families_and_things_come_before_signs(tool):
    first = Counter(kind.family for kind in all_kinds()[:40])
    assert first == {"cats_and_dogs": 10, "fruit": 10, "vehicles": 10, "balls": 10}
    last = [kind.family for kind in all_kinds()[-100:]]
    assert not [f for f in last if f.startswith(("animal", "food", "plant", "transport_ground"))]
    # Mixed: the next 100 show many sorts of things.
    assert len({kind.family for kind in all_kinds()[40:140]}) > 40


def test_names_are_plain_and_the_rest_is_filled():
    for kind in all_kinds():
        assert kind.name.replace("_", "a").isalnum()
        assert kind.name == kind.name.lower()
        assert kind.synonyms[0] == kind.name
        assert len(set(kind.synonyms)) == len(kind.synonyms)
        assert kind.family
        assert f"U+{kind.code:04X}" in kind.definition
    known = {kind.name: kind for kind in all_kinds()}
    assert known["lion"].synonyms == ("lion", "lion_face")
    assert known["red_apple"].definition == (
        "OpenMoji's drawing U+1F34E, red apple (apple, diet, food, fruit, health, red, ripe)"
    )


def test_categories_are_by_name_and_more_than_there_are_are_refused():
    names = [kind.name for kind in choose_kinds(40)]
    assert names == sorted(names)
    assert set(names) == {kind.name for kind in all_kinds()[:40]}
    with pytest.raises(InputError, match="categories is 1204; OpenMoji has 1203 drawings"):
        choose_kinds(1204)


def test_nothing_is_cut_off():
    """At any size a drawing has the same shape, and the length that its ratio says."""
    for kind in all_kinds()[::5]:
        large, small = render(kind.code, 240), render(kind.code, 60)
        assert max(large.size) == pytest.approx(240 * ink_ratio(kind.code), abs=5)
        assert np.array(small.size) == pytest.approx(np.array(large.size) / 4, abs=3)


def test_plain_names(tool):
    assert tool.plain_name("man\u2019s shoe") == tool.plain_name("man's shoe") == "mans_shoe"
    assert tool.plain_name("piñata") == "pinata"
    assert tool.plain_name("T-Rex") == "t_rex"


def test_subgroups_are_mixed_evenly(tool):
    from iif.demo.kinds import Kind

    kinds = [Kind(n, f"{f}{n}", f, (), ()) for f, k in (("a", 4), ("b", 2)) for n in range(k)]
    families = [
        Kind(9, name, "", (), ()) for names in tool.FAMILIES.values() for name in names.split()
    ]
    ordered = tool.in_order([[*families, *kinds]])
    assert [kind.name for kind in ordered[40:]] == ["a0", "b0", "a1", "a2", "b1", "a3"]
