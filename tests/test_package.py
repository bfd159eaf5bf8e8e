"""Laws of the package itself: what imports what, how light it is, and that its public names are there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import revlens

ROOT = Path(revlens.__file__).parent
#: A module may import from rooms before its own, never from later ones.
ORDER = [
    "errors", "statistics", "storage", "sweeps", "chat_templates", "prompts", "data", "families", "context",
    "hooks", "forward", "history", "activations", "direction", "behaviour", "causal", "training", "screening",
    "subject", "organism", "results", "experiment", "figures", "audit", "cli",
]  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Modules of revlens that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "revlens":
            assert node.level == 0, path
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "revlens")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way_and_go_through_the_doors(path: Path) -> None:
    if path == ROOT / "__init__.py":
        return
    own = room_of(path)
    for module in imported(path):
        room = [*module.split("."), own][1]  # `import revlens` itself is of its own room
        assert ORDER.index(room) <= ORDER.index(own), f"{path.name} imports {module}"
        assert room == own or len(module.split(".")) == 2, f"{path.name} climbs in past the door: {module}"


def test_importing_revlens_does_not_import_torch() -> None:
    code = "import sys, revlens; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_load() -> None:
    for name in dir(revlens):
        assert getattr(revlens, name) is not None
    with pytest.raises(AttributeError, match="captrue"):
        _ = revlens.captrue  # type: ignore[attr-defined]


def test_nothing_is_unpickled() -> None:
    for path in ROOT.rglob("*.py"):
        source = path.read_text()
        assert "pickle" not in source.replace("unpickle", "").replace("pickled", "").replace(
            "picklable", ""
        ), path
        assert "torch.load(" not in source, path
        assert not re.search(r"trust_remote_code(?!=False|\": False)", source), path
