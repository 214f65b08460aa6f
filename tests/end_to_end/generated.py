"""An application as ``salmon gen`` makes it, with the lines that README asks for."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.documentation import blocks
from tests.end_to_end.mail_server import SALMON, MailServer


class GeneratedServer(MailServer):
    """Generates an application in a directory and runs it by ``salmon start``.

    Args:
        directory: Where its own directory will be.
        state_url: Where it keeps its states.
    """

    def __init__(self, directory: Path, state_url: str) -> None:
        application = directory / "application"
        subprocess.run([SALMON, "gen", application], check=True, capture_output=True, timeout=60)
        super().__init__(application, how="foreground", receiver="lmtp")
        settings, boot = application / "config/settings.py", application / "config/boot.py"
        text = settings.read_text()
        settings.write_text(text.replace("'port': 8823", f"'port': {self.port}"))
        # The import at the top, as whoever edits the file would write it: before fileConfig.
        example = blocks("README.md")[0].replace("sqlite:///run/states.db", state_url)
        lines = example.strip().split("\n\n")
        boot.write_text("\n".join([lines[0], boot.read_text(), lines[1], ""]))

    def _link_application(self) -> None:
        """Links nothing: the application is its own."""
