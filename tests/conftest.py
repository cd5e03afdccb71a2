from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# The machines that run the tests are slow and shared: a slow example is not a fault.
settings.register_profile("iif", deadline=None)
settings.load_profile("iif")


@pytest.fixture(scope="session")
def glyphs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny glyph data set, shared by all tests: copy what is to be changed."""
    from iif.data.glyphs import GlyphSettings, make_glyphs

    settings = GlyphSettings(categories=12, train=40, val=16, image_size=64, seed=0)
    return make_glyphs(tmp_path_factory.mktemp("data") / "glyphs", settings, workers=1)
