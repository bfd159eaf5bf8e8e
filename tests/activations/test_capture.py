from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

from revlens.activations import Activations, Positions, Sites, capture, read_prompts
from revlens.errors import HistoryError, NonFiniteError, ProbeError, ResultsError, SiteError
from revlens.history import TrainingHistory
from revlens.prompts import Probes, encode_prompts


def test_last_token_equals_hugging_face_hidden_states(history: TrainingHistory, probes: Probes) -> None:
    prompts = probes["drift"]
    model = history.aligned.load()
    ours = read_prompts(model, prompts, Sites("resid_post"))
    hf = AutoModelForCausalLM.from_pretrained(history.aligned.path, attn_implementation="eager")
    for i, row in enumerate(encode_prompts(model.tokenizer, prompts)):
        with torch.no_grad():
            states = hf.model(torch.tensor([row]), output_hidden_states=True)
        # Hugging Face takes the last hidden state after the final norm; earlier block outputs are comparable.
        for layer in range(2):
            torch.testing.assert_close(
                ours[i, layer], states.hidden_states[layer + 1][0, -1], rtol=1e-4, atol=1e-5
            )


def test_the_last_block_is_read_before_the_final_norm(history: TrainingHistory, probes: Probes) -> None:
    model = history.aligned.load()
    last = read_prompts(model, probes["drift"][:1], Sites())[0, -1]
    (row,) = encode_prompts(model.tokenizer, probes["drift"][:1])
    hf = AutoModelForCausalLM.from_pretrained(history.aligned.path, attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(
            hf.lm_head(hf.model.norm(last)), hf(torch.tensor([row])).logits[0, -1], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("positions", ["last", "mean"])
def test_batching_and_order_change_nothing(
    aligned: TransformerBridge, probes: Probes, positions: Positions
) -> None:
    prompts = probes["drift"]
    together = read_prompts(aligned, prompts, Sites(), positions)
    one_by_one = read_prompts(aligned, prompts, Sites(), positions, batch_size=1)
    backwards = read_prompts(aligned, prompts[::-1], Sites(), positions, batch_size=3).flip(0)
    torch.testing.assert_close(one_by_one, together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(backwards, together, rtol=1e-4, atol=1e-5)


def test_mean_position_is_the_mean_over_prompt_tokens(aligned: TransformerBridge, probes: Probes) -> None:
    prompt = probes["drift"][:1]
    (row,) = encode_prompts(aligned.tokenizer, prompt)
    _, cache = aligned.run_with_cache(torch.tensor([row]))
    mean = read_prompts(aligned, prompt, Sites(layers=(1,)), "mean")
    torch.testing.assert_close(mean[0, 0], cache["blocks.1.hook_out"][0].mean(0), rtol=1e-4, atol=1e-5)


def test_resid_mid_is_resid_pre_plus_attention(aligned: TransformerBridge, probes: Probes) -> None:
    read = {
        c: read_prompts(aligned, probes["drift"], Sites(c))
        for c in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    }
    torch.testing.assert_close(read["resid_pre"] + read["attn_out"], read["resid_mid"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read["resid_mid"] + read["mlp_out"], read["resid_post"], rtol=1e-4, atol=1e-5)


def test_unknown_sites_are_errors(aligned: TransformerBridge, probes: Probes) -> None:
    with pytest.raises(SiteError, match="'resid_out'; expected one of resid_pre"):
        Sites("resid_out")
    with pytest.raises(SiteError, match="Layer 3 does not exist: the model has layers 0 to 2"):
        read_prompts(aligned, probes["drift"], Sites(layers=(1, 3)))
    for layers in ((), (-1,), (1, 1), (2, 1)):
        with pytest.raises(SiteError, match="must be increasing"):
            Sites(layers=layers)
    with pytest.raises(ProbeError, match="No prompts"):
        read_prompts(aligned, [], Sites())


def test_a_nan_is_an_error_that_names_layer_and_prompt(aligned: TransformerBridge, probes: Probes) -> None:
    with torch.no_grad():
        aligned.state_dict()["blocks.1.mlp.out.weight"][0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="resid_post at layer 1 is not finite on prompt '"):
        read_prompts(aligned, probes["drift"], Sites())


def test_capture_writes_reads_and_resumes(history: TrainingHistory, probes: Probes, tmp_path: Path) -> None:
    acts = capture(history, probes, tmp_path, splits=["direction", "drift"])
    assert acts.checkpoints == ("reference", "aligned", "step-1", "step-3")
    assert acts.steps == (1, 3)
    assert acts.layers == (0, 1, 2)
    direct = read_prompts(history[3].load(), probes["drift"], Sites())
    torch.testing.assert_close(acts.at("step-3", "drift"), direct.double(), rtol=0, atol=0)

    (tmp_path / "step-3.drift.00000.safetensors").unlink()
    untouched = (tmp_path / "step-3.direction.00000.safetensors").stat().st_mtime_ns
    again = capture(history, probes, tmp_path, splits=["direction", "drift"])
    torch.testing.assert_close(again.at("step-3", "drift"), direct.double(), rtol=0, atol=0)
    assert (tmp_path / "step-3.direction.00000.safetensors").stat().st_mtime_ns == untouched


def test_a_folder_is_tied_to_its_capture(history: TrainingHistory, probes: Probes, tmp_path: Path) -> None:
    capture(history, probes, tmp_path, splits=["drift"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ResultsError, match=r"another capture \(layers differ\)"):
        capture(history, probes, tmp_path, splits=["drift"], sites=Sites(layers=(0,)))
    other = Probes({"drift": (*probes["drift"][:-1], "Something else?")})
    with pytest.raises(ResultsError, match="probes differ"):
        capture(history, other, tmp_path, splits=["drift"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_asking_for_what_was_not_captured(history: TrainingHistory, probes: Probes, tmp_path: Path) -> None:
    acts = capture(history, probes, tmp_path, splits=["drift"])
    with pytest.raises(HistoryError, match="'step-2' was not captured; there are reference"):
        acts.at("step-2", "drift")
    with pytest.raises(ProbeError, match="'guard' was not captured; there are drift"):
        acts.at("aligned", "guard")
    with pytest.raises(ResultsError, match="run capture first"):
        Activations.open(tmp_path / "nowhere")


def test_a_failing_checkpoint_leaves_no_file_of_it(
    history: TrainingHistory, probes: Probes, tmp_path: Path
) -> None:
    broken = tmp_path / "step-9"
    shutil.copytree(history[3].path, broken)
    (broken / "model.safetensors").write_bytes(b"not safetensors")
    longer = TrainingHistory.from_dirs(history.reference.path, history.aligned.path, {9: broken})
    with pytest.raises(HistoryError, match="model.safetensors is damaged"):
        capture(longer, probes, tmp_path / "acts", splits=["drift"])
    assert sorted(p.name for p in (tmp_path / "acts").iterdir()) == [
        "aligned.drift.00000.safetensors",
        "manifest.json",
        "reference.drift.00000.safetensors",
    ]
