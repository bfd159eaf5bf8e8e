"""What voids a cached checkpoint or an output folder, and what does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

import revlens
from revlens.subject import source_digest
from revlens.subject.cache import LEFT_OUT, Kind

SOURCE = Path(revlens.__file__).parent
KINDS: tuple[Kind, ...] = get_args(Kind)

Edit = Callable[[Path], None]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, Edit], set[str]]:
    """Edits one file of the package, and gives the kinds of digests that this changes.

    The package is here a folder with this file alone: a digest is taken file by file.
    """

    def change(name: str, edit: Edit) -> set[str]:
        before, after = tmp_path / "before", tmp_path / "after"
        for folder in (before, after):
            (folder / name).parent.mkdir(parents=True)
            if (SOURCE / name).is_file():
                shutil.copy(SOURCE / name, folder / name)
        edit(after / name)
        return {kind for kind in KINDS if source_digest(kind, before) != source_digest(kind, after)}

    return change


def append(text: str) -> Edit:
    def edit(path: Path) -> None:
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        path.write_text(before + text, encoding="utf-8")

    return edit


def replace(old: str, new: str) -> Edit:
    def edit(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


#: Stands for a change of a number.
NUMBER = append("\n_NUMBER = 1\n")


def test_each_kind_has_a_digest_of_its_own_and_a_copy_has_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "revlens"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert [source_digest(kind, copy) for kind in KINDS] == [source_digest(kind) for kind in KINDS]
    assert len({source_digest(kind) for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("training/loop.py", append("\n# A comment.\n")),
        ("training/loop.py", append('\n"""A string that does nothing."""\n')),
        ("training/loop.py", replace("\n\n\ndef ", "\n\n\n\ndef ")),
        ("direction/drift.py", replace('"""Row of a step.', '"""The row of a step.')),
        ("hooks/names.py", replace('"""', '"""Others. ')),
        ("behaviour/phrases/default.txt", append("\n# A comment.\n")),
        ("training/__init__.py", append("\nfrom revlens.training.loop import finetune as train\n")),
        ("cli/main.py", NUMBER),
        ("errors.py", NUMBER),
        ("figures/style.py", NUMBER),
        ("figures/templates/report.html.j2", append("<p>")),
        ("experiment/claims.py", NUMBER),
        ("experiment/causal_claims.py", NUMBER),
        ("storage/atomic.py", NUMBER),
        ("results/tables.py", NUMBER),
        ("sweeps/processes.py", NUMBER),
    ],
)
def test_prose_and_what_stores_or_shows_numbers_void_nothing(
    name: str, edit: Edit, changed: Callable[[str, Edit], set[str]]
) -> None:
    assert changed(name, edit) == set()


@pytest.mark.parametrize(
    "name",
    [
        "prompts.py",
        "data/leaks.py",
        "hooks/edits.py",
        "forward/passes.py",
        "history/wrap.py",
        "training/loop.py",
        "training/objectives/block.py",
        "subject/benign.py",
        "organism/world.py",
        "sweeps/worker.py",
        "a_new_room.py",
    ],
)
def test_what_trains_voids_everything(name: str, changed: Callable[[str, Edit], set[str]]) -> None:
    assert changed(name, NUMBER) == set(KINDS)


@pytest.mark.parametrize("name", ["activations/moments.py", "direction/locate.py", "experiment/guarded.py"])
def test_what_decides_a_guard_keeps_the_starts(name: str, changed: Callable[[str, Edit], set[str]]) -> None:
    assert changed(name, NUMBER) == {"output", "finetune"}


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("behaviour/generate.py", NUMBER),
        ("behaviour/phrases/default.txt", append("no can do\n")),
        ("causal/readout.py", NUMBER),
        ("statistics.py", NUMBER),
    ],
)
def test_what_looks_at_models_keeps_all_checkpoints(
    name: str, edit: Edit, changed: Callable[[str, Edit], set[str]]
) -> None:
    assert changed(name, edit) == {"output"}


def test_a_changed_number_is_a_change(changed: Callable[[str, Edit], set[str]]) -> None:
    assert changed("organism/world.py", replace("_PAIR_SHARE = 0.7", "_PAIR_SHARE = 0.8")) == set(KINDS)


def test_every_pattern_names_a_part_of_the_package() -> None:
    names = [path.relative_to(SOURCE) for path in SOURCE.rglob("*.py")]
    patterns = [pattern.removeprefix("!") for kind in LEFT_OUT.values() for pattern in kind]
    assert [p for p in patterns if not any(name.match(p) for name in names)] == []
