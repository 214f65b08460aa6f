"""Conversations in a shelf, whose senders are locked in a file beside it."""

from __future__ import annotations

import os
from pathlib import Path

from salmon_state import open_storage


def test_no_file_is_left_behind_for_each_sender(tmp_path: Path) -> None:
    with open_storage(f"shelve:///{tmp_path}/states") as store:
        files = []
        for number in range(30):
            with store.conversation(f"{number}@example.com"):
                store.set("app", f"{number}@example.com", "POSTING")
            files.append(len(os.listdir(tmp_path)))
    assert files[-1] == files[0]
