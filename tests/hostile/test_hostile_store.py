"""Damaged or malicious stores of activations: the refusal names the file."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hostile.payloads import BROKEN_SAFETENSORS, safetensors_bytes, tensor
from revlens.activations import Activations
from revlens.activations.manifest import Entry, Manifest
from revlens.errors import ResultsError
from stores import store_of, token_store_of

NAME = "aligned.drift.00000.safetensors"


def made(root: Path) -> Activations:
    numbers = torch.arange(2 * 4 * 3 * 5, dtype=torch.float32).reshape(2, 4, 3, 5)
    return store_of(
        root,
        {"reference": {"drift": numbers[0]}, "aligned": {"drift": numbers[1]}},
        (0, 1, 2),
        shard_prompts=3,
    )


def signed(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest and give it the checksum that its writer computes."""
    content = json.loads((root / "manifest.json").read_text())
    change(content)
    del content["sha256"]
    text = json.dumps(content, indent=1).removesuffix("\n}")
    (root / "manifest.json").write_text(
        f'{text},\n "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"\n}}\n'
    )


def put(root: Path, content: bytes, name: str = NAME, **shape: list[int]) -> None:
    """Replace a shard by a file, with a manifest entry that fits it."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["shards"][name][:2] = [len(content), hashlib.sha256(content).hexdigest()]
        if shape:
            manifest["shards"][name][2] = shape["shape"]

    signed(root, change)
    (root / name).write_bytes(content)


def read_all(root: Path) -> None:
    acts = Activations.open(root)
    for checkpoint in acts.checkpoints:
        for split in acts.splits:
            acts.at(checkpoint, split)


def flips(root: Path, n: int, seed: int) -> Iterator[tuple[Path, int, int]]:
    """Places in all files, and the bits to flip there."""
    paths, chance = sorted(path for path in root.iterdir() if path.is_file()), random.Random(seed)
    for i in range(n):
        path = paths[i % len(paths)]
        size = path.stat().st_size
        place = chance.randrange(
            min(size, 200) if i % 3 == 0 else size
        )  # headers are short: they get every third flip
        yield path, place, chance.randrange(1, 256)


def detected(root: Path, path: Path, place: int, bits: int) -> bool:
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= bits
    path.write_bytes(damaged)
    try:
        read_all(root)
    except ResultsError as error:
        return path.name in str(error)
    finally:
        path.write_bytes(whole)
    return False


def test_the_manifest_that_these_tests_change_is_one(tmp_path: Path) -> None:
    made(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    signed(tmp_path, lambda content: None)
    assert (tmp_path / "manifest.json").read_bytes() == before
    read_all(tmp_path)


def test_flipped_bytes_are_detected_and_named(tmp_path: Path) -> None:
    made(tmp_path)
    missed = [flip for flip in flips(tmp_path, 60, seed=0) if not detected(tmp_path, *flip)]
    assert missed == []
    line_end = (tmp_path / "manifest.json").read_bytes().index(b"\n")
    assert detected(
        tmp_path, tmp_path / "manifest.json", line_end, ord("\n") ^ ord("\r")
    )  # Python reads this as the same text


@pytest.mark.slow
def test_a_thousand_flipped_bytes_are_detected_and_named(tmp_path: Path) -> None:
    made(tmp_path / "rows")
    token_store_of(
        tmp_path / "tokens",
        {"aligned": {"drift": [torch.ones(n, 2, 4) for n in (2, 3, 4)]}},
        (0, 1),
        shard_prompts=2,
    )
    flipped = [
        (root, flip) for root in (tmp_path / "rows", tmp_path / "tokens") for flip in flips(root, 500, seed=1)
    ]
    missed = [flip for root, flip in flipped if not detected(root, *flip)]
    assert len(flipped) == 1000
    assert missed == []
    for root in (tmp_path / "rows", tmp_path / "tokens"):
        read_all(root)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "..", "", "aligned.drift.00000",
             "aligned.drift.0.safetensors", f"aligned.drift.{'0' * 5_000}.safetensors",
             "aligned.drift.00002.safetensors", "other.drift.00000.safetensors",
             "aligned.other.00000.safetensors", "aligned.drift.00000.safetensors\n",
             "a/../aligned.drift.00000.safetensors"],
)  # fmt: skip
def test_a_manifest_that_lists_other_files_is_refused(name: str, tmp_path: Path) -> None:
    made(tmp_path / "acts")
    shutil.copy(tmp_path / "acts" / NAME, tmp_path / "outside.safetensors")

    def change(content: dict[str, Any]) -> None:
        content["shards"] = dict(sorted({name: content["shards"][NAME]}.items()))

    signed(tmp_path / "acts", change)
    with pytest.raises(
        ResultsError, match=r"manifest\.json lists .*, which is no shard of its store; delete the folder"
    ):
        Activations.open(tmp_path / "acts")


@pytest.mark.parametrize("key", ["checkpoints", "splits"])
@pytest.mark.parametrize("name", ["../x", "/x", "..", "a/b", "", ".hidden", "a b", "a.b", "a\x00"])
def test_names_that_lead_out_of_the_folder_are_refused(key: str, name: str, tmp_path: Path) -> None:
    made(tmp_path)
    signed(tmp_path, lambda content: content[key].update({name: content[key].popitem()[1]}))
    with pytest.raises(
        ResultsError, match=rf"manifest\.json holds .* as '{key}', which is not what a manifest"
    ):
        Activations.open(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", "012"), ("layers", [0, 1.5]), ("layers", []), ("layers", [-1]), ("layers", [True]),
        ("layers", None), ("dtype", "float16"), ("dtype", "pickle"), ("dtype", ["float32"]),
        ("positions", "first"), ("positions", {}), ("shard_prompts", 0), ("shard_prompts", "3"),
        ("shard_prompts", True), ("splits", []), ("splits", {"drift": -1}), ("splits", {"drift": 4.0}),
        ("shards", []), ("shards", {NAME: {}}), ("shards", {NAME: [1, "x", [3, 3, 5]]}),
        ("shards", {NAME: [1, "0" * 64, [3, 3, "5"]]}), ("component", 3), ("computed", None),
        ("weights", [1]), ("probes", {"drift": 3}), ("extra", 1),
    ],
    ids=str,
)  # fmt: skip
def test_a_manifest_with_other_kinds_of_values_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    made(tmp_path)
    signed(tmp_path, lambda content: content.update({key: value}))
    with pytest.raises(
        ResultsError, match=rf"manifest\.json holds .* as '{key}'.*delete the folder and run capture again"
    ):
        Activations.open(tmp_path)


def test_more_shards_than_a_manifest_can_list_are_refused_at_once(tmp_path: Path) -> None:
    made(tmp_path)
    signed(tmp_path, lambda content: content["splits"].update(drift=10**18))
    with pytest.raises(ResultsError, match=r"more than 1000000 shards"):
        Activations.open(tmp_path)


@pytest.mark.parametrize("shape", [[2, 3, 5], [3, 2, 5], [3, 4, 5], [2**40, 2**40, 2**40]])
def test_shapes_that_do_not_fit_layers_and_prompts_are_refused(shape: list[int], tmp_path: Path) -> None:
    made(tmp_path)
    put(tmp_path, (tmp_path / NAME).read_bytes(), shape=shape)
    with pytest.raises(
        ResultsError, match=rf"gives {NAME} the shape .*; 3 layers and 3 prompts were expected"
    ):
        Activations.open(tmp_path)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"3", b"null", b"\x00", b"\xff\xfe", b'{"a": 1, "a": 2}', b'{"a":' * 5_000, b"{}"],
)
def test_a_manifest_that_is_none_is_refused(text: bytes, tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(ResultsError, match=r"manifest\.json .*delete the folder and run capture again"):
        Activations.open(tmp_path)


def test_a_store_of_the_first_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(
        json.dumps({"checkpoints": ["reference", "aligned"], "layers": [0], "splits": {"drift": 4}})
    )
    with pytest.raises(
        ResultsError,
        match=r"this version of revlens reads 'revlens activations, version 3' only; delete the folder",
    ):
        Activations.open(tmp_path)


@pytest.mark.parametrize("fault", BROKEN_SAFETENSORS)
def test_broken_safetensors_with_a_fitting_checksum_are_refused(fault: str, tmp_path: Path) -> None:
    made(tmp_path)
    put(tmp_path, BROKEN_SAFETENSORS[fault])
    with pytest.raises(
        ResultsError, match=rf"{NAME} is no shard of activations .*delete it and run capture again"
    ):
        Activations.open(tmp_path).at("aligned", "drift")


@pytest.mark.parametrize(
    "content",
    [
        safetensors_bytes({"activations": tensor([3, 3, 4], 0, 144)}, bytes(144)),
        safetensors_bytes({"activations": tensor([45], 0, 180)}, bytes(180)),
        safetensors_bytes({"activations": tensor([3, 3, 5], 0, 180, "I32")}, bytes(180)),
        safetensors_bytes({"activations": tensor([3, 3, 5], 0, 90, "BF16")}, bytes(90)),
        safetensors_bytes({"other": tensor([3, 3, 5], 0, 180)}, bytes(180)),
    ],
)
def test_shards_of_another_shape_or_dtype_are_refused(content: bytes, tmp_path: Path) -> None:
    made(tmp_path)
    put(tmp_path, content)
    with pytest.raises(ResultsError, match=NAME):
        Activations.open(tmp_path).at("aligned", "drift")


@pytest.mark.parametrize(
    "offsets", [[0, 2, 9], [1, 2, 5], [0, 5, 5], [0, -1, 5], [0, 2, 4], [0, 5], [0, 1, 2, 5]]
)
def test_offsets_that_do_not_divide_the_rows_are_refused(offsets: list[int], tmp_path: Path) -> None:
    token_store_of(tmp_path, {"aligned": {"drift": [torch.ones(n, 1, 1) for n in (2, 3)]}}, (0,))
    rows, packed = 5 * 4, b"".join(n.to_bytes(8, "little", signed=True) for n in offsets)
    header = {
        "offsets": tensor([len(offsets)], 0, len(packed), "I64"),
        "activations": tensor([1, 5, 1], len(packed), len(packed) + rows),
    }
    put(tmp_path, safetensors_bytes(header, packed + bytes(rows)))
    with pytest.raises(ResultsError, match=rf"{NAME} has offsets"):
        Activations.open(tmp_path).at("aligned", "drift")


@pytest.mark.parametrize("name", [NAME, "manifest.json"])
def test_a_link_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    made(tmp_path / "acts")
    shutil.move(tmp_path / "acts" / name, tmp_path / name)
    os.symlink(tmp_path / name, tmp_path / "acts" / name)
    with pytest.raises(ResultsError, match=rf"{name} is a link to .*, outside its folder"):
        Activations.open(tmp_path / "acts").at("aligned", "drift")


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    whole = made(tmp_path / "acts").at("aligned", "drift")
    os.symlink(tmp_path / "acts", tmp_path / "latest")
    assert torch.equal(Activations.open(tmp_path / "latest").at("aligned", "drift"), whole)


@pytest.mark.parametrize("name", [NAME, "manifest.json"])
@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, lambda path: os.symlink(path.name, path)],
    ids=["pipe", "folder", "circle"],
)
def test_what_is_no_regular_file_does_not_block(
    make: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    made(tmp_path)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    with pytest.raises(ResultsError):
        Activations.open(tmp_path).at("aligned", "drift")


def test_shards_that_changed_places_are_detected(tmp_path: Path) -> None:
    made(tmp_path)
    content = (tmp_path / NAME).read_bytes()
    (tmp_path / "reference.drift.00000.safetensors").write_bytes(content)
    with pytest.raises(ResultsError, match=r"reference\.drift\.00000\.safetensors is not what was written"):
        Activations.open(tmp_path).at("reference", "drift")


def test_a_cut_off_file_is_named_with_both_sizes(tmp_path: Path) -> None:
    made(tmp_path)
    entry: Entry = Manifest.read(tmp_path).shards[NAME]
    for size in (0, 1, entry.n_bytes // 2, entry.n_bytes - 1):
        os.truncate(tmp_path / NAME, size)
        with pytest.raises(
            ResultsError, match=rf"{NAME} has {size} bytes and was written with {entry.n_bytes}"
        ):
            Activations.open(tmp_path).at("aligned", "drift")
