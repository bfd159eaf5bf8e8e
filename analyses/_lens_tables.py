"""What `what_v_rev_is.py` measures: every lens on v_rev and on the drift of one run, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import JacobianLens
from transformers import PreTrainedTokenizerBase

import revlens as rl
from _options import fit_v_rev
from revlens.causal import (
    TargetPrompt,
    VocabularyReadout,
    carried,
    direction_readout,
    last_token_lens,
    nearest_features,
    patched_logits,
    patchscope,
    stream_readout,
    token_parts,
)
from revlens.direction import isotropic_directions
from revlens.direction.nulls import covariance_directions
from revlens.errors import ConfigError
from revlens.experiment import ExperimentConfig
from revlens.history import TrainingHistory
from revlens.hooks import point_name, record
from revlens.prompts import encode_prompts
from revlens.subject import BenignRun, Subject

#: Tokens shown at each end, parts of a decomposition and features of a layer.
N_SHOWN = 10
#: Random directions of each null that are decomposed: each takes as long as v_rev.
N_DECOMPOSED = 50
#: Words put into the identity prompt, to see whether the model repeats any.
N_WORDS = 64
TABLES = (
    "stream",
    "drift_parts",
    "scores",
    "tokens",
    "arrival",
    "parts",
    "explained",
    "fidelity",
    "features",
)

#: What a lens reads, with its lens, direction and null.
LabelledReadout = tuple[dict[str, str], VocabularyReadout]


@dataclass(frozen=True)
class Settings:
    """How much is drawn and read.

    Attributes:
        n_draws: random directions of each null.
        n_lens_prompts: prompts that the Jacobian lens is fitted on.
        decoders: of sparse autoencoders, by layer.
    """

    n_draws: int = 200
    n_lens_prompts: int = 32
    decoders: Mapping[int, Float[Tensor, "feature d_model"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Read:
    """What every lens looks at.

    Attributes:
        model: the aligned one.
        openings: the score of all lenses, engaging minus refusal.
        directions: v_rev, and the drift after the last update.
        nulls: random directions by kind.
        layers: of the layer axis.
    """

    model: TransformerBridge
    openings: rl.RefusalLogitDifference
    directions: Mapping[str, Float[Tensor, "layer d_model"]]
    nulls: Mapping[str, Float[Tensor, "draw layer d_model"]]
    layers: tuple[int, ...]


def measure(config: ExperimentConfig, seed: int, settings: Settings) -> dict[str, pd.DataFrame]:
    """All `TABLES` of one seed."""
    subject = config.subject
    history, material = _history(subject, seed, config.steps), subject.material()
    probes = material.probes()
    v_rev, ends = fit_v_rev(history, probes)
    last, aligned = history.steps[-1].load(), history.aligned.load()
    openings = rl.RefusalLogitDifference.from_texts(aligned.tokenizer, *material.openings())
    stream, streams = _stream(history, probes, openings)
    harmless = [rl.read_prompts(model, probes["harmless"]).mean(0).double() for model in (aligned, last)]
    drift = (streams["last"] - streams["aligned"]).mean(0).double()
    read = Read(
        aligned,
        openings,
        {"v_rev": v_rev.unit, "drift": drift, "drift, harmless prompts": harmless[1] - harmless[0]},
        {
            "isotropic": isotropic_directions(settings.n_draws, *v_rev.unit.shape, seed=seed),
            "covariance": covariance_directions(ends.aligned, settings.n_draws, seed=seed),
        },
        v_rev.layers,
    )
    lens = last_token_lens(aligned, probes["direction"][: settings.n_lens_prompts])
    targets = {
        "identity": TargetPrompt.from_text(aligned.tokenizer),
        "chat": TargetPrompt.from_chat(aligned.tokenizer, probes["harmless"][0]),
    }
    readouts = [*_lens_readouts(read, lens), *_patchscope_readouts(read, targets)]
    tables = {
        "stream": stream,
        "drift_parts": _drift_parts(read, streams["aligned"], drift, v_rev),
        "scores": pd.concat(
            [readout.to_dataframe().assign(**about) for about, readout in readouts], ignore_index=True
        ),
        "tokens": _token_rows(readouts, aligned.tokenizer),
        "arrival": _arrival(read, lens),
        **_parts(read, lens),
        "fidelity": _fidelity(read, targets, probes["drift"], streams["aligned"]),
        "features": _features(read, settings.decoders),
    }
    return {name: tables[name].assign(seed=seed) for name in TABLES}


def _history(subject: Subject, seed: int, steps: tuple[int, ...]) -> TrainingHistory:
    """The seed's history with the steps of its benign fine-tune, trained first where it is not there."""
    if (given := subject.observed(seed)) is not None:
        return given
    run = BenignRun(subject, seed, steps)
    run.train()
    return run.history()


def _stream(
    history: TrainingHistory, probes: rl.Probes, openings: rl.RefusalLogitDifference
) -> tuple[pd.DataFrame, dict[str, Float[Tensor, "prompt layer d_model"]]]:
    """What each checkpoint's own stream reads as; the aligned model's stream and the last one's."""
    rows, kept = [], {}
    for checkpoint in history:
        model = checkpoint.load()
        stream = rl.read_prompts(model, probes["drift"])
        if checkpoint.phase == "aligned":
            kept["aligned"] = stream
        readout = stream_readout(model, stream, openings)
        values = {name: getattr(readout, name).mean(0).tolist() for name in ("engaging", "refusal", "score")}
        rows.append(pd.DataFrame({"checkpoint": checkpoint.name, "layer": range(stream.shape[1]), **values}))
    kept["last"] = stream
    return pd.concat(rows, ignore_index=True), kept


def _drift_parts(
    read: Read, stream: Float[Tensor, "prompt layer d_model"], drift: Tensor, v_rev: rl.ReversionDirection
) -> pd.DataFrame:
    """What the aligned model's stream says when the drift, or a part of it, is added: change of the score."""

    def score(added: Float[Tensor, "layer d_model"]) -> Float[Tensor, " layer"]:
        return stream_readout(read.model, (stream.double() + added).float(), read.openings).score.mean(0)

    before = score(torch.zeros_like(drift))
    along = (drift * v_rev.unit).sum(-1, keepdim=True) * v_rev.unit
    length = drift.norm(dim=-1, keepdim=True)
    effects = {
        name: score(part) - before
        for name, part in {"drift": drift, "along": along, "rest": drift - along}.items()
    }
    tables = []
    for null, draws in read.nulls.items():
        random = torch.stack([score(length * draw) - before for draw in draws])
        tables += [
            pd.DataFrame(
                {
                    "layer": read.layers,
                    "part": part,
                    "effect": effect.tolist(),
                    "null": null,
                    **_null_columns(random),
                }
            )
            for part, effect in effects.items()
        ]
    return pd.concat(tables, ignore_index=True)


def _lens_readouts(read: Read, lens: JacobianLens) -> Iterator[LabelledReadout]:
    """Every direction through the logit lens and through the Jacobian lens, beside every null."""
    for name, through in {"logit": None, "jacobian": lens}.items():
        yield from _beside_nulls(
            name,
            read,
            read.layers,
            partial(direction_readout, read.model, metric=read.openings, layers=read.layers, lens=through),
        )


def _patchscope_readouts(read: Read, targets: Mapping[str, TargetPrompt]) -> Iterator[LabelledReadout]:
    """Every direction at the placeholder of every prompt, beside every null."""
    for name, target in targets.items():
        layers = _readable(read, target)
        scope = partial(patchscope, read.model, metric=read.openings, target=target, layers=layers)
        yield from _beside_nulls(name, read, layers, scope)


def _beside_nulls(
    lens: str, read: Read, layers: tuple[int, ...], reader: Callable[..., VocabularyReadout]
) -> Iterator[LabelledReadout]:
    """What a lens reads in every direction; random directions are read once, as they are the same for all."""
    at = [read.layers.index(layer) for layer in layers]
    draws = torch.cat(list(read.nulls.values()))[:, at]
    null: Float[Tensor, "draw layer"] | None = None
    for direction, vectors in read.directions.items():
        found = reader(directions=vectors[at], null=draws if null is None else draws[:1])
        null = found.null if null is None else null
        for kind, scores in zip(read.nulls, null.split([len(d) for d in read.nulls.values()]), strict=True):
            yield {"lens": lens, "direction": direction, "null": kind}, replace(found, null=scores)


def _readable(read: Read, target: TargetPrompt) -> tuple[int, ...]:
    """Layers after which something still reads the placeholder."""
    ends = target.placeholder == len(target.tokens) - 1
    return (
        read.layers if ends else tuple(layer for layer in read.layers if layer < read.model.cfg.n_layers - 1)
    )


def _token_rows(readouts: Sequence[LabelledReadout], tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "lens": about["lens"], "direction": about["direction"], "layer": readout.layers[i],
                "end": end, "rank": rank, "token": tokenizer.decode([token]),
                "logit": float(readout.logits[i, token]),
            }
            for about, readout in readouts
            if about["null"] == "isotropic"  # the logits are the same beside every null
            for end in ("top", "bottom")
            for i, ids in enumerate(readout.top(N_SHOWN, bottom=end == "bottom").tolist())
            for rank, token in enumerate(ids, start=1)
        ]
    )  # fmt: skip


def _arrival(read: Read, lens: JacobianLens) -> pd.DataFrame:
    """How long a direction of length 1 is when it reaches the last layer, to first order."""

    def lengths(vectors: Float[Tensor, "*draw layer d_model"]) -> Float[Tensor, "*draw layer"]:
        units = vectors / vectors.norm(dim=-1, keepdim=True)
        return carried(read.model, lens, units, read.layers).norm(dim=-1)

    tables = [
        pd.DataFrame(
            {
                "lens": "jacobian", "direction": direction, "layer": read.layers,
                "length": lengths(vectors).tolist(), "null": null, **_null_columns(lengths(draws)),
            }
        )
        for direction, vectors in read.directions.items()
        for null, draws in read.nulls.items()
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _parts(read: Read, lens: JacobianLens) -> dict[str, pd.DataFrame]:
    """Directions, and their reverses, as sums of few tokens' lens vectors."""
    parts, explained = [], []
    for i, layer in enumerate(read.layers[:-1]):
        nulls: dict[str, dict[str, object]] = {}
        for direction, vectors in read.directions.items():
            for side, sign in {"for": 1, "against": -1}.items():
                about = {"direction": direction, "side": side, "layer": layer}
                decompose = partial(token_parts, read.model, lens, sign * vectors[i], layer, k=N_SHOWN)
                if not nulls:  # the same for every direction
                    for kind, draws in read.nulls.items():
                        shares = decompose(null=draws[:N_DECOMPOSED, i]).null
                        columns = _null_columns(shares[:, None])
                        nulls[kind] = {name: value for name, (value,) in columns.items()}
                found = decompose(null=read.nulls["isotropic"][:1, i])
                explained += [
                    about | {"explained": found.explained, "null": kind} | columns
                    for kind, columns in nulls.items()
                ]
                pairs = zip(found.tokens.tolist(), found.coordinates.tolist(), strict=True)
                parts += [
                    about | {"token": read.model.tokenizer.decode([token]), "coordinate": coordinate}
                    for token, coordinate in sorted(pairs, key=lambda pair: -pair[1])
                ]
    return {"parts": pd.DataFrame(parts), "explained": pd.DataFrame(explained)}


def _fidelity(
    read: Read,
    targets: Mapping[str, TargetPrompt],
    prompts: tuple[str, ...],
    stream: Float[Tensor, "prompt layer d_model"],
) -> pd.DataFrame:
    """How often a patchscope says what is put into it, where that is known.

    Into the identity prompt go words, which it should repeat; into the chat go streams of other prompts,
    whose first answer token it should give. ``unpatched`` is how often the prompt says so by itself.
    """
    words = _words(read, prompts)
    answers = _answers(read.model, prompts)
    known = {"identity": (_word_streams(read, words), words), "chat": (stream, answers)}
    rows = []
    for name, target in targets.items():
        layers, (vectors, expected) = _readable(read, target), known[name]
        at = vectors[:, [read.layers.index(layer) for layer in layers]]
        said = patched_logits(read.model, at, target, layers=layers).argmax(-1)
        by_itself = (
            read.model(torch.tensor([target.tokens], device=read.model.W_U.device))[0, -1].argmax().cpu()
        )
        rows += [
            {
                "lens": name,
                "layer": layer,
                "said": float((said[:, i] == expected).float().mean()),
                "unpatched": float((by_itself == expected).float().mean()),
            }
            for i, layer in enumerate(layers)
        ]
    return pd.DataFrame(rows)


def _words(read: Read, prompts: tuple[str, ...]) -> Tensor:
    """Tokens of openings and of prompts, without special ones."""
    tokenizer = read.model.tokenizer
    seen = [*read.openings.engaging, *read.openings.refusal]
    seen += [token for row in encode_prompts(tokenizer, prompts) for token in row]
    kept = [token for token in dict.fromkeys(seen) if token not in tokenizer.all_special_ids]
    return torch.tensor(kept[:N_WORDS])


@torch.no_grad()
def _word_streams(read: Read, words: Tensor) -> Float[Tensor, "word layer d_model"]:
    """The stream of each word by itself, after a BOS where the tokenizer writes one."""
    start = read.model.tokenizer("")["input_ids"]
    rows = torch.tensor([[*start, word] for word in words.tolist()], device=read.model.W_U.device)
    names = [point_name(layer, "resid_post") for layer in read.layers]
    with record(read.model, names, select=lambda h: h[:, -1]) as kept:
        read.model(rows)
    return torch.stack([kept[name].float().cpu() for name in names], dim=1)


@torch.no_grad()
def _answers(model: TransformerBridge, prompts: tuple[str, ...]) -> Tensor:
    """The likeliest first token of the answer to each prompt."""
    rows = encode_prompts(model.tokenizer, prompts)
    device = model.W_U.device
    return torch.stack([model(torch.tensor([row], device=device))[0, -1].argmax().cpu() for row in rows])


def _features(read: Read, decoders: Mapping[int, Tensor]) -> pd.DataFrame:
    """Nearest features of each layer: its own MLP's neurons, and those of the sparse autoencoders given."""
    neurons = {layer: read.model.blocks[layer].mlp.W_out for layer in read.layers}
    tables = []
    for dictionary, by_layer in {"MLP neurons": neurons, "SAE features": decoders}.items():
        for layer, decoder in by_layer.items():
            if layer not in read.layers:
                raise ConfigError(
                    f"--decoder {layer}=...: there is no v_rev at this layer, only at {read.layers}."
                )
            i = read.layers.index(layer)
            tables += [
                nearest_features(decoder, vectors[i], null=draws[:, i], k=N_SHOWN)
                .to_dataframe()
                .assign(dictionary=dictionary, direction=direction, layer=layer, null=null)
                for direction, vectors in read.directions.items()
                for null, draws in read.nulls.items()
            ]
    return pd.concat(tables, ignore_index=True)


def _null_columns(random: Float[Tensor, "draw layer"]) -> dict[str, list[float]]:
    ends = torch.quantile(random, torch.tensor([0.025, 0.975], dtype=random.dtype), dim=0)
    return {"null_mean": random.mean(0).tolist(), "null_low": ends[0].tolist(), "null_high": ends[1].tolist()}
