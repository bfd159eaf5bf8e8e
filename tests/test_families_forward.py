"""Every architecture family, from a Hugging Face checkpoint: revlens reads what Hugging Face computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import tiers
from families import (
    ADDS_BOS,
    FAMILIES,
    NO_PAD,
    PROMPTS,
    bridge_run,
    hugging_face_rows,
    hugging_face_run,
    load_hugging_face,
    save_family,
)
from revlens.activations import Sites, capture, read_prompts
from revlens.history import TrainingHistory, boot
from revlens.prompts import Probes, encode_prompts
from revlens.training.chat_data import encode_examples

#: Settings that switch off each difference from Llama. Weights stay the same.
TRAITS: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    "gemma2": {
        "sliding_window": 128,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "query_pre_attn_scalar": 8,
    },
    "gemma3_text": {
        "sliding_window": 128,
        "layer_types": ["full_attention"] * 3,
        "rope_parameters": {
            name: {"rope_type": "default", "rope_theta": 10_000.0}
            for name in ("full_attention", "sliding_attention")
        },
    },
    "gpt_neox": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        "use_parallel_residual": False,
    },
}
OFF = [(family, trait) for family, traits in TRAITS.items() for trait in traits]


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def saved(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(family, tmp_path_factory.mktemp("families") / family)


def test_a_left_padded_batch_equals_hugging_face_on_each_prompt_alone(saved: Path) -> None:
    rows = hugging_face_rows(saved)
    assert len({len(row) for row in rows}) > 2, "the batch must need padding"
    ours, theirs = bridge_run(boot(saved), rows), hugging_face_run(load_hugging_face(saved), rows)
    assert max(ours.distance(theirs)) < 1e-5
    assert min(stream.std() for stream in theirs.streams) > 0.05, "equal zeros would say nothing"


def test_capture_keeps_hugging_face_s_last_token(saved: Path, tmp_path: Path) -> None:
    history = TrainingHistory.from_dirs(saved, saved)
    theirs = torch.stack(
        [
            streams[1::2, -1]
            for streams in hugging_face_run(load_hugging_face(saved), hugging_face_rows(saved)).streams
        ]
    )
    kept = capture(history, Probes({"drift": PROMPTS}), tmp_path, batch_size=3).at("aligned", "drift")
    torch.testing.assert_close(kept, theirs.double(), rtol=0, atol=1e-5)
    before = read_prompts(history.aligned.load(), PROMPTS, Sites("resid_pre"))
    torch.testing.assert_close(before[:, 1:], theirs[:, :-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", tiers.families(FAMILIES), indirect=True)
@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str
)
def test_half_precision_differs_from_hugging_face_by_rounding_only(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """The unit is Hugging Face's own rounding error: its distance from the same weights in float32."""
    path = save_family(family, tmp_path, dtype)
    history = TrainingHistory.from_dirs(path, path, dtype=dtype)
    bridge = history.aligned.load()
    assert {parameter.dtype for parameter in bridge.parameters()} == {dtype}
    rows = hugging_face_rows(path)
    ours = bridge_run(bridge, rows)
    theirs, exact = (
        hugging_face_run(load_hugging_face(path, precision), rows) for precision in (dtype, torch.float32)
    )
    rounding = theirs.distance(exact)
    assert all(distance < 1.5 * unit for distance, unit in zip(ours.distance(exact), rounding, strict=True))
    # Mostly zero. OLMo 2's bridge keeps rotated queries and keys in float32; Hugging Face rounds them.
    assert all(distance < 2 * unit for distance, unit in zip(ours.distance(theirs), rounding, strict=True))
    acts = capture(history, Probes({"drift": PROMPTS}), tmp_path / "acts")
    assert acts.at("aligned", "drift").isfinite().all()


def test_prompts_are_encoded_as_hugging_face_does(family: str, saved: Path) -> None:
    tokenizer, bridge = AutoTokenizer.from_pretrained(saved), boot(saved)
    assert (tokenizer.pad_token is None) == (family in NO_PAD)
    assert tokenizer.padding_side == "right"
    rows = encode_prompts(bridge.tokenizer, PROMPTS)
    assert rows == hugging_face_rows(saved)
    if family in ADDS_BOS:
        assert tokenizer("text")["input_ids"][0] == tokenizer.bos_token_id, (
            "the tokenizer adds a BOS of its own"
        )
        assert [row.count(tokenizer.bos_token_id) for row in rows] == [1] * len(rows)


def test_training_examples_go_on_from_the_prompt(saved: Path) -> None:
    tokenizer, bridge = AutoTokenizer.from_pretrained(saved), boot(saved)
    (example,) = encode_examples(
        bridge.tokenizer, Dataset.from_dict({"prompt": PROMPTS[:1], "answer": ["Hello you."]})
    )
    assert example.prompt == hugging_face_rows(saved)[0]
    assert tokenizer.decode(example.answer) == "Hello you." + tokenizer.eos_token


@pytest.mark.parametrize(("family", "trait"), OFF)
def test_what_is_peculiar_to_a_family_reaches_the_logits(family: str, trait: str, tmp_path: Path) -> None:
    """Otherwise equality with Hugging Face proves nothing about this part."""
    path = save_family(family, tmp_path)
    config = AutoConfig.from_pretrained(path, **{trait: TRAITS[family][trait]})
    plain = AutoModelForCausalLM.from_pretrained(path, config=config, attn_implementation="eager").eval()
    tokens = torch.tensor(hugging_face_rows(path)[:1])
    with torch.no_grad():
        difference = (plain(tokens).logits - load_hugging_face(path)(tokens).logits).abs().max()
    assert difference > 1e-3
