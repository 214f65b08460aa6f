"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# Examples that failed once are not kept in the checkout: a failure prints how to repeat it.
settings.register_profile("salmon-state", database=None, print_blob=True)
settings.load_profile("salmon-state")
