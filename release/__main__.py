"""``python -m release``: builds what is released, tries it, and writes the notes; tags nothing.

All is done in ``dist/``, which is made anew. What is still in the way of a tag is said at the end,
so that everything can be tried long before.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import salmon_state
from release.distributions import CHECKOUT, Failed, build, check_contents, run, try_installed
from release.notes import Section, section

DIST = CHECKOUT / "dist"


def main() -> int:
    """Returns the status to exit with: 1 if what was built must not be released."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    parser.add_argument(
        "--python", action="append", help="one to try it on, and no others; repeatable"
    )
    pythons = parser.parse_args().python or [f"python3.{minor}" for minor in _minors()]
    version = salmon_state.__version__
    try:
        notes = section((CHECKOUT / "CHANGELOG.md").read_text(), version)
        if notes is None:
            raise Failed(f"CHANGELOG.md says nothing about {version}")
        _make(pythons, version)
    except Failed as error:
        print(f"not fit to be released: {error}", file=sys.stderr)
        return 1
    (DIST / "notes.md").write_text(f"salmon-state {version}\n\n{notes.text}")
    in_the_way = list(_in_the_way(version, notes))
    for reason in in_the_way:
        print(f"not yet to be tagged: {reason}")
    if not in_the_way:
        print(f"to tag it: git tag -a v{version} --cleanup=verbatim -F dist/notes.md")
    return 0


def _make(pythons: list[str], version: str) -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as source:
        sdist, wheel = build(DIST, Path(source))
    check_contents(sdist, wheel)
    tried = 0
    for python in pythons:
        if not _starts(python):
            print(f"{python}: not here, not tried")
            continue
        for distribution in (wheel, sdist):
            with tempfile.TemporaryDirectory() as directory:
                found = try_installed(python, distribution, Path(directory))
            if found != version:
                raise Failed(f"{distribution.name} says that it is {found}")
            print(f"{python}: {distribution.name} works", flush=True)
        tried += 1
    if not tried:
        raise Failed(f"none of these Pythons is here: {', '.join(pythons)}")


def _minors() -> list[str]:
    classifiers = (CHECKOUT / "pyproject.toml").read_text()
    return re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', classifiers)


def _starts(python: str) -> bool:
    try:
        ended = subprocess.run([python, "--version"], capture_output=True, check=False)
    except OSError:
        return False
    return ended.returncode == 0


def _in_the_way(version: str, notes: Section) -> Iterator[str]:
    changes = run("git", "status", "--porcelain", cwd=CHECKOUT)
    if changes:
        yield "there are changes that are not committed"
    fragments = len([*CHECKOUT.glob("changes/*.*.md")])
    if fragments:
        yield f"make changelog has not joined {fragments} files of changes/"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", notes.released):
        yield f'"## {version} (YYYY-MM-DD)" must be a headline of CHANGELOG.md'
    if run("git", "tag", "--list", f"v{version}", cwd=CHECKOUT):
        yield f"there is a tag v{version}: a version is released once, give it a new number"


if __name__ == "__main__":
    sys.exit(main())
