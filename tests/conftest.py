from __future__ import annotations

from hypothesis import settings

# The machines that run the tests are slow and shared: a slow example is not a fault.
settings.register_profile("iif", deadline=None)
settings.load_profile("iif")
