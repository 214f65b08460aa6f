"""The command ``salmon-state``, and ``python -m salmon_state``."""

import sys


def run() -> None:
    """Runs the command, or says what it needs."""
    try:
        from salmon_state.operate.cli import main

        main()
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"salmon-state needs the package {error.name!r}: pip install click rich")
    main()


if __name__ == "__main__":
    run()
