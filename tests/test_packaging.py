"""The distributions: what a user gets from the wheel and from the sdist."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

import salmon_state
from release import __main__ as release
from release.distributions import CHECKOUT, Failed, build, check_contents, run, try_installed
from release.notes import Section, section
from tests.services import ENVIRONMENT


def test_the_version_stands_in_one_place() -> None:
    assert importlib.metadata.version("salmon-state") == salmon_state.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", salmon_state.__version__)
    text = (CHECKOUT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", text, re.MULTILINE)
    assert newest is not None
    assert newest[1] == salmon_state.__version__


def test_what_errors_advise_to_install_is_what_the_extras_are() -> None:
    """Not an extra of ours: an error does not know where ours was installed from."""
    extras = importlib.metadata.requires("salmon-state") or []
    smoke = (CHECKOUT / "release" / "smoke.py").read_text()
    drivers = re.findall(r'"([\w\[\]]+)"[,}]', smoke.partition("drivers = ")[2].partition("\n")[0])
    assert len(drivers) == 3
    for package in (*drivers, "aiosmtpd", "click", "rich", "pytest", "hypothesis"):
        assert any(extra.startswith(package) for extra in extras), package


def test_what_is_said_of_a_version() -> None:
    text = "# Changelog\n\n## 1.2.0 (unreleased)\n\n- new\n\n## 1.1.0 (2026-01-31)\n\n- old\n"
    assert section(text, "1.2.0") == Section("unreleased", "- new\n")
    assert section(text, "1.1.0") == Section("2026-01-31", "- old\n")
    assert section(text, "1x1.0") is None
    assert section("## 1.1.0\n- a\n", "1.1.0") == Section("", "- a\n")


def test_a_version_that_nobody_has_written_about(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not built and tried on each Python, which takes minutes, before that is said."""
    monkeypatch.setattr(salmon_state, "__version__", "9.9.9")
    monkeypatch.setattr(release, "build", None)
    monkeypatch.setattr(sys, "argv", ["release"])
    assert release.main() == 1
    assert "CHANGELOG.md says nothing about 9.9.9" in capsys.readouterr().err


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist of this checkout, and the wheel made from that sdist."""
    source, found = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    sdist, wheel = build(found, source, "--no-isolation")
    check_contents(sdist, wheel)
    return {"sdist": sdist, "wheel": wheel}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("sdist", marks=pytest.mark.stress), "wheel"])
def test_installs_into_an_empty_environment(
    distributions: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    version = try_installed(
        sys.executable, distributions[kind], tmp_path, extras=False, env=ENVIRONMENT
    )
    assert version == salmon_state.__version__
    python = tmp_path / "venv" / "bin" / "python"
    (typed,) = (tmp_path / "venv").glob("lib/python*/site-packages/salmon_state/py.typed")
    assert typed.is_file()
    licence = (
        "import importlib.metadata as m; print(m.metadata('salmon-state')['License-Expression'])"
    )
    assert run(python, "-c", licence, cwd=tmp_path).strip() == "GPL-3.0-or-later"


@pytest.mark.slow
def test_a_wheel_that_lacks_something_is_not_fit(
    distributions: dict[str, Path], tmp_path: Path
) -> None:
    empty = tmp_path / "empty.whl"
    empty.write_bytes(b"PK\5\6" + bytes(18))
    with pytest.raises(Failed, match=r"empty\.whl and git differ by .*salmon_state/__init__\.py"):
        check_contents(distributions["sdist"], empty)
