from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from revlens.errors import HistoryError
from revlens.history import TrainingHistory, boot, save

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 5, 6, 7]])


def test_a_saved_bridge_is_the_same_model_for_hugging_face(
    aligned: TransformerBridge, tmp_path: Path
) -> None:
    save(aligned, tmp_path / "saved")
    with torch.no_grad():
        expected = aligned(TOKENS)
        hf = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager")(
            TOKENS
        ).logits
        again = boot(tmp_path / "saved")(TOKENS)
    torch.testing.assert_close(hf, expected, rtol=0, atol=0)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)


def test_the_tokenizer_travels_with_its_chat_template(aligned: TransformerBridge, tmp_path: Path) -> None:
    save(aligned, tmp_path / "saved")
    again = boot(tmp_path / "saved").tokenizer
    chat = [{"role": "user", "content": "Hello."}]
    assert again.apply_chat_template(chat) == aligned.tokenizer.apply_chat_template(chat)


def test_weights_are_safetensors_only(aligned: TransformerBridge, tmp_path: Path) -> None:
    save(aligned, tmp_path / "saved")
    assert {p.suffix for p in (tmp_path / "saved").iterdir()} <= {
        ".json",
        ".safetensors",
        ".jinja",
        ".sha256",
    }


def test_a_failed_save_leaves_nothing(
    aligned: TransformerBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(type(aligned.tokenizer), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save(aligned, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"no config\.json"):
        boot(tmp_path)


def test_pickled_weights_are_refused(history: TrainingHistory, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((history.aligned.path / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(HistoryError, match="does not read pickled"):
        boot(tmp_path)
