"""Checkpoint folders that hold code, link elsewhere or are broken: the refusal names the file."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hostile.payloads import BROKEN_SAFETENSORS, pickle_that_runs
from revlens.activations import capture
from revlens.direction import locate
from revlens.errors import HistoryError, NonFiniteError
from revlens.history import Directory, TrainingHistory, boot
from revlens.history.hub import Hub
from revlens.prompts import Probes


@pytest.fixture
def folder(history: TrainingHistory, tmp_path: Path) -> Path:
    """A whole checkpoint for tests to spoil; without the seal that revlens writes."""
    shutil.copytree(history.aligned.path, tmp_path / "model", ignore=shutil.ignore_patterns("revlens.sha256"))
    return tmp_path / "model"


def change(path: Path, **settings: Any) -> None:
    """Other settings in a JSON file; None removes one."""
    changed = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


def test_the_payload_of_these_tests_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle_that_runs(tmp_path / "file", tmp_path / "ran").read_bytes())  # noqa: S301
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "weights.pt", "consolidated.00.pth"])
def test_pickled_weights_are_named_and_not_read(name: str, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    pickle_that_runs(folder / name, tmp_path / "ran")
    with pytest.raises(
        HistoryError,
        match=rf"only {name}; revlens does not read pickled weights.*re-save them as safetensors",
    ):
        boot(folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_files_beside_safetensors_are_never_read(
    folder: Path, tmp_path: Path, history: TrainingHistory
) -> None:
    for name in (
        "pytorch_model.bin",
        "adapter_model.bin",
        "training_args.bin",
        "optimizer.pt",
        "rng_state.pth",
    ):
        pickle_that_runs(folder / name, tmp_path / "ran")
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "pytorch_model.bin"}})
    )
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(boot(folder)(tokens), history.aligned.load()(tokens))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("named", ["adapter_model.bin", "other.safetensors", "../other.safetensors"])
def test_a_configuration_that_names_other_weights_is_refused(
    named: str, folder: Path, tmp_path: Path
) -> None:
    """transformers reads these in place of model.safetensors, one of them with torch.load."""
    pickle_that_runs(folder / "adapter_model.bin", tmp_path / "ran")
    change(folder / "config.json", transformers_weights=named)
    with pytest.raises(HistoryError, match=r"config\.json names weights of its own \(transformers_weights\)"):
        boot(folder)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_that_brings_its_own_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "mine.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Mine: pass\n")
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="Mine",
        auto_map={"AutoTokenizer": ["mine.Mine", "mine.Mine"]},
    )
    with suppress(HistoryError):  # transformers may fall back on tokenizer.json
        Directory(folder).tokenizer()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "shard", ["../other.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", ".", 3, None, ["a"]]
)
def test_an_index_that_leads_out_of_its_folder_is_refused(shard: Any, folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "other.safetensors")
    (folder / "model.safetensors").unlink()
    names = load_file(folder.parent / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, shard)})
    )
    with pytest.raises(HistoryError, match=r"model\.safetensors\.index\.json"):
        boot(folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": 3}', "\x00"],
)
def test_an_index_that_is_none_is_refused(text: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(HistoryError, match=r"model\.safetensors\.index\.json .*save the checkpoint again"):
        boot(folder)


@pytest.mark.parametrize("fault", BROKEN_SAFETENSORS)
def test_broken_safetensors_are_named(fault: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(BROKEN_SAFETENSORS[fault])
    with pytest.raises(
        HistoryError, match=r"model\.safetensors is no whole safetensors file .*copy or save it again"
    ):
        boot(folder)


def test_a_copy_that_was_cut_off_is_named(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for length in (len(whole) - 1, len(whole) // 2, 100):
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(HistoryError, match=r"model\.safetensors is no whole safetensors file"):
            boot(folder)


def test_weights_that_lack_a_tensor_are_not_filled_up_with_random_numbers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in sorted(tensors) if "layers.1" in name)
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(HistoryError, match=f"lack 1 of the model's tensors, the first of them {lost}"):
        boot(folder)


def test_weights_of_other_shapes_are_refused(folder: Path) -> None:
    tensors = {
        name: value.flatten()[:4].clone() for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(HistoryError, match="cannot be loaded"):
        boot(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '"llama"',
        "\x00",
        '{"a": 1, "a": 2}',
        '{"a":' * 5_000,
        '{"text_config": 3}',
        '{"a": "\\ud800"}',
    ],
)
def test_a_config_that_is_no_table_is_refused(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(HistoryError, match=r"config\.json"):
        TrainingHistory.from_dirs(folder, folder)


@pytest.mark.parametrize("content", [b"\xff\xfe{}", "{}".encode("utf-16"), b"\x80\x04N."])
def test_a_config_that_is_no_text_is_refused(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(HistoryError, match=r"no config\.json that can be read"):
        Directory(folder).config()


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "no-such-model"},
        {"model_type": None},
        {"model_type": 3},
        {"architectures": ["NoSuchModel"], "model_type": "nothing"},
        {"hidden_size": -16},
        {"hidden_size": 0},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 7},
        {"num_hidden_layers": 10**9},
        {"vocab_size": -1},
        {"intermediate_size": 2**40},
        {"rope_theta": "x", "rope_parameters": 3},
        {"hidden_act": "os.system"},
    ],
    ids=str,
)
def test_a_config_that_makes_no_model_is_refused(settings: dict[str, Any], folder: Path) -> None:
    change(folder / "config.json", **settings)
    with pytest.raises(HistoryError, match=r"model"):
        boot(folder)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"],
)
def test_a_link_out_of_the_folder_is_refused(name: str, folder: Path, history: TrainingHistory) -> None:
    elsewhere = folder.parent / "elsewhere"
    shutil.copytree(history.aligned.path, elsewhere)
    if not (elsewhere / name).is_file():
        (elsewhere / name).write_text("{{ messages }}")
    (folder / name).unlink(missing_ok=True)
    os.symlink(elsewhere / name, folder / name)
    with pytest.raises(HistoryError, match=rf"{name} is a link to .*elsewhere/{name}, outside its folder"):
        boot(folder)
    with pytest.raises(HistoryError, match="outside its folder"):
        TrainingHistory.from_dirs(folder, folder)


def test_links_within_the_folder_and_to_the_folder_are_followed(
    folder: Path, history: TrainingHistory
) -> None:
    (folder / "model.safetensors").rename(folder / "weights-of-june.safetensors")
    os.symlink("weights-of-june.safetensors", folder / "model.safetensors")
    os.symlink(folder, folder.parent / "latest")
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(boot(folder.parent / "latest")(tokens), history.aligned.load()(tokens))


def test_links_of_the_hugging_face_cache_are_followed(folder: Path, history: TrainingHistory) -> None:
    """There a snapshot's files link into the blobs of the repository, and nowhere else."""
    repo = folder.parent / "models--org--model"
    snapshot, blobs = repo / "snapshots" / "0123abc", repo / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        file.rename(blobs / f"hash-of-{file.name}")
        os.symlink(f"../../blobs/hash-of-{file.name}", snapshot / file.name)
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.equal(boot(snapshot)(tokens), history.aligned.load()(tokens))
    (snapshot / "config.json").unlink()
    os.symlink(history.aligned.path / "config.json", snapshot / "config.json")
    with pytest.raises(HistoryError, match="outside its folder"):
        boot(snapshot)


def test_a_link_in_a_circle_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.symlink("tokenizer.json", folder / "tokenizer.json")
    with pytest.raises(HistoryError, match="tokenizer"):
        boot(folder)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


@pytest.mark.parametrize("make", [_pipe, _sparse, Path.mkdir], ids=["pipe", "sparse file of 10 GB", "folder"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_regular_file_neither_blocks_nor_fills_memory(
    make: Callable[[Path], None], name: str, folder: Path
) -> None:
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(HistoryError, match=rf"{name}"):
        boot(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": "1.0"}', '{"model": {"type": "BPE"}}', "\x00", '{"a":' * 5_000]
)
def test_a_tokenizer_that_is_none_is_refused(text: str, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(HistoryError, match="The tokenizer in .* cannot be loaded"):
        Directory(folder).tokenizer()


@pytest.mark.parametrize("text", ["{", "[]", "3", "\x00"])
def test_settings_of_a_tokenizer_that_are_no_table_are_refused(text: str, folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(text)
    with pytest.raises(HistoryError, match="chat template|tokenizer_config"):
        Directory(folder).chat_template()


def test_weights_that_hold_nan_give_no_direction(
    folder: Path, history: TrainingHistory, probes: Probes, tmp_path: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = {
        name: torch.full_like(value, torch.nan) if "mlp" in name else value for name, value in tensors.items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    broken = TrainingHistory.from_dirs(folder, history.aligned.path)
    with pytest.raises(NonFiniteError):
        locate(capture(broken, probes, tmp_path / "acts"))


@pytest.mark.parametrize("revision", ["../../../x", "refs/../../x", "/etc/passwd", ".."])
def test_a_revision_is_no_path(revision: str) -> None:
    with pytest.raises(HistoryError, match="is no branch, tag or commit"):
        Hub("org/model", revision)
