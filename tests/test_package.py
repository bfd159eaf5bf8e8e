"""Laws of the package itself: what imports what, how light it is, and that its public names are there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import revlens

ROOT = Path(revlens.__file__).parent
#: A module may import from rooms before its own, never from later ones.
ORDER = [
    "errors", "atomic", "locks", "small_files", "checksums", "statistics", "sweeps", "prompts", "data", "hooks", "history", "activations",
    "direction", "trajectory", "behaviour", "causal", "training", "runs", "organism", "experiment", "study", "figures", "cli",
]  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    if path == ROOT / "__init__.py":
        return
    own = ORDER.index(room_of(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("revlens."):
            target = (node.module or "").split(".")[1]
            assert ORDER.index(target) <= own, f"{path.name} imports {node.module}"


def test_importing_revlens_does_not_import_torch() -> None:
    code = "import sys, revlens; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_load() -> None:
    for name in dir(revlens):
        assert getattr(revlens, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'captrue'"):
        _ = revlens.captrue


def test_nothing_is_unpickled() -> None:
    for path in ROOT.rglob("*.py"):
        source = path.read_text()
        assert "pickle" not in source.replace("unpickle", "").replace("pickled", "").replace("picklable", ""), path
        assert "torch.load(" not in source, path
        assert not re.search(r"trust_remote_code(?!=False|\": False)", source), path
