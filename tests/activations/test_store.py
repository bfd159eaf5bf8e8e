"""The store reads what was written, by layer, prompt and position; a stop leaves shards whole or absent."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from revlens.activations import Activations, Sites, capture, read_prompts
from revlens.activations import writer as writer_module
from revlens.activations.manifest import Manifest, Shard
from revlens.activations.shard_file import write_shard
from revlens.activations.tokens import read_tokens
from revlens.activations.writer import WAITING, store_writer
from revlens.direction import locate
from revlens.errors import ConfigError, HistoryError, ProbeError, ResultsError, SiteError, StorageError
from revlens.forward.passes import Passes
from revlens.history import TrainingHistory
from revlens.prompts import Probes, encode_prompts
from stores import Given, fill, manifest_of, store_of, token_store_of, write

LAYERS = (1, 4, 6)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(
    names: tuple[str, ...] = ("reference", "aligned", "step-2"), n: tuple[int, int] = (7, 5)
) -> dict[str, dict[str, Tensor]]:
    return {
        name: {
            split: numbers(size, 3, 4, seed=10 * i + j)
            for j, (split, size) in enumerate(zip(("direction", "drift"), n, strict=True))
        }
        for i, name in enumerate(names)
    }


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


@pytest.mark.parametrize("shard_prompts", [1, 3, 7, 512])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_selection_is_that_of_the_whole(dtype: str, shard_prompts: int, tmp_path: Path) -> None:
    values = given()
    acts = store_of(tmp_path, values, LAYERS, dtype=dtype, shard_prompts=shard_prompts)
    whole = values["step-2"]["direction"].to(getattr(torch, dtype)).double()
    assert torch.equal(acts.at("step-2", "direction"), whole)
    assert torch.equal(torch.cat(list(acts.pieces("step-2", "direction"))), whole)
    for layers in ((4,), (6, 1), None):
        places = [LAYERS.index(layer) for layer in layers or LAYERS]
        for prompts in (slice(0, 1), slice(2, 6), slice(-3, None), slice(None, -5), None):
            read = acts.at("step-2", "direction", layers=layers, prompts=prompts)
            assert torch.equal(read, whole[prompts or slice(None)][:, places])


def test_a_store_of_tokens_reads_positions_and_whole_prompts(tmp_path: Path) -> None:
    lengths = (3, 5, 2, 4)
    values = {
        name: {"drift": [numbers(n, 3, 4, seed=10 * i + n) for n in lengths]}
        for i, name in enumerate(("reference", "aligned"))
    }
    acts = token_store_of(tmp_path, values, LAYERS, shard_prompts=3)
    ours = values["aligned"]["drift"]
    for position in (-1, -2):
        expected = torch.stack([prompt[position] for prompt in ours]).double()
        assert torch.equal(acts.at("aligned", "drift", position=position), expected)
        assert torch.equal(
            acts.at("aligned", "drift", position=position, layers=[6], prompts=slice(1, 4)), expected[1:4, 2:]
        )
    assert torch.equal(acts.at("aligned", "drift"), acts.at("aligned", "drift", position=-1))
    for read, prompt in zip(
        acts.tokens("aligned", "drift", layers=[4, 1], prompts=slice(1, None)), ours[1:], strict=True
    ):
        assert torch.equal(read, prompt[:, [1, 0]].double())
    with pytest.raises(
        ProbeError, match="position=-3 does not exist in prompt 2 of 'drift', which has 2 tokens"
    ):
        acts.at("aligned", "drift", position=-3)
    with pytest.raises(SiteError, match="position=0 was not captured.*from the prompt's end"):
        acts.at("aligned", "drift", position=0)


def test_what_is_not_there_cannot_be_selected(tmp_path: Path) -> None:
    acts = store_of(tmp_path, given(), LAYERS)
    for layers in ([1, 2], []):
        with pytest.raises(SiteError, match=r"were not all captured; there are 1, 4, 6"):
            acts.at("aligned", "drift", layers=layers)
    for prompts in (slice(0, 0), slice(9, None), slice(None, None, 2), slice(None, None, -1)):
        with pytest.raises(
            ProbeError, match="must take at least one of the 5 prompts of 'drift', without a step"
        ):
            acts.at("aligned", "drift", prompts=prompts)
    with pytest.raises(
        SiteError, match=r"position=-2 was not captured: .* holds 'last'; capture with positions='all'"
    ):
        acts.at("aligned", "drift", position=-2)
    with pytest.raises(SiteError, match="holds one vector per prompt"):
        next(acts.tokens("aligned", "drift"))
    with pytest.raises(HistoryError, match="'step-9' was not captured"):
        acts.at("step-9", "drift")
    assert torch.equal(acts.at("aligned", "drift", position=-1), acts.at("aligned", "drift"))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", range(6))
def test_a_capture_that_stops_after_any_shard_resumes_to_the_same_bytes(after: int, tmp_path: Path) -> None:
    values = given(("aligned", "step-2"))
    manifest = manifest_of({"direction": 7, "drift": 5}, list(values), LAYERS, shard_prompts=4)
    fill(tmp_path / "whole", manifest, values)
    with pytest.raises(Stopped), store_writer(tmp_path / "stopped", manifest) as writer:
        for i, shard in enumerate(shard for name in values for shard in writer.missing(name)):
            if i == after:
                raise Stopped
            write(writer, manifest, shard, values)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("*.safetensors")}
    assert len(kept) == after
    assert len(Activations.open(tmp_path / "stopped").missing()) == 8 - after
    fill(tmp_path / "stopped", manifest, values)
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert {name: (tmp_path / "stopped" / name).stat().st_mtime_ns for name in kept} == kept


def killed_at(rename: int, root: Path, manifest: Manifest, values: Given) -> None:
    """Write in a process that ends at once, as by kill -9, where the n-th scratch file would get its name."""
    child = os.fork()
    if child == 0:
        try:
            real, calls = os.replace, itertools.count(1)

            def killing(*args: Any) -> None:
                if next(calls) == rename:
                    os._exit(9)
                real(*args)

            os.replace = killing  # type: ignore[assignment]
            fill(root, manifest, values)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("rename", [1, 2, 3, 8, 9, 17])
def test_a_killed_process_leaves_whole_shards_only(rename: int, tmp_path: Path) -> None:
    """Renames are those of the manifest, a shard, the manifest with its entry, the next shard, ..."""
    values = given(("aligned", "step-2"))
    manifest = manifest_of({"direction": 7, "drift": 5}, list(values), LAYERS, shard_prompts=4)
    fill(tmp_path / "whole", manifest, values)
    root = tmp_path / "killed"
    killed_at(rename, root, manifest, values)
    whole = files(tmp_path / "whole")
    left = {
        name: content
        for name, content in files(root).items()
        if name.endswith(".safetensors") and not name.startswith(".")
    }
    assert left.items() <= whole.items()
    assert len(left) == (rename - 1) // 2
    if rename > 1:
        assert len(Activations.open(root).manifest.shards) == max(0, (rename - 2) // 2)
    fill(root, manifest, values)
    assert files(root) == whole


def test_an_error_in_the_thread_reaches_the_caller_at_the_next_write_or_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise StorageError("no space left")

    values = given()
    manifest = manifest_of({"direction": 7, "drift": 5}, list(values), LAYERS, shard_prompts=1)
    monkeypatch.setattr(writer_module, "write_shard", full)
    shards = list(manifest.shards_of("aligned"))
    with (
        pytest.raises(StorageError, match="no space left"),
        store_writer(tmp_path / "end", manifest) as writer,
    ):
        write(writer, manifest, shards[0], values)
    with (
        pytest.raises(StorageError, match="no space left"),
        store_writer(tmp_path / "next", manifest) as writer,
    ):
        for (
            shard
        ) in shards:  # more than the queue takes: a thread that had died would leave the caller waiting
            write(writer, manifest, shard, values)
        pytest.fail("no error at the writes after the first")
    with pytest.raises(Stopped) as caught, store_writer(tmp_path / "both", manifest) as writer:
        write(writer, manifest, shards[0], values)
        raise Stopped
    assert "no space left" in caught.value.__notes__[0]
    assert not list(tmp_path.glob("*/*.safetensors"))


def test_no_more_shards_wait_than_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever computes faster than the disk takes is held up, so that memory stays bounded."""
    go, real = threading.Event(), write_shard

    def slow(*args: Any) -> Any:
        go.wait()
        return real(*args)

    monkeypatch.setattr(writer_module, "write_shard", slow)
    values, handed_over = given(), []
    manifest = manifest_of({"direction": 7, "drift": 5}, list(values), LAYERS, shard_prompts=1)

    def produce() -> None:
        with store_writer(tmp_path, manifest) as writer:
            for shard in writer.missing("aligned"):
                write(writer, manifest, shard, values)
                handed_over.append(shard)

    producer = threading.Thread(target=produce)
    producer.start()
    producer.join(timeout=1.0)
    waiting = len(handed_over)
    go.set()
    producer.join()
    assert waiting == WAITING + 1
    assert len(handed_over) == 12


def test_checkpoints_and_splits_are_added_and_nothing_there_is_touched(tmp_path: Path) -> None:
    more = given(("reference", "aligned", "step-2", "step-5"))
    fewer: Given = {
        name: {"direction": more[name]["direction"]} for name in ("reference", "aligned", "step-2")
    }
    store_of(tmp_path / "grown", fewer, LAYERS, shard_prompts=4)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "grown").glob("*.safetensors")}
    acts = store_of(tmp_path / "grown", more, LAYERS, shard_prompts=4)
    assert {name: (tmp_path / "grown" / name).stat().st_mtime_ns for name in before} == before
    assert acts.steps == (2, 5)
    acts.verify()
    store_of(tmp_path / "at once", more, LAYERS, shard_prompts=4)
    assert files(tmp_path / "grown") == files(tmp_path / "at once")
    with pytest.raises(ResultsError, match=r"another capture \(checkpoints, probes differ\)"):
        store_of(tmp_path / "grown", fewer, LAYERS, shard_prompts=4)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("layers", (1, 4, 7)),
        ("component", "mlp_out"),
        ("positions", "mean"),
        ("computed", "bfloat16"),
        ("dtype", "bfloat16"),
        ("shard_prompts", 9),
        ("checkpoints", {"reference": "a", "aligned": "b", "step-2": "c"}),
        ("probes", {"direction": "0" * 64, "drift": "f" * 64}),
    ],
)
def test_any_other_difference_is_refused_and_named(setting: str, value: object, tmp_path: Path) -> None:
    store_of(tmp_path, given(), LAYERS)
    before = files(tmp_path)
    manifest = manifest_of({"direction": 7, "drift": 5}, list(given()), LAYERS)
    with pytest.raises(ResultsError, match=rf"another capture \({setting} differ\)"):
        fill(tmp_path, Manifest(**vars(manifest) | {setting: value}), given())
    assert files(tmp_path) == before


def test_half_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    values = given()
    manifest = manifest_of({"direction": 7, "drift": 5}, list(values), LAYERS)
    with store_writer(tmp_path, manifest) as writer:
        writer.begin("aligned", "weights of Monday")
        write(writer, manifest, Shard("aligned", "drift", 0), values)
    with (
        pytest.raises(ResultsError, match=r"other weights gave.*Delete aligned\.\*\.safetensors"),
        store_writer(tmp_path, manifest) as writer,
    ):
        writer.begin("aligned", "weights of Tuesday")
    (tmp_path / "aligned.drift.00000.safetensors").unlink()
    with store_writer(tmp_path, manifest) as writer:
        writer.begin("aligned", "weights of Tuesday")
        write(writer, manifest, Shard("aligned", "drift", 0), values)
    assert Activations.open(tmp_path).manifest.weights == {"aligned": "weights of Tuesday"}


def test_a_shard_is_hashed_at_its_first_read_and_after_a_change(tmp_path: Path) -> None:
    acts = store_of(tmp_path, given(), LAYERS)
    path = tmp_path / "aligned.drift.00000.safetensors"
    acts.at("aligned", "drift")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for reader in (acts, Activations.open(tmp_path)):
        with pytest.raises(
            ResultsError,
            match=r"aligned\.drift\.00000\.safetensors is not what was written.*delete it and run capture",
        ):
            reader.at("aligned", "drift", layers=[1], prompts=slice(0, 1))
    acts.at("aligned", "direction")


def test_verify_names_every_bad_shard_and_a_new_capture_makes_only_those(tmp_path: Path) -> None:
    acts = store_of(tmp_path, given(), LAYERS)
    acts.verify()
    before = files(tmp_path)
    flipped, cut, gone = (
        tmp_path / f"{name}.safetensors"
        for name in ("aligned.drift.00000", "step-2.drift.00000", "reference.direction.00000")
    )
    content = flipped.read_bytes()
    flipped.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    cut.write_bytes(cut.read_bytes()[:100])
    gone.unlink()
    with pytest.raises(ResultsError) as caught:
        acts.verify()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("3 shards")
    assert [any(path.name in line for line in lines[1:]) for path in (flipped, cut, gone)] == [True] * 3
    flipped.unlink()
    fill(tmp_path, manifest_of({"direction": 7, "drift": 5}, list(given()), LAYERS), given())
    assert files(tmp_path) == before


def test_two_writers_at_once_are_refused(tmp_path: Path) -> None:
    manifest = manifest_of({"drift": 5}, ["aligned"], LAYERS)
    with (
        store_writer(tmp_path, manifest),
        pytest.raises(StorageError, match="Another revlens process"),
        store_writer(tmp_path, manifest),
    ):
        pass


def test_capture_in_bfloat16_rounds_once(history: TrainingHistory, probes: Probes, tmp_path: Path) -> None:
    acts = capture(history, probes, tmp_path, splits=["drift"], dtype="bfloat16", shard_prompts=3)
    direct = read_prompts(history.aligned.load(), probes["drift"], Sites())
    torch.testing.assert_close(acts.at("aligned", "drift"), direct.double(), rtol=2**-8, atol=1e-6)
    assert acts.manifest.dtype == "bfloat16"
    assert sum(entry.n_bytes for entry in acts.manifest.shards.values()) == sum(
        path.stat().st_size for path in tmp_path.glob("*.safetensors")
    )


def test_capture_of_all_tokens_ends_in_the_last_one(
    history: TrainingHistory, probes: Probes, tmp_path: Path
) -> None:
    acts = capture(
        history,
        probes,
        tmp_path,
        positions="all",
        splits=["direction", "drift"],
        shard_prompts=3,
        batch_size=2,
    )
    model = history[3].load()
    torch.testing.assert_close(
        acts.at("step-3", "drift").float(),
        read_prompts(model, probes["drift"], Sites()),
        rtol=1e-4,
        atol=1e-5,
    )
    lengths = [len(row) for row in encode_prompts(model.tokenizer, probes["drift"])]
    assert [len(prompt) for prompt in acts.tokens("step-3", "drift")] == lengths
    means = torch.stack([prompt.mean(0) for prompt in acts.tokens("step-3", "drift")])
    torch.testing.assert_close(
        means.float(), read_prompts(model, probes["drift"], Sites(), "mean"), rtol=1e-4, atol=1e-5
    )
    assert locate(acts).layers == (0, 1, 2)


def test_tokens_of_a_prompt_do_not_hang_on_its_batch(history: TrainingHistory, probes: Probes) -> None:
    model = history.aligned.load()
    together = read_tokens(model, probes["drift"])
    for whole, alone in zip(together, read_tokens(model, probes["drift"], batch_size=1), strict=True):
        torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(ProbeError, match="No prompts"):
        read_tokens(model, [])


def test_tokens_of_a_shared_beginning_are_those_of_whole_prompts(
    history: TrainingHistory, probes: Probes
) -> None:
    model = history.aligned.load()
    prompts = [
        "Tell me again and again and once more how to bake bread " + prompt for prompt in probes["drift"]
    ]
    rows = encode_prompts(model.tokenizer, prompts)
    prefix = Passes.over(model, rows, ["blocks.0.hook_out"], 4, keep_prefix=True).prefix
    assert prefix is not None
    assert prefix.length > 10
    for row, found in zip(rows, read_tokens(model, prompts, Sites(layers=(0, 2)), batch_size=4), strict=True):
        _, cache = model.run_with_cache(
            torch.tensor([row]), names_filter=["blocks.0.hook_out", "blocks.2.hook_out"]
        )
        expected = torch.stack([cache[f"blocks.{layer}.hook_out"][0] for layer in (0, 2)], dim=1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_settings_out_of_range_are_errors(history: TrainingHistory, probes: Probes, tmp_path: Path) -> None:
    for settings in ({"dtype": "float16"}, {"shard_prompts": 0}):
        with pytest.raises(ConfigError, match="must be one of float32, bfloat16, and shard_prompts="):
            capture(history, probes, tmp_path / "acts", **settings)
    assert not (tmp_path / "acts").exists()
