from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens.model_bridge import TransformerBridge

from revlens.errors import ConfigError, ProbeError
from revlens.prompts import ENCODED_AT_ONCE, SPLITS, Probes, encode_prompts, pad_id_of, pad_left


def test_splits_must_be_disjoint() -> None:
    with pytest.raises(ProbeError, match="'b' is in both 'direction' and 'drift'"):
        Probes({"direction": ("a", "b"), "drift": ("b",)})


def test_prompts_must_not_repeat() -> None:
    with pytest.raises(ProbeError, match="twice in 'drift'"):
        Probes({"drift": ("a", "a")})


def test_splits_must_not_be_empty_or_unknown() -> None:
    with pytest.raises(ProbeError, match="'drift' is empty"):
        Probes({"drift": ()})
    with pytest.raises(ProbeError, match="Unknown probe split 'train'"):
        Probes({"train": ("a",)})


def test_a_missing_split_names_those_there_are() -> None:
    with pytest.raises(ProbeError, match="No probe split 'guard'; these probes have drift"):
        Probes({"drift": ("a",)})["guard"]


@given(st.lists(st.text(max_size=6), min_size=1, max_size=8, unique=True), st.integers(0, 7))
def test_the_fingerprint_tells_any_change_of_a_prompt(prompts: list[str], where: int) -> None:
    changed = list(prompts)
    changed[where % len(prompts)] += "!"
    if len(set(changed)) == len(changed):
        before, after = (Probes({"drift": tuple(p)}).fingerprint() for p in (prompts, changed))
        assert before != after


def test_the_fingerprint_tells_which_split_a_prompt_is_in() -> None:
    one, other = (
        Probes({"direction": ("a",), "drift": ("b", "c")}),
        Probes({"direction": ("a", "b"), "drift": ("c",)}),
    )
    assert one.fingerprint() != other.fingerprint()


def test_from_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "probes.json"
    path.write_text(json.dumps({split: [f"{split} ü"] for split in SPLITS}), encoding="utf-8")
    assert Probes.from_json(path)["guard"] == ("guard ü",)


@pytest.mark.parametrize("text", ["[]", '{"drift": "a"}', '{"drift": [1]}', "{", "\xff"])
def test_from_json_refuses_other_forms(tmp_path: Path, text: str) -> None:
    path = tmp_path / "probes.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ProbeError):
        Probes.from_json(path)


def test_from_json_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"nowhere\.json"):
        Probes.from_json(tmp_path / "nowhere.json")


def test_prompts_end_where_the_answer_begins(aligned: TransformerBridge) -> None:
    (row,) = encode_prompts(aligned.tokenizer, ["Hello."])
    assert aligned.tokenizer.decode(row) == "<|user|>Hello.<|end|><|assistant|>"


def test_many_prompts_are_encoded_as_few_are(aligned: TransformerBridge) -> None:
    prompts = [f"Tell me {i} times." for i in range(2 * ENCODED_AT_ONCE + 1)]
    rows = encode_prompts(aligned.tokenizer, prompts)
    assert len(rows) == len(prompts)
    for i in (0, ENCODED_AT_ONCE - 1, ENCODED_AT_ONCE, 2 * ENCODED_AT_ONCE):
        assert [rows[i]] == encode_prompts(aligned.tokenizer, [prompts[i]])


def test_a_tokenizer_without_chat_template_is_an_error(aligned: TransformerBridge) -> None:
    aligned.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        encode_prompts(aligned.tokenizer, ["Hello."])


def test_a_tokenizer_without_pad_and_end_is_an_error(aligned: TransformerBridge) -> None:
    aligned.tokenizer.pad_token = None
    assert pad_id_of(aligned.tokenizer) == aligned.tokenizer.eos_token_id
    aligned.tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="pad_token"):
        pad_id_of(aligned.tokenizer)


def test_pad_left_keeps_the_last_token_last() -> None:
    tokens, mask = pad_left([[5, 6, 7], [8]], pad_id=0)
    assert tokens.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
