"""The command ``salmon-state``, and ``python -m salmon_state``."""

import sys
from importlib.util import find_spec


def run() -> None:
    """Runs the command, or says what it needs."""
    for name in ("click", "rich"):  # of which the second is imported on a terminal only
        if find_spec(name) is None:
            sys.exit(f"salmon-state needs the package {name!r}: pip install click rich")
    from salmon_state.operate.cli import main

    main()


if __name__ == "__main__":
    run()
