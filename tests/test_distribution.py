"""What is published: a wheel with the package and nothing else, which runs the README where nothing is."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from test_docs import ROOT, snippets_of

pytestmark = pytest.mark.slow  # minutes: builds, and installs from the index


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {str(path.relative_to(source)) for path in files}
    assert {
        "revlens/py.typed",
        "revlens/__init__.pyi",
        "revlens/behaviour/outcome_judge.json",
        "revlens/figures/templates/report.html.j2",
        "revlens/organism/references/seed-0.safetensors",
    } <= names


def test_the_sdist_holds_what_builds_and_tests_it(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    assert {"src", "tests", "pyproject.toml", "README.md", "LICENSE"} <= tops
    assert not {".venv", ".git", "site", "revlens-out", "dist"} & tops


def test_the_wheel_runs_the_readme_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    # torch comes first and by its exact version, as in the Makefile.
    for what in ("torch==2.13.0", str(wheel)):
        constraints = str(ROOT / "constraints.txt")
        command = [str(python), "-m", "pip", "install", "--quiet", "--constraint", constraints, what]
        subprocess.run(command, check=True)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(snippets_of(ROOT / "README.md")), encoding="utf-8")
    done = subprocess.run(
        [str(python), str(script)], cwd=tmp_path, env={"PATH": ""}, check=True, capture_output=True, text=True
    )
    assert done.stdout.count("of the way back") == 9
    version = [str(python.with_name("revlens")), "--version"]
    assert subprocess.run(version, check=True, capture_output=True, text=True).stdout.startswith("revlens ")
