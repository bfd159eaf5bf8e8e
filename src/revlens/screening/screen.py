"""Scores of training rows before training: which of them would take the aligned model back?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from datasets import Dataset
from torch import nn

from revlens.direction import ReversionDirection
from revlens.errors import NonFiniteError, ProbeError
from revlens.hooks import the_bridge
from revlens.prompts import Probes
from revlens.screening.reversion_gradient import reversion_gradient
from revlens.screening.rivals import probe_similarity, projection_difference
from revlens.screening.row_scores import score_in_batches, score_one_by_one
from revlens.training import FinetuneConfig, encode_examples

#: The columns of `screen` beside ``row``, ``prompt`` and ``answer``, and what they hold; scores first.
COLUMNS: Mapping[str, str] = {
    "sgd": "reversion fraction that one plain gradient step on the row causes, to first order",
    "adamw": "reversion fraction that AdamW's first update on the row causes, to first order",
    "projection_difference": "projection of the row's answer minus the model's own, in units of the gap",
    "gradient_norm": "norm of the gradient of the row's loss",
    "loss": "mean cross-entropy over the row's answer tokens, in nats",
    "answer_tokens": "tokens that the loss is on",
    "similarity": "cosine with the mean of the probes at the last prompt token, after v_rev's last layer",
}


def screen(
    aligned: nn.Module,
    data: Dataset,
    v_rev: ReversionDirection,
    probes: Probes,
    config: FinetuneConfig,
    *,
    split: str = "drift",
    adamw: bool = False,
    reply_tokens: int = 32,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Score each training row by what one update on it alone would do, before any training.

    The reversion score of a row is <df/dtheta, u>: f is the reversion fraction (`revlens.Drift.fraction`,
    mean over v_rev's layers) and u the update on the row's answer loss, with tokens, positions and learning
    rate (at its peak) of `revlens.training.finetune`. It is exact to first order in the learning rate. A
    positive one takes the model back towards the reference.

    Args:
        aligned: the bridge that fine-tuning starts from, with its adapter if it gets one; left in evaluation
            mode, weights untouched.
        data: columns ``prompt`` and ``answer``.
        v_rev: the reversion direction, as `revlens.locate` gives it.
        probes: the prompts on which the fraction is measured.
        config: of the fine-tune that is planned; learning rate, weight decay and clipping count.
        split: which probes; another split than that of v_rev.
        adamw: also score AdamW's first update and the gradient's norm: a backward pass for each row, which
            takes some three times as long.
        reply_tokens: longest answer of the model's own, for the projection difference; 0 leaves it out.
        batch_size: rows and prompts per pass.

    Returns:
        One line for each row of ``data``, in its order: ``row``, ``prompt``, ``answer`` and the `COLUMNS`,
        without ``adamw`` and ``gradient_norm`` or ``projection_difference`` where they are left out.

    Raises:
        ModelError: see `revlens.hooks.the_bridge`; or if the model has no forward derivative and ``adamw`` is
            off.
        ProbeError: if v_rev was estimated on ``split``, or there is no such split.
        ConfigError, SiteError: see `reversion_gradient` and `revlens.training.encode_examples`.
        NonFiniteError: if a score is not finite, with the row.
    """
    model = the_bridge(aligned)
    if v_rev.split == split:
        raise ProbeError(
            f"v_rev was estimated on the split {split!r}: scores on the same prompts would be biased. Use "
            "another split, such as 'drift'."
        )
    model.eval()
    prompts = list(data["prompt"]) if "prompt" in data.column_names else []
    examples = encode_examples(model.tokenizer, data, model=model)
    gradient = reversion_gradient(model, v_rev, probes[split], batch_size=batch_size)
    scores = (
        score_one_by_one(model, examples, gradient, config)
        if adamw
        else score_in_batches(model, examples, gradient, config, batch_size)
    )
    columns = {
        "sgd": scores.sgd,
        "loss": scores.loss,
        "similarity": probe_similarity(model, prompts, probes[split], v_rev.layers[-1], batch_size),
    }
    if adamw:
        columns |= {"adamw": scores.adamw, "gradient_norm": scores.gradient_norm}
    if reply_tokens:
        columns["projection_difference"] = projection_difference(
            model, prompts, examples, v_rev, reply_tokens=reply_tokens, batch_size=batch_size
        )
    for name, values in columns.items():
        if not values.isfinite().all():
            row = int((~values.isfinite()).nonzero()[0])
            raise NonFiniteError(
                f"{name} of row {row}, {prompts[row]!r}, is {values[row].item()}; check the row and the "
                "checkpoint, or load it in a wider dtype."
            )
    table = pd.DataFrame({name: values.double().numpy() for name, values in columns.items()})
    table["answer_tokens"] = [len(example.answer) for example in examples]
    table = table[[name for name in COLUMNS if name in table]]
    return pd.concat(
        [pd.DataFrame({"row": range(len(data)), "prompt": prompts, "answer": list(data["answer"])}), table],
        axis=1,
    )
