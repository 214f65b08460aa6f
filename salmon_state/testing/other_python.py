"""What another Python does with stores for `VersionSuite`; needs neither pytest nor Hypothesis."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["CANNOT_IMPORT", "main"]

CANNOT_IMPORT = "cannot import the store:"


def main() -> None:
    """Does one thing with a store after the other; see `salmon_state.testing.versions`."""
    pipe = Connection(int(sys.argv[1]))
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(pickle.dumps(_answer(request), protocol=4))


def _answer(request: bytes) -> tuple[str, Any]:
    """Returns what a function returned and no error; or why it did not."""
    try:
        directory, open_store, function, arguments = pickle.loads(request)  # noqa: S301 - as below
        os.chdir(directory)
        store = open_store()
    except Exception as error:  # noqa: BLE001 - the test says it
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, ImportError) or any(frame.name == "<module>" for frame in frames):
            return f"{CANNOT_IMPORT} {type(error).__name__}: {error}", None
        return traceback.format_exc(), None
    try:
        with store:
            return "", function(store, *arguments)
    except Exception:  # noqa: BLE001 - the test says it
        return traceback.format_exc(), None
