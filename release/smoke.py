"""Run by the Python of an environment that has the package and nothing else: does it work there?"""

from __future__ import annotations

import sys
from pathlib import Path

import salmon_state
from salmon_state import ConfigurationError, ShelveStorage, open_storage
from salmon_state.__main__ import run


def main() -> None:
    """Uses what needs nothing, and is told what the rest needs."""
    with open_storage("sqlite:///states.db") as store:
        store.set("app.handlers", "anna@example.com", "POSTING")
        _expect(store.get("app.handlers", "anna@example.com") == "POSTING", "a state is kept")
    ShelveStorage("shelf").close()
    drivers = {"postgresql": "psycopg[binary]", "mysql": "PyMySQL", "redis": "redis[hiredis]"}
    for scheme, driver in drivers.items():
        try:
            open_storage(f"{scheme}://localhost/0")
        except ConfigurationError as error:
            _expect(f"pip install '{driver}'" in str(error), str(error))
        else:
            _expect(False, f"{scheme}:// is refused without its driver")
    try:
        run()
    except SystemExit as error:
        _expect("pip install click rich" in str(error), str(error))
    installed = Path(salmon_state.__file__).parents[1]
    others = {path.name for path in installed.iterdir()}
    ours = {"config", "examples", "tests", "benchmarks", "release"}
    _expect(not ours & others, "nothing but the package is installed")
    sys.stdout.write(salmon_state.__version__)


def _expect(true: bool, what: str) -> None:
    if not true:
        sys.exit(f"expected: {what}")


if __name__ == "__main__":
    main()
