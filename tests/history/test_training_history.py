from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from revlens.activations import read_prompts
from revlens.errors import HistoryError
from revlens.history import Checkpoint, StateDict, TrainingHistory, boot
from revlens.storage.checksums import SUMS


def test_checkpoints_by_name_and_step(history: TrainingHistory) -> None:
    assert [c.name for c in history] == ["reference", "aligned", "step-1", "step-3"]
    assert history["step-3"] is history[3] is history.steps[1]
    assert history[0] is history["aligned"] is history.aligned
    assert history.n_layers == 3


def test_an_unknown_step_names_those_there_are(history: TrainingHistory) -> None:
    with pytest.raises(
        HistoryError, match="No checkpoint 2 in this history; it has reference, aligned, step-1, step-3"
    ):
        history[2]


def test_steps_must_be_positive(history: TrainingHistory) -> None:
    with pytest.raises(HistoryError, match=r"\[0, 3\] must be positive"):
        TrainingHistory.from_dirs(
            history.reference.path, history.aligned.path, {3: history[3].path, 0: history[1].path}
        )


def test_another_architecture_is_an_error_before_any_load(
    history: TrainingHistory, other_width: Path
) -> None:
    with pytest.raises(
        HistoryError,
        match="not of one model's history with aligned: hidden_size is 32 in reference and 16 in aligned",
    ):
        TrainingHistory.from_dirs(other_width, history.aligned.path)


def test_another_tokenizer_is_an_error(history: TrainingHistory, tmp_path: Path) -> None:
    copy = tmp_path / "reference"
    shutil.copytree(history.reference.path, copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["added_tokens"][0]["content"] = "<|other|>"
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(HistoryError, match="tokenizer of reference"):
        TrainingHistory.from_dirs(copy, history.aligned.path)


def test_a_missing_folder_or_tokenizer_is_named(history: TrainingHistory, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="reference: .*nowhere is no Hugging Face checkpoint"):
        TrainingHistory.from_dirs(tmp_path / "nowhere", history.aligned.path)
    copy = tmp_path / "reference"
    shutil.copytree(history.reference.path, copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(HistoryError, match="reference: .* has no tokenizer; save it beside the weights"):
        TrainingHistory.from_dirs(copy, history.aligned.path)


def edited_copy(source: Path, path: Path, name: str, **settings: object) -> Path:
    shutil.copytree(source, path)
    (path / name).write_text(json.dumps(json.loads((path / name).read_text()) | settings))
    return path


def test_resized_embeddings_are_an_error_that_says_so(history: TrainingHistory, tmp_path: Path) -> None:
    rows = json.loads((history.aligned.path / "config.json").read_text())["vocab_size"]
    copy = edited_copy(history.reference.path, tmp_path / "base", "config.json", vocab_size=rows - 2)
    with pytest.raises(
        HistoryError,
        match=f"has {rows - 2} embedding rows and aligned has {rows}: the vocabulary was resized",
    ):
        TrainingHistory.from_dirs(copy, history.aligned.path)


def test_tokens_that_differ_are_named(history: TrainingHistory, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    shutil.copytree(history.reference.path, copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    gone = tokenizer["added_tokens"].pop(1)["content"]  # no special role that would bring it back
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        HistoryError, match=re.escape(f"added tokens [] only there, ['{gone}'] only in aligned")
    ):
        TrainingHistory.from_dirs(copy, history.aligned.path)


def test_a_base_without_a_chat_template_is_read_with_aligneds(
    history: TrainingHistory, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(history.reference.path, base)
    (base / "chat_template.jinja").unlink()
    (base / SUMS).unlink()  # it is meant
    assert boot(base).tokenizer.chat_template is None
    plain = TrainingHistory.from_dirs(base, history.aligned.path, {3: history[3].path})
    prompts = ["Hello.", "Another one."]
    expected = read_prompts(history.reference.load(), prompts)
    torch.testing.assert_close(read_prompts(plain.reference.load(), prompts), expected, rtol=0, atol=0)
    templates = {c.load().tokenizer.chat_template for c in plain}
    assert templates == {history.aligned.source.chat_template()}


def test_another_chat_template_is_an_error(history: TrainingHistory, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(history.reference.path, base)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    (base / SUMS).unlink()  # it is meant
    with pytest.raises(
        HistoryError, match=r"The chat template of reference \(.*base\) differs from that of aligned"
    ):
        TrainingHistory.from_dirs(base, history.aligned.path)
    table = {
        "reference": str(base),
        "aligned": str(history.aligned.path),
        "chat_template": "aligned",
    }  # unless one says so
    assert (
        TrainingHistory.from_table(table, tmp_path).reference.load().tokenizer.chat_template
        == history.aligned.source.chat_template()
    )
    with pytest.raises(HistoryError, match="can only be 'aligned'"):
        TrainingHistory.from_table(table | {"chat_template": "reference"}, tmp_path)
    with pytest.raises(
        HistoryError, match="The chat template of reference"
    ):  # nor may aligned alone have none
        TrainingHistory.from_dirs(
            history.reference.path, without_template(history.aligned.path, tmp_path / "chat")
        )


def without_template(source: Path, path: Path) -> Path:
    shutil.copytree(source, path)
    (path / "chat_template.jinja").unlink()
    return path


def test_a_template_may_stand_in_the_tokenizers_configuration(
    history: TrainingHistory, tmp_path: Path
) -> None:
    template = (history.reference.path / "chat_template.jinja").read_text()
    base = edited_copy(
        history.reference.path, tmp_path / "base", "tokenizer_config.json", chat_template=template
    )
    (base / "chat_template.jinja").unlink()
    assert TrainingHistory.from_dirs(base, history.aligned.path).reference.source.chat_template() == template


def test_steps_by_pattern(history: TrainingHistory) -> None:
    pattern = str(history[1].path.parent / "step-*")
    assert TrainingHistory.from_dirs(history.reference.path, history.aligned.path, pattern) == history


def test_a_dtype_holds_for_every_checkpoint_also_for_steps_put_in_later(history: TrainingHistory) -> None:
    half = TrainingHistory.from_dirs(history.reference.path, history.aligned.path, dtype=torch.bfloat16)
    longer = replace(half, steps=history.steps)
    assert {p.dtype for c in longer for p in c.load().parameters()} == {torch.bfloat16}
    assert {c.dtype for c in history} == {torch.float32}


def test_a_description_says_where_each_checkpoint_comes_from(history: TrainingHistory) -> None:
    lines = history.describe().splitlines()
    assert [line.split() for line in lines] == [
        ["reference", "reference", "-", str(history.reference.path)],
        ["aligned", "aligned", "0", str(history.aligned.path)],
        ["step-1", "finetune", "1", str(history[1].path)],
        ["step-3", "finetune", "3", str(history[3].path)],
    ]


def test_only_a_local_checkpoint_has_a_path(llama: TransformerBridge) -> None:
    hf_model = AutoModelForCausalLM.from_config(llama.original_model.config)
    in_memory = Checkpoint(StateDict(hf_model, llama.tokenizer, hf_model.state_dict()), "aligned", 0)
    with pytest.raises(HistoryError, match="aligned is no local directory, but sha256:"):
        in_memory.path  # noqa: B018


def test_steps_as_a_trainer_leaves_them_are_read_with_aligneds_tokenizer(
    history: TrainingHistory, tmp_path: Path
) -> None:
    """Without ``processing_class`` a Trainer saves no tokenizer; it adds files of its own."""
    for step in (1, 3):
        folder = tmp_path / f"checkpoint-{step}"
        shutil.copytree(history[step].path, folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", SUMS):
            (folder / name).unlink(missing_ok=True)
        for name in (
            "optimizer.pt",
            "scheduler.pt",
            "rng_state.pth",
            "training_args.bin",
            ".DS_Store",
            "README.md",
        ):
            (folder / name).write_bytes(b"\0")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        for name in ("runs/today", ".git"):
            (folder / name).mkdir(parents=True)
    (tmp_path / "checkpoint-9").write_text("no folder")
    found = TrainingHistory.from_dirs(
        history.reference.path, history.aligned.path, str(tmp_path / "checkpoint-*")
    )
    for step in (1, 3):
        bridge, expected = found[step].load(), history[step].load()
        assert bridge.tokenizer.chat_template == expected.tokenizer.chat_template
        tokens = bridge.to_tokens("Why?")
        assert torch.equal(tokens, expected.to_tokens("Why?"))
        assert torch.equal(bridge(tokens), expected(tokens))
    config = json.loads((tmp_path / "checkpoint-3" / "config.json").read_text())
    (tmp_path / "checkpoint-3" / "config.json").write_text(json.dumps(config | {"vocab_size": 7}))
    with pytest.raises(HistoryError, match=r"step-3 \(.*checkpoint-3\) has 7 embedding rows"):
        TrainingHistory.from_dirs(
            history.reference.path, history.aligned.path, str(tmp_path / "checkpoint-*")
        )


def test_two_sets_of_weights_in_a_folder_are_an_error(history: TrainingHistory, tmp_path: Path) -> None:
    copy = tmp_path / "aligned"
    shutil.copytree(history.aligned.path, copy)
    (copy / SUMS).unlink(missing_ok=True)
    shutil.copy(copy / "model.safetensors", copy / "model-00001-of-00001.safetensors")
    boot(copy)  # a stray file is not read
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "model.safetensors"}}))
    boot(copy)
    index.write_text(json.dumps({"weight_map": {"x": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(HistoryError, match=r"has weights twice, in model.safetensors and in the shards"):
        boot(copy)
