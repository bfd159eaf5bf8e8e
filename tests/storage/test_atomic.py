from __future__ import annotations

from pathlib import Path

import pytest

from revlens.storage.atomic import atomic_directory, atomic_file, write_json


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.txt"
    with pytest.raises(RuntimeError, match="half"), atomic_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError("half")
    assert list(path.parent.iterdir()) == []
    with atomic_file(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_replacement_keeps_the_old_directory(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_directory(path) as partial:
        (partial / "old").touch()
    with pytest.raises(RuntimeError, match="half"), atomic_directory(path) as partial:
        (partial / "new").touch()
        raise RuntimeError("half")
    assert [p.name for p in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
