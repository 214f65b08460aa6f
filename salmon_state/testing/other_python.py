"""What another Python does with a store for `VersionSuite`; needs neither pytest nor Hypothesis."""

from __future__ import annotations

import pickle
import sys
import traceback

__all__ = ["CANNOT_IMPORT", "main"]

CANNOT_IMPORT = "cannot import the store:"


def main() -> None:
    """Does one thing with a store in another Python; see `salmon_state.testing.versions`."""
    request = sys.stdin.buffer.read()
    try:
        open_store, function, arguments = pickle.loads(request)  # noqa: S301 - from the test itself
        store = open_store()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ImportError) or any(frame.name == "<module>" for frame in frames):
            sys.exit(f"{CANNOT_IMPORT} {type(error).__name__}: {error}")
        raise
    with store:
        sys.stdout.buffer.write(pickle.dumps(function(store, *arguments), protocol=4))
