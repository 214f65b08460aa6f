"""What the benchmark tells its servers."""

from __future__ import annotations

import os
from typing import Any

state_url = os.environ["BENCH_STATE_URL"]
"""``salmon:`` and ``orm:<url>`` are the stores that ours are compared with."""
attached = os.environ["BENCH_ATTACHED"] == "yes"
port = int(os.environ["BENCH_PORT"])

receiver: Any = None
