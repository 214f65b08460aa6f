"""No module imports another in a circle, those that only the type checker imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


def name_of(path: Path) -> str:
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """Yields what a module may import: of ``from a import b`` both a.b and a, where b is a name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{each.name}" for each in node.names)
            yield str(node.module)


def test_there_is_no_circle() -> None:
    files = [
        file for room in ("salmon_state", "config") for file in CHECKOUT.glob(f"{room}/**/*.py")
    ]
    modules = {name_of(file): file for file in files}
    arrows: dict[str, set[str]] = {}
    for name, file in modules.items():
        arrows[name] = set()
        for other in imported(file):
            # `from package import module` names the package, which is no arrow back to it.
            if other in modules and other != name and not name.startswith(f"{other}."):
                arrows[name].add(other)
    assert len(arrows) > 100
    TopologicalSorter(arrows).prepare()  # raises CycleError, which names them
