"""GGUF files as sources, against transformers' own reading of them and against the model that was written."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from families import PROMPTS
from gguf_files import WRITTEN, gguf_model, gguf_tokenizer, write_gguf
from revlens.errors import ConfigError, HistoryError
from revlens.history import Directory, Gguf, TrainingHistory, boot, save
from revlens.prompts import encode_prompts, pad_left
from revlens.storage import cache_root

Q8, Q4, F32 = (gguf.GGMLQuantizationType[name] for name in ("Q8_0", "Q4_1", "F32"))
TOKENS = torch.arange(40).reshape(2, 20) * 5 % 264


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REVLENS_CACHE", str(tmp_path / "cache"))


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def as_transformers_reads(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=dtype,
        attn_implementation="eager",
        quantization_config=GgufConfig(dequantize=True),
    ).eval()


@pytest.mark.parametrize("family", WRITTEN)
def test_a_file_is_the_model_that_was_written(family: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", family)
    read = logits_of(Gguf(path).module(torch.float32))
    assert torch.equal(read, logits_of(as_transformers_reads(path)))
    torch.testing.assert_close(read, logits_of(gguf_model(family)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [Q8, Q4], ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_quantised_weights_are_those_that_transformers_reads(
    kind: gguf.GGMLQuantizationType, dtype: torch.dtype, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", kind=kind)
    read = logits_of(Gguf(path).module(dtype))
    assert read.dtype == dtype
    assert torch.equal(read, logits_of(as_transformers_reads(path, dtype)))
    assert not torch.equal(read.float(), logits_of(gguf_model("llama")))


@pytest.mark.parametrize("family", WRITTEN)
def test_the_tokenizer_and_its_template_are_those_that_transformers_reads(
    family: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", family)
    read, expected = Gguf(path).tokenizer(), AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    texts = [*PROMPTS, "the <|end|> of  it", " then"]
    assert read(texts)["input_ids"] == expected(texts)["input_ids"]
    for like in [expected, *([gguf_tokenizer(family)] if family != "gemma2" else [])]:
        assert read.chat_template == like.chat_template
        assert encode_prompts(read, PROMPTS) == encode_prompts(like, PROMPTS)
        assert (read.bos_token_id, read.eos_token_id, read.pad_token_id) == (
            like.bos_token_id, like.eos_token_id, like.pad_token_id
        )  # fmt: skip


def test_a_history_of_files_trains_and_saves_like_any_other(tmp_path: Path) -> None:
    for name, kind in (("base", Q8), ("chat", F32)):
        write_gguf(tmp_path / f"{name}.gguf", kind=kind)
    table = {"reference": {"gguf": "base.gguf"}, "aligned": {"gguf": "chat.gguf"}}
    history = TrainingHistory.from_table(table, tmp_path)
    assert history == TrainingHistory.from_dirs(tmp_path / "base.gguf", tmp_path / "chat.gguf")
    assert history.reference.source.identity() == str(tmp_path / "base.gguf")
    assert history.reference.fingerprint() != history.aligned.fingerprint()

    bridge = history.reference.load()
    assert all(parameter.requires_grad for parameter in bridge.parameters())
    batch = pad_left(encode_prompts(bridge.tokenizer, PROMPTS), bridge.tokenizer.pad_token_id or 0)
    before = bridge(batch.tokens)
    save(bridge, tmp_path / "saved")
    assert torch.equal(boot(tmp_path / "saved")(batch.tokens), before)
    TrainingHistory.from_dirs(tmp_path / "base.gguf", tmp_path / "saved")  # of one model's history
    # Plain transformers loads it as well, and single precision has left no trace.
    converted = next(cache_root().glob("gguf/*/float32"))
    AutoModelForCausalLM.from_pretrained(converted)
    assert AutoTokenizer.from_pretrained(converted).chat_template == history.aligned.source.chat_template()
    settings = json.loads((converted / "config.json").read_text())
    assert settings["rms_norm_eps"] == 1e-5
    assert "quantization_config" not in settings


def test_a_file_is_converted_once_and_found_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    Gguf(path).module(torch.float32)
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: pytest.fail("read again")
    )
    monkeypatch.setattr(Gguf, "_check_header", lambda self: pytest.fail("read again"))
    os.rename(path, tmp_path / "renamed.gguf")
    Gguf(tmp_path / "renamed.gguf").chat_template()
    Gguf(tmp_path / "renamed.gguf")._converted("float32", lambda folder: pytest.fail("read again"))
    assert len(list(cache_root().glob("gguf/*/float32"))) == 1
    other = write_gguf(path, kind=Q8)  # another content under the first name
    assert Gguf(other).fingerprint() != Gguf(tmp_path / "renamed.gguf").fingerprint()


def test_files_beside_it_are_not_read(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    expected = Gguf(path).tokenizer().get_vocab()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "no", "eos_token": "!"}))
    (tmp_path / "chat_template.jinja").write_text("no")
    other = write_gguf(tmp_path / "other.gguf", kind=Q8)
    assert Gguf(other).tokenizer().get_vocab() == expected
    assert Gguf(other).chat_template() == gguf_tokenizer("llama").chat_template


@pytest.mark.parametrize("keep", [0, 3, 30, 2_000, 12_000, -40_000, -1])
def test_a_damaged_file_is_named(keep: int, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(HistoryError, match=r"model\.gguf.*download it again"):
        Gguf(path).module(torch.float32)
    assert not list(cache_root().glob("gguf/*/float32"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"There is no GGUF file .*model\.gguf"):
        TrainingHistory.from_dirs(tmp_path / "model.gguf", tmp_path / "model.gguf")


def test_another_architecture_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", architecture="clip")
    with pytest.raises(HistoryError, match=r"clip is not supported.*Take the model's Hugging Face dir"):
        Gguf(path).config()


def test_an_unknown_quantisation_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", kind=Q8)
    name = b"blk.0.attn_q.weight"
    at = path.read_bytes().index(name) + len(name) + 4 + 2 * 8
    with path.open("r+b") as file:
        file.seek(at)
        assert file.read(4) == int(Q8).to_bytes(4, "little")
        file.seek(at)
        file.write((97).to_bytes(4, "little"))
    with pytest.raises(HistoryError, match=r"quantisation that.*97. is not a valid.*another file"):
        Gguf(path).module(torch.float32)


def test_a_quantisation_that_is_not_undone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise NotImplementedError("Dequantization for Q8_1 is not yet implemented")

    path = write_gguf(tmp_path / "model.gguf", kind=Q8)
    monkeypatch.setattr(gguf, "dequantize", refuse)
    with pytest.raises(HistoryError, match=r"quantisation that.*Q8_1.*another file of the model, such as"):
        Gguf(path).module(torch.float32)


@pytest.mark.parametrize(
    "more",
    [
        {"tensors": {"rope_freqs.weight": np.ones(4, np.float32)}},
        {"extra": {"llama.rope.scaling.type": "linear"}},
    ],
)
def test_rotary_angles_that_transformers_would_not_scale_are_refused(
    more: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(HistoryError, match=r"scales rotary angles.*Take the model's Hugging Face directory"):
        Gguf(write_gguf(tmp_path / "model.gguf", **more)).config()


def test_without_a_template_a_file_can_be_a_reference_only(tmp_path: Path) -> None:
    base = write_gguf(tmp_path / "base.gguf", template=False)
    chat = write_gguf(tmp_path / "chat.gguf", kind=Q8)
    history = TrainingHistory.from_dirs(base, chat)
    encode_prompts(history.reference.load().tokenizer, PROMPTS)
    with pytest.raises(HistoryError, match=r"no chat template.*gguf-new-metadata") as refused:
        TrainingHistory.from_dirs(base, base).aligned.tokenizer()
    # The advice works.
    (tmp_path / "template.jinja").write_text(str(gguf_tokenizer("llama").chat_template))
    advised = re.search(r"gguf-new-metadata (.*) OLD.gguf NEW.gguf", str(refused.value))
    assert advised
    tool = [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", *advised[1].split()]
    subprocess.run([*tool, "base.gguf", "new.gguf"], cwd=tmp_path, check=True, capture_output=True)
    assert Gguf(tmp_path / "new.gguf").tokenizer().chat_template == gguf_tokenizer("llama").chat_template


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HistoryError, match=r"pip install 'revlens\[gguf\]'"):
        Gguf(path).config()


REAL = os.environ.get("REVLENS_GGUF")


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="REVLENS_GGUF names no GGUF file of a chat model")
def test_a_real_file() -> None:
    path = Path(str(REAL))
    source = Gguf(path)
    assert torch.equal(logits_of(source.module(torch.float32)), logits_of(as_transformers_reads(path)))
    history = TrainingHistory.from_dirs(path, path)
    assert isinstance(history.aligned.source, Gguf)
    assert encode_prompts(history.aligned.tokenizer(), PROMPTS) == encode_prompts(
        AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name), PROMPTS
    )
    assert Directory(next(cache_root().glob("gguf/*/small"))).config()["rms_norm_eps"] in (1e-5, 1e-6)
    with pytest.raises(ConfigError, match="does not read"):
        TrainingHistory.from_dirs(path, path, template_kwargs={"nothing": 1})
