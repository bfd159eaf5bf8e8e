"""Lenses that read directions: the stream's logit lens, the Jacobian lens, patchscope and features."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import JacobianLens
from transformers import PreTrainedTokenizerFast

from families import PROMPTS
from revlens.activations import read_prompts
from revlens.causal import (
    IDENTITY_PROMPT,
    RefusalLogitDifference,
    TargetPrompt,
    carried,
    direction_readout,
    last_token_lens,
    nearest_features,
    patched_logits,
    patchscope,
    stream_readout,
    token_parts,
)
from revlens.context import prompt_rows
from revlens.direction import isotropic_directions
from revlens.errors import ConfigError, NonFiniteError, ProbeError, SiteError
from revlens.hooks import add, point_name, record

LAYERS = (0, 1, 2)
#: Other norms, soft caps, and a block whose attention and MLP are parallel.
SOME = pytest.mark.parametrize("model", ["llama", "gemma2", "gpt_neox"], indirect=True)
OPENINGS = RefusalLogitDifference(engaging=(40, 41), refusal=(50,))


def draws(n: int, seed: int = 0) -> Tensor:
    return isotropic_directions(n, 3, 16, seed=seed)


def next_logits(model: TransformerBridge, prompts: tuple[str, ...]) -> Tensor:
    rows = prompt_rows(model, prompts)
    with torch.no_grad():
        return torch.stack([model(torch.tensor([row]))[0, -1] for row in rows]).float()


@SOME
def test_the_last_layers_stream_reads_as_the_models_own_answer(model: TransformerBridge) -> None:
    read = stream_readout(model, read_prompts(model, PROMPTS), OPENINGS)
    logits = next_logits(model, PROMPTS)
    probabilities = logits.softmax(-1)
    torch.testing.assert_close(read.engaging[:, -1], probabilities[:, [40, 41]].sum(-1), rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(read.refusal[:, -1], probabilities[:, 50], rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(read.score[:, -1], OPENINGS(logits), rtol=1e-3, atol=1e-4)
    assert read.engaging.shape == (len(PROMPTS), 3)


def test_the_last_token_lens_is_transformerlens_at_one_position(llama: TransformerBridge) -> None:
    """Of one text, cut so that its only valid position is the last prompt token."""
    llama.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    text = "Tell me how to bake bread, please"
    tokens = llama.to_tokens(text, prepend_bos=False)
    assert prompt_rows(llama, [text]) == tokens.tolist()
    longer = llama.to_tokens(f"{text}!", prepend_bos=False)
    assert longer.shape[1] == tokens.shape[1] + 1
    llama.cfg.default_prepend_bos = False
    theirs = JacobianLens.fit(
        llama, [f"{text}!"], corpus="one text", skip_first_positions=tokens.shape[1] - 1, show_progress=False
    )
    ours = last_token_lens(llama, [text])
    assert ours.source_layers == theirs.source_layers == [0, 1]
    for layer in ours.source_layers:
        torch.testing.assert_close(ours.jacobians[layer], theirs.jacobians[layer], rtol=1e-4, atol=1e-5)


@SOME
def test_the_lens_predicts_what_a_small_addition_does(model: TransformerBridge) -> None:
    """With frozen weights too; batches and padding change nothing."""
    model.requires_grad_(False)
    lens, unit = last_token_lens(model, PROMPTS, batch_size=2), draws(1)[0]
    last, size = point_name(2, "resid_post"), 1e-2

    def stream() -> Tensor:
        with record(model, [last], select=lambda h: h[:, -1]) as kept, torch.no_grad():
            total = torch.zeros(16, dtype=torch.float64)
            for row in prompt_rows(model, PROMPTS):
                model(torch.tensor([row]))
                total += kept[last][0].double()
        return total / len(PROMPTS)

    predicted = carried(model, lens, unit, LAYERS)
    for layer in LAYERS:
        ends = []
        for sign in (1, -1):
            with add(model, {layer: unit[layer]}, sign * size, tokens="last_prompt"):
                ends.append(stream())
        measured = (ends[0] - ends[1]) / (2 * size)
        torch.testing.assert_close(predicted[layer].double(), measured, rtol=5e-2, atol=5e-3)


def test_a_lens_reads_a_direction_as_what_it_becomes(llama: TransformerBridge) -> None:
    lens, unit, null = last_token_lens(llama, PROMPTS), draws(1)[0], draws(20, seed=1)
    read = direction_readout(llama, unit, OPENINGS, layers=LAYERS, null=null, lens=lens)
    becomes = carried(llama, lens, unit, LAYERS)
    plain = direction_readout(llama, becomes, OPENINGS, layers=LAYERS, null=null)
    torch.testing.assert_close(read.logits, plain.logits)
    torch.testing.assert_close(becomes[2], unit[2].float())
    assert read.null.shape == (20, 3)
    with pytest.raises(SiteError, match="as many layers"):
        direction_readout(llama, unit, OPENINGS, layers=(0, 1), null=null)
    with pytest.raises(SiteError, match="another model"):
        direction_readout(llama, unit[:, :8], OPENINGS, layers=LAYERS, null=null[..., :8])
    part = JacobianLens({1: lens.jacobians[1]}, n_prompts=1, d_model=16)
    with pytest.raises(SiteError, match=r"no layer 0, only \[1\]"):
        direction_readout(llama, unit, OPENINGS, layers=LAYERS, null=null, lens=part)
    with pytest.raises(ConfigError, match="not one of this model"):
        carried(llama, JacobianLens({0: torch.eye(8)}, n_prompts=1, d_model=8), unit, LAYERS)
    with pytest.raises(ProbeError):
        last_token_lens(llama, [])


def test_token_parts_find_the_tokens_that_a_direction_is_made_of(llama: TransformerBridge) -> None:
    lens = last_token_lens(llama, PROMPTS)
    atoms = lens.lens_vectors(llama, [17, 90], 0)
    direction = (2 * atoms[0] / atoms[0].norm() + atoms[1] / atoms[1].norm()).double()
    found = token_parts(llama, lens, direction, 0, null=draws(30)[:, 0], k=2)
    assert found.tokens.tolist() == [17, 90]
    assert (found.coordinates > 0).all()
    assert found.explained == pytest.approx(1, abs=1e-4)
    assert found.null.shape == (30,)
    assert found.null.max() < found.explained


@SOME
def test_a_patched_activation_of_its_own_changes_nothing(model: TransformerBridge) -> None:
    target = TargetPrompt.from_text(model.tokenizer)
    names = [point_name(layer, "resid_post") for layer in (0, 1)]
    tokens = torch.tensor([target.tokens])
    with torch.no_grad(), record(model, names, select=lambda h: h[0, target.placeholder]) as kept:
        logits = model(tokens)[0, -1].float()
        own = torch.stack([kept[name] for name in names])
    patched = patched_logits(model, own[None], target, layers=(0, 1))[0]
    for at_layer in patched:
        torch.testing.assert_close(at_layer, logits, rtol=1e-3, atol=1e-4)
    moved = patched_logits(model, own[None] + 3 * draws(1)[:, :2], target, layers=(0, 1))[0]
    assert (moved - logits).abs().amax(-1).min() > 1e-4


@SOME
def test_a_prompts_stream_at_the_end_of_a_chat_gives_its_answer(model: TransformerBridge) -> None:
    """At the last layer the model has nothing left to add, so the answer is that of the prompt itself."""
    target = TargetPrompt.from_chat(model.tokenizer, "Hm.")
    assert target.placeholder == len(target.tokens) - 1
    streams = read_prompts(model, PROMPTS)
    patched = patched_logits(model, streams, target, layers=LAYERS)
    torch.testing.assert_close(patched[:, -1], next_logits(model, PROMPTS), rtol=1e-3, atol=1e-4)


def test_patchscope_scales_to_the_length_that_it_replaces(llama: TransformerBridge) -> None:
    target, unit, null = TargetPrompt.from_chat(llama.tokenizer, "Hm."), draws(1)[0], draws(5, seed=1)
    own = read_prompts(llama, ["Hm."])[0].double().norm(dim=-1)
    found = patchscope(llama, 7 * unit, OPENINGS, target, layers=LAYERS, null=null, scale=2.0, batch_size=4)
    by_hand = patched_logits(llama, 2 * own[:, None] * torch.cat([unit[None], null]), target, layers=LAYERS)
    torch.testing.assert_close(found.logits, by_hand[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.score, OPENINGS(by_hand[0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.null, OPENINGS(by_hand[1:]), rtol=1e-4, atol=1e-4)


def test_a_target_prompt_says_what_it_lacks(llama: TransformerBridge) -> None:
    tokenizer = llama.tokenizer
    target = TargetPrompt.from_text(tokenizer)
    assert tokenizer.decode(target.tokens) == IDENTITY_PROMPT
    assert tokenizer.decode(target.tokens[target.placeholder]) == "?"
    with pytest.raises(ConfigError, match="'' encodes to no token"):
        TargetPrompt.from_text(tokenizer, placeholder="")
    with pytest.raises(ConfigError, match="does not hold the placeholder"):
        TargetPrompt.from_text(tokenizer, "cat -> cat; x ->")
    with pytest.raises(ConfigError, match="no token 3"):
        TargetPrompt((1, 2, 3), 3)
    with pytest.raises(ConfigError, match="leave that layer out"):
        patched_logits(llama, draws(1), target, layers=LAYERS)
    with pytest.raises(SiteError, match="between 0 and 2"):
        patched_logits(llama, draws(1), target, layers=(0, 1, 3))
    with pytest.raises(ConfigError, match="scale=0"):
        patchscope(llama, draws(1)[0], OPENINGS, target, layers=LAYERS, null=draws(2), scale=0.0)


def test_a_target_prompt_is_the_text_as_its_tokenizer_writes_it() -> None:
    """Llama 2's puts a blank before any text, and some end every text with an EOS."""
    words = ["<unk>", "<s>", "</s>", "\u2581", "\u2581cat", "\u2581->", "\u2581?", "\u2581?;"]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = Metaspace(prepend_scheme="always")
    inner.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>")
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    assert TargetPrompt.from_text(tokenizer, "cat -> cat ? ->") == TargetPrompt((1, 4, 5, 4, 6, 5), 4)
    with pytest.raises(ConfigError, match=r"' \?' ends within the token ' \?;'"):
        TargetPrompt.from_text(tokenizer, "cat -> cat ?; ->")


def test_the_feature_along_a_direction_is_found_whatever_its_sign() -> None:
    decoder = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    null = isotropic_directions(200, 1, 16)[:, 0]
    found = nearest_features(decoder, -3 * decoder[7], null=null, k=4)
    assert int(found.features[0]) == 7
    assert float(found.cosines[0]) == pytest.approx(-1)
    assert (found.cosines.abs().diff() <= 0).all()
    assert float(found.p_values()[0]) == pytest.approx(1 / 201)
    rows = found.to_dataframe()
    assert list(rows["rank"]) == [1, 2, 3, 4]
    assert (rows["null_high"] > rows["null_mean"]).all()
    assert len(nearest_features(decoder[:2], decoder[0], null=null).features) == 2


def test_features_of_random_directions_are_not_called_near() -> None:
    """The null searches as well: of 100 random directions about 5 have a feature below p = 0.05."""
    decoder = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    null, tried = isotropic_directions(200, 1, 16)[:, 0], isotropic_directions(100, 1, 16, seed=1)[:, 0]
    near = sum(
        float(nearest_features(decoder, direction, null=null, k=1).p_values()[0]) < 0.05
        for direction in tried
    )
    assert near < 15


def test_a_decoder_that_does_not_fit_is_refused() -> None:
    null = isotropic_directions(5, 1, 16)[:, 0]
    with pytest.raises(ConfigError, match="k=0"):
        nearest_features(torch.ones(4, 16), torch.ones(16), null=null, k=0)
    dead = torch.ones(4, 16)
    dead[2] = 0
    with pytest.raises(NonFiniteError, match="Row 2 of the decoder"):
        nearest_features(dead, torch.ones(16), null=null)
