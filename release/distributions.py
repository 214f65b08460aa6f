"""The wheel and the sdist: built of what git knows, looked into, used in empty environments."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Failed", "build", "check_contents", "run", "try_installed"]

CHECKOUT = Path(__file__).parents[1]
EXTRAS = "postgresql,mysql,redis,receivers,cli,testing"


class Failed(Exception):
    """What is to be released is not as it should be."""


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Runs a command and returns what it wrote.

    Raises:
        Failed: Its status was not 0.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: {done.stdout[-3000:]}")
    return done.stdout


def build(directory: Path, source: Path, *options: str) -> tuple[Path, Path]:
    """Builds a sdist of the files of this checkout, and a wheel from that sdist.

    Args:
        directory: Where they shall be.
        source: An empty directory for the files that git knows or would add: what else lies in the
            checkout must not get in.
        *options: More of ``python -m build``.

    Returns:
        The sdist and the wheel.
    """
    for name in _tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((CHECKOUT / name).read_bytes())
    run(sys.executable, "-m", "build", *options, "--outdir", directory, ".", cwd=source)
    (sdist,) = directory.glob("*.tar.gz")
    (wheel,) = directory.glob("*.whl")
    return sdist, wheel


def _tracked() -> list[str]:
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=CHECKOUT).splitlines()
    return [name for name in listed if (CHECKOUT / name).is_file()]


def check_contents(sdist: Path, wheel: Path) -> None:
    """Looks whether all of the package is in both, and nothing else is in the wheel.

    Raises:
        Failed: Something is missing, or there is too much.
    """
    package = {name for name in _tracked() if name.startswith("salmon_state/")}
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if ".dist-info/" not in name}
    if packed != package:
        raise Failed(f"{wheel.name} and git differ by {sorted(packed ^ package)}")
    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    missing = {*package, "LICENSE", "README.md", "pyproject.toml"} - members
    if missing:
        raise Failed(f"{sdist.name} has no {sorted(missing)}")


def try_installed(
    python: str,
    distribution: Path,
    directory: Path,
    *,
    extras: bool = True,
    env: Mapping[str, str] | None = None,
) -> str:
    """Installs a distribution into an empty environment and uses it there.

    Args:
        python: The interpreter to make the environment of.
        distribution: A wheel or a sdist.
        directory: An empty one, for the environment and what is tried.
        extras: Whether all extras are installed too, after it was tried without.
        env: The environment variables to install with.

    Returns:
        The version that it says it has.

    Raises:
        Failed: Something does not work.
    """
    place, elsewhere = directory / "venv", directory / "elsewhere"
    elsewhere.mkdir()
    run(python, "-m", "venv", "--without-pip", place, cwd=directory)
    installed = place / "bin" / "python"
    # This environment's pip: to install another takes longer than all the rest.
    pip = (sys.executable, "-m", "pip", "--python", installed)
    run(*pip, "install", "--quiet", "--no-compile", distribution, cwd=directory, env=env)
    smoke = Path(__file__).with_name("smoke.py")
    version = run(installed, "-I", smoke, cwd=elsewhere)
    if extras:
        wanted = f"{distribution}[{EXTRAS}]"
        run(*pip, "install", "--quiet", "--no-compile", wanted, cwd=directory, env=env)
        drivers = "import aiosmtpd, psycopg, pymysql, pytest, redis"
        run(installed, "-I", "-c", drivers, cwd=elsewhere)
        command = installed.with_name("salmon-state")
        run(command, "--store", "sqlite:///states.db", "doctor", cwd=elsewhere)
    return version
