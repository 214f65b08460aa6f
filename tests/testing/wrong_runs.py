"""Runs the kit over wrong stores, in a pytest of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Set
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

__all__ = ["failures_in"]


def failures_in(module: ModuleType, directory: Path) -> Set[str]:
    """Returns the names of the cases of a module that failed.

    Args:
        module: The test classes, each a suite over a wrong store.
        directory: An empty one.
    """
    report = directory / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "--tb=no", f"--junitxml={report}"]
    options.append("--hypothesis-profile=find-only")
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(module.__file__)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=300,
        check=False,
    )
    return {
        case.attrib["classname"].rpartition(".")[2]
        for case in ElementTree.parse(report).iter("testcase")
        if case.find("failure") is not None  # and not an error in a fixture
    }
