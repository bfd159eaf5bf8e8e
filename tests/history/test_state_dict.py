from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from revlens.errors import HistoryError
from revlens.history import StateDict, TrainingHistory

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 5, 6, 7]])
Weights = dict[str, Tensor]


@pytest.fixture
def hf_model(history: TrainingHistory) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(history.aligned.path)


@pytest.fixture
def tokenizer(history: TrainingHistory) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(history.aligned.path)


def weights_of(history: TrainingHistory, key: str | int) -> Weights:
    return AutoModelForCausalLM.from_pretrained(history[key].path).state_dict()


@pytest.fixture
def in_memory(
    history: TrainingHistory, hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> TrainingHistory:
    weights = {key: weights_of(history, key) for key in ("reference", "aligned", 3)}
    return TrainingHistory.from_state_dicts(
        hf_model, tokenizer, reference=weights["reference"], aligned=weights["aligned"], steps={3: weights[3]}
    )


def test_it_is_the_same_history_as_on_disk(in_memory: TrainingHistory, history: TrainingHistory) -> None:
    assert in_memory.n_layers == history.n_layers
    chat = [{"role": "user", "content": "Hello."}]
    for key in ("reference", "aligned", 3):
        bridge, disk = in_memory[key].load(), history[key].load()
        torch.testing.assert_close(bridge(TOKENS), disk(TOKENS), rtol=0, atol=0)
        assert bridge.tokenizer.apply_chat_template(chat) == disk.tokenizer.apply_chat_template(chat)


def test_bridges_share_no_memory(in_memory: TrainingHistory, hf_model: PreTrainedModel) -> None:
    given = [tensor for c in in_memory for tensor in c.source.weights.values()]  # type: ignore[attr-defined]
    one, other = in_memory.aligned.load(), in_memory.aligned.load()
    memory = [
        {p.data_ptr() for p in where}
        for where in (one.parameters(), other.parameters(), given, hf_model.parameters())
    ]
    assert sum(map(len, memory)) == len(set.union(*memory))


def test_identity_is_a_hash_of_the_content(
    in_memory: TrainingHistory, hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    weights: Mapping[str, Tensor] = in_memory.aligned.source.weights  # type: ignore[attr-defined]
    copy = {name: tensor.clone() for name, tensor in reversed(list(weights.items()))}
    assert StateDict(hf_model, tokenizer, copy).identity() == in_memory.aligned.source.identity()
    assert len({c.source.identity() for c in in_memory}) == 3
    copy["model.norm.weight"][0] += 1e-6
    assert StateDict(hf_model, tokenizer, copy).identity() != in_memory.aligned.source.identity()
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    assert StateDict(hf_model, tokenizer, half).identity().startswith("sha256:")


def test_a_dtype_is_that_of_the_load(
    hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, history: TrainingHistory
) -> None:
    reference, aligned = (weights_of(history, key) for key in ("reference", "aligned"))
    half = TrainingHistory.from_state_dicts(
        hf_model, tokenizer, reference=reference, aligned=aligned, dtype=torch.bfloat16
    )
    assert {p.dtype for p in half.aligned.load().parameters()} == {torch.bfloat16}
    assert hf_model.dtype == torch.float32


def broken(weights: Weights, how: str) -> Weights:
    if how == "missing":
        del weights["model.norm.weight"]
    elif how == "unexpected":
        weights["model.norm.bias"] = torch.zeros(16)
    elif how == "shape":
        weights["model.norm.weight"] = torch.zeros(8)
    else:
        weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    return weights


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"missing \['model.norm.weight'\], unexpected nothing"),
        ("unexpected", r"missing nothing, unexpected \['model.norm.bias'\]"),
        ("shape", r"model.norm.weight has shape \(8,\), but \(16,\)"),
        ("tied", "lm_head.weight, model.embed_tokens.weight are one tied weight"),
    ],
)
def test_state_dicts_that_do_not_fit(
    how: str, message: str, hf_model: PreTrainedModel, tokenizer: Any, history: TrainingHistory
) -> None:
    with pytest.raises(HistoryError, match=message):
        StateDict(hf_model, tokenizer, broken(weights_of(history, "aligned"), how))


@pytest.mark.parametrize("left_out", ["lm_head.weight", "model.embed_tokens.weight"])
def test_one_name_of_a_tied_weight_is_enough(
    left_out: str, hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, history: TrainingHistory
) -> None:
    weights = weights_of(history, 3)
    del weights[left_out]
    bridge = StateDict(hf_model, tokenizer, weights).boot(torch.float32)
    torch.testing.assert_close(bridge(TOKENS), history[3].load()(TOKENS), rtol=0, atol=0)


def test_live_state_dicts_of_one_model_are_an_error(
    hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(HistoryError, match="reference and aligned are the same memory.*clone"):
        TrainingHistory.from_state_dicts(
            hf_model, tokenizer, reference=hf_model.state_dict(), aligned=hf_model.state_dict()
        )
