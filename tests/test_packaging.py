"""The distributions: what a user gets from the wheel and from the sdist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import ENVIRONMENT

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).parents[1]

SMOKE = """\
import salmon_state
from salmon_state import ShelveStorage, open_storage
with open_storage("sqlite:///states.db") as store:
    store.set("app.handlers", "anna@example.com", "POSTING")
    assert store.get("app.handlers", "anna@example.com") == "POSTING"
ShelveStorage("shelf").close()
try:
    open_storage("postgresql+psycopg://localhost/states")
except salmon_state.ConfigurationError as error:
    assert "salmon-state[postgresql]" in str(error), error
try:
    import salmon_state.__main__
    salmon_state.__main__.run()
except SystemExit as error:
    assert "salmon-state[cli]" in str(error), error
assert not {"config", "examples", "tests", "benchmarks"} & {
    path.name for path in __import__("pathlib").Path(salmon_state.__file__).parents[1].iterdir()
}
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist of this checkout, and the wheel made from that sdist."""
    source = tmp_path_factory.mktemp("source")
    found = tmp_path_factory.mktemp("dist")
    tracked = run("git", "ls-files", "-co", "--exclude-standard", cwd=CHECKOUT).splitlines()
    for name in tracked:
        if (CHECKOUT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((CHECKOUT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", found, ".", cwd=source)
    (sdist,) = found.glob("*.tar.gz")
    (wheel,) = found.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


@pytest.mark.parametrize("kind", [pytest.param("sdist", marks=pytest.mark.stress), "wheel"])
def test_installs_into_an_empty_environment(
    distributions: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    pip = (sys.executable, "-m", "pip", "--python", python)  # installing pip takes longest of all
    run(*pip, "install", "--quiet", "--no-compile", distributions[kind], cwd=tmp_path)
    (tmp_path / "elsewhere").mkdir()
    run(python, "-c", SMOKE, cwd=tmp_path / "elsewhere")
    listed = run(*pip, "show", "--files", "salmon-state", cwd=tmp_path)
    assert "salmon_state/py.typed" in listed
    licence = (
        "import importlib.metadata as m; print(m.metadata('salmon-state')['License-Expression'])"
    )
    assert run(python, "-c", licence, cwd=tmp_path).strip() == "GPL-3.0-or-later"
