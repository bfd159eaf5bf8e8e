"""Manifests and tables of histories: read as written or refused; no part is silently ignored."""

from __future__ import annotations

import json
import math
import re
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st

from hostile.fuzzing import Law, explains, law
from hostile.odd_values import DATED, ODD_TEXT, PLAIN, TEXT, mutated, same
from revlens.errors import HistoryError, RevlensError
from revlens.experiment import ExperimentConfig, read_manifest
from revlens.history import Directory, read_table
from revlens.history.manifest import parse_table
from revlens.history.step_folders import by_step
from revlens.history.weight_files import INDEX, weight_files
from revlens.subject import UserHistory
from toml_text import toml_text

LAWS: list[Law] = []
PAGE = Path(__file__).parents[2] / "docs" / "own-models.md"
MANIFEST: dict[str, Any] = tomllib.loads(
    re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)[0]
)
#: Every key that the page's first example leaves out, so that mutations reach it too.
MANIFEST["experiment"] |= {"steps": [1, 2, 100], "n_null_draws": 500, "n_controls": 5}
MANIFEST["finetune"] |= {"lora": {"r": 4, "target_modules": ["q_proj"]}, "warmup_steps": 3, "decay": True}
MANIFEST["judge"] = {"kind": "guard", "path": "guard-model"}


def read(manifest: dict[str, Any]) -> ExperimentConfig:
    """The experiment of a manifest, stored and read back; the weights that it names are not looked for."""
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(UserHistory, "content_digest", lambda self: ""),
        patch.object(UserHistory, "reads_clock", False),
        patch.object(UserHistory, "check_context", lambda self, reply_tokens: None),
    ):
        path = Path(folder) / "run.toml"
        path.write_text(toml_text(manifest), encoding="utf-8")
        config = read_manifest(path)
        assert isinstance(config.subject, UserHistory)
        replace(config, subject=replace(config.subject, root="root")).save(Path(folder) / "config.json")
        return ExperimentConfig.load(Path(folder) / "config.json")


AS_IT_IS = read(MANIFEST)


def is_toml(value: Any) -> bool:
    """Whether TOML has a word for a value: it has none for None."""
    try:
        toml_text({"value": value})
    except TypeError:
        return False
    return True


@law(LAWS, 600, changed=mutated(MANIFEST, DATED.filter(is_toml)))
def a_changed_manifest_is_another_experiment_or_refused(changed: tuple[Any, tuple[Any, ...]]) -> None:
    manifest, _ = changed
    try:
        config = read(manifest)
    except RevlensError as error:
        explains(error)
        return
    # A changed file must change the experiment.
    assert (config == AS_IT_IS) == same_manifest(manifest)


#: Removing one of these leaves the manifest's meaning, by their defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "history": {"dtype": "float32"},
    "probes": {"seed": 0},
    "experiment": {
        "seeds": 5,
        "arms": ["baseline", "block", "push", "random"],
        "strength": 5.0,
        "batch_size": 16,
    },
    "task": {"prompt": "prompt", "answer": "answer", "max_overlap": 0.8, "drop_overlaps": False},
}


def same_manifest(manifest: dict[str, Any]) -> bool:
    """Whether a manifest means what `MANIFEST` does, defaults and lists of one pool written out or not."""

    def full(tables: dict[str, Any]) -> dict[str, Any]:
        filled = {name: dict(DEFAULTS.get(name, {})) | dict(table) for name, table in tables.items()}
        for kind in ("harmful", "harmless"):
            pools = filled["probes"].get(kind, [])
            listed = pools if isinstance(pools, list) else [pools]
            filled["probes"][kind] = [
                {"column": "text", "split": "train", "drop_empty": False} | pool for pool in listed
            ]
        filled["history"].pop("dtype")  # this default is stored only where the manifest writes it
        return filled

    return same(full(manifest), full(MANIFEST)) and manifest["history"] == MANIFEST["history"]


FRAGMENTS = st.sampled_from(
    ["a", "b", "=", " = ", ".", "\n", "[", "]", "[[", "]]", "{", "}", ",", '"', "'", '"""', "1", "1.5",
     "-", "true", "#",
     "2024-01-01", "nan", "inf", "0x1F", "1_000", "\t", "  ", "\\u0041", "é", "\x00", "%"]
)  # fmt: skip


@law(
    LAWS,
    1000,
    parts=st.lists(FRAGMENTS, max_size=14),
    suffix=st.sampled_from([".toml", ".toml", ".yaml", ".json", ""]),
)
def scraps_of_toml_are_a_table_or_refused(parts: list[str], suffix: str) -> None:
    text = "".join(parts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"run{suffix}"
        path.write_text(text, encoding="utf-8")
        try:
            table = read_table(path)
        except HistoryError as error:
            explains(error, str(path))
            assert suffix != ".toml" or not is_parsed(text)
            return
    assert suffix == ".toml"
    assert repr(table) == repr(tomllib.loads(text))  # NaN is not equal to itself


def is_parsed(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


STEP_KEYS = (
    st.integers(-2, 30) | st.sampled_from(["3", "03", "3.0", "1e3", "٣", "²", "", " 3", "9" * 30, "x"]) | TEXT
)


@law(
    LAWS,
    400,
    steps=st.dictionaries(STEP_KEYS, st.sampled_from(["ft-a", "ft-b", {"dir": "ft-c"}]), max_size=5),
)
def steps_are_numbered_by_their_keys(steps: dict[Any, Any]) -> None:
    numbers = [int(str(key)) for key in steps if re.fullmatch("[0-9]{1,18}", str(key))]
    allowed = len(numbers) == len(steps) == len(set(numbers))
    try:
        found = parse_table({"reference": "base", "aligned": "chat", "steps": steps}, Path("root"))[2]
    except HistoryError:
        assert not allowed
        return
    assert allowed
    folders = {key: entry if isinstance(entry, str) else entry["dir"] for key, entry in steps.items()}
    assert found == {int(str(key)): Directory(Path("root") / folder) for key, folder in folders.items()}


SOURCES = {
    "reference": {"dir": "base"},
    "aligned": {"hub": "org/chat", "revision": "v1"},
    "steps": {"3": "a"},
    "dtype": "float32",
    "chat_template": "aligned",
}


@law(LAWS, 600, changed=mutated(SOURCES, DATED))
def a_changed_table_of_sources_is_refused_or_names_sources(changed: tuple[Any, tuple[Any, ...]]) -> None:
    table, _ = changed
    try:
        reference, aligned, steps, _ = parse_table(table, Path("root"))
    except HistoryError as error:
        explains(error)
        return
    assert {*table} <= {"reference", "aligned", "steps", "dtype", "chat_template"}
    for entry, source in ((table["reference"], reference), (table["aligned"], aligned)):
        names = [entry] if isinstance(entry, str) else list(entry.values())
        assert any(
            str(name) in repr(source) or repr(str(name))[1:-1] in repr(source) or name in ("", ".")
            for name in names
        )
    assert len(steps) == len(table.get("steps", {}))


@law(
    LAWS,
    300,
    names=st.lists(
        st.from_regex(r"[a-z\-.]{0,4}[0-9]{0,3}", fullmatch=True).filter(lambda n: n not in ("", ".", "..")),
        max_size=5,
        unique=True,
    ),
)
def folders_are_numbered_by_the_end_of_their_names(names: list[str]) -> None:
    ends = [re.search("[0-9]+$", name) for name in names]
    numbers = [int(end.group()) for end in ends if end]
    allowed = len(numbers) == len(names) == len(set(numbers))
    try:
        found = by_step(Path("nowhere") / name for name in names)
    except HistoryError:
        assert not allowed
        return
    assert allowed
    assert list(found) == sorted(numbers)
    assert {number: path.name for number, path in found.items()} == dict(zip(numbers, names, strict=True))


SHARDS = st.sampled_from(["a.safetensors", "b.safetensors", "missing.safetensors"]) | ODD_TEXT | PLAIN


@law(
    LAWS,
    400,
    content=st.dictionaries(
        st.just("weight_map"), st.dictionaries(TEXT, SHARDS, max_size=4) | PLAIN, max_size=1
    )
    | PLAIN,
)
def an_index_lists_files_of_its_folder_or_is_refused(content: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shard in ("a.safetensors", "b.safetensors"):
            (folder / shard).touch()
        (folder / INDEX).write_text(json.dumps(content))
        try:
            files = weight_files(folder)
        except HistoryError as error:
            explains(error, INDEX)
            return
        assert set(files) == {folder / shard for shard in content["weight_map"].values()} != set()
        assert all(file.parent == folder and file.is_file() for file in files)
        assert not any(
            isinstance(shard, float) and math.isnan(shard) for shard in content["weight_map"].values()
        )
