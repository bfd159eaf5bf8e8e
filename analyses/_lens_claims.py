"""What `what_v_rev_is.py` says of its tables: claims with intervals over runs, figures, and a summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from revlens.figures import features_figure, lens_scores_figure, stream_lens_figure
from revlens.results import Claim
from revlens.statistics import mean_over_runs, ratio_over_runs

Tables = Mapping[str, pd.DataFrame]
#: Random directions, as claims name them.
_NULLS = {"isotropic": "random directions", "covariance": "covariance-matched ones"}
#: Lens, direction, and what reads what.
_READ = (
    ("logit", "v_rev", "v_rev, read as it is,"),
    ("jacobian", "v_rev", "v_rev, carried to the last layer,"),
    ("chat", "v_rev", "v_rev, put at the end of a neutral prompt,"),
    ("identity", "v_rev", "v_rev, put into the identity prompt,"),
    ("logit", "drift", "The drift, read as it is,"),
    ("jacobian", "drift", "The drift, carried to the last layer,"),
    ("chat", "drift", "The drift, put at the end of a neutral prompt,"),
    ("logit", "drift, harmless prompts", "The drift on harmless prompts, read as it is,"),
)
_HEADLINES = ("stream:falls", "jacobian:v_rev", "jacobian:turned")
_NATS = "nats above random directions"
_N_TOKENS = 6


def claims(tables: Tables) -> list[Claim]:
    """What the design asserts. Means over layers leave out the model's last one.

    Its stream is unembedded at once, so a direction from it reads as whatever sets the models' answers apart.
    """
    last = tables["stream"]["layer"].max()
    early = {name: table[table["layer"] < last] for name, table in tables.items()}
    return [
        *_of_stream(tables["stream"], early),
        *_of_scores(early),
        *_of_jacobian(early),
        *_of_others(early),
    ]


def _of_stream(stream: pd.DataFrame, early: Tables) -> Iterator[Claim]:
    final = stream[stream["layer"] == stream["layer"].max()]
    steps = [name for name in stream["checkpoint"].unique() if name.startswith("step-")]
    before, after = (
        _by_seed(final[final["checkpoint"] == name], "refusal") for name in ("aligned", steps[-1])
    )
    yield _above(
        "stream:falls",
        "The last prompt token reads less as a refusal after the fine-tune (probability, aligned minus last)",
        before - after,
    )
    parts = early["drift_parts"]
    for null, what in _NULLS.items():
        own = parts[(parts["part"] == "drift") & (parts["null"] == null)]
        yield _above(
            f"stream:drift:{null}",
            f"The drift, added to the stream, reads as more engaging than {what} of its length (nats)",
            _by_seed(own, "effect") - _by_seed(own, "null_mean"),
        )
    one_null = parts[parts["null"] == "isotropic"]
    along, whole = (
        _by_seed(one_null[one_null["part"] == part], "effect").tolist() for part in ("along", "drift")
    )
    yield Claim(
        "stream:along",
        "The drift's component along v_rev does at least half of that (ratio of means)",
        "",
        ratio_over_runs(along, whole),
        0.5,
    )


def _of_scores(early: Tables) -> Iterator[Claim]:
    scores = early["scores"].assign(beyond=lambda rows: rows["score"] > rows["null_high"])
    for lens, direction, what in _READ:
        rows = scores[(scores["lens"] == lens) & (scores["direction"] == direction)]
        own = rows[rows["null"] == "isotropic"]
        key = f"{lens}:{direction}"
        yield _above(
            key,
            f"{what} is more engaging than random directions (score minus theirs, nats)",
            _by_seed(own, "score") - _by_seed(own, "null_mean"),
        )
        for null, random in _NULLS.items():
            yield _above(
                f"{key}:{null}",
                f"{what} is more engaging than 97.5 % of {random} (share of layers)",
                _by_seed(rows[rows["null"] == null], "beyond"),
                0.5,
            )


def _of_jacobian(early: Tables) -> Iterator[Claim]:
    scores = early["scores"]
    of_v_rev = scores[(scores["direction"] == "v_rev") & (scores["null"] == "isotropic")]
    plain, through = (_by_seed(of_v_rev[of_v_rev["lens"] == lens], "score") for lens in ("logit", "jacobian"))
    yield _above(
        "jacobian:turned",
        "The later layers turn v_rev towards the openings (score carried minus score read as it is, nats)",
        through - plain,
    )
    for null, random in _NULLS.items():
        arrival, explained = (
            table[(table["direction"] == "v_rev") & (table["null"] == null)]
            for table in (early["arrival"], early["explained"])
        )
        yield _above(
            f"arrival:{null}",
            f"More of v_rev's length reaches the last layer than of {random} (ratio)",
            _by_seed(arrival.assign(ratio=arrival["length"] / arrival["null_mean"]), "ratio"),
            1.0,
        )
        own = explained[explained["side"] == "for"]
        yield _above(
            f"parts:{null}",
            f"Ten tokens' lens vectors explain more of v_rev than of {random} (difference of shares)",
            _by_seed(own, "explained") - _by_seed(own, "null_mean"),
        )


def _of_others(early: Tables) -> Iterator[Claim]:
    for lens, what in {
        "chat": "A neutral prompt gives the answer of the prompt whose stream it gets (share, best layer)",
        "identity": "The identity prompt repeats the word that it gets (share, best layer)",
    }.items():
        own = early["fidelity"][early["fidelity"]["lens"] == lens]
        gain = own.assign(gain=own["said"] - own["unpatched"]).groupby("seed")["gain"].max()
        yield _above(f"fidelity:{lens}", what, gain, 0.5)
    features = early["features"]
    nearest = features[(features["rank"] == 1) & (features["dictionary"] == "MLP neurons")]
    for null, random in _NULLS.items():
        own = nearest[(nearest["direction"] == "v_rev") & (nearest["null"] == null)]
        yield _above(
            f"neurons:{null}",
            f"A neuron writes along v_rev more nearly than any does along 95 % of {random} (share of layers)",
            _by_seed(own.assign(near=own["p"] < 0.05), "near"),
            0.5,
        )


def _by_seed(rows: pd.DataFrame, column: str) -> pd.Series:
    """Of each run, the mean over layers."""
    return rows.groupby("seed")[column].mean()


def _above(key: str, statement: str, by_seed: pd.Series, low: float = 0.0) -> Claim:
    estimate = mean_over_runs(by_seed.tolist(), test_zero=low == 0)
    return Claim(key, statement, "", estimate, low, headline=key in _HEADLINES)


def figures(tables: Tables) -> dict[str, go.Figure]:
    """One for each lens, and two more: what arrives at the last layer, and features."""
    scores = tables["scores"]
    return {
        "stream_lens": stream_lens_figure(tables["stream"]),
        "jacobian_lens": lens_scores_figure(
            scores,
            [
                ("logit", "v_rev", "v_rev, read as it is"),
                ("jacobian", "v_rev", "v_rev, carried to the last layer"),
                ("jacobian", "drift", "the drift, carried to the last layer"),
            ],
            title="What the later layers make of a direction (Jacobian lens)",
            y=_NATS,
        ),
        "arrival": lens_scores_figure(
            tables["arrival"],
            [("jacobian", direction, direction) for direction in ("v_rev", "drift")],
            title="Length of a unit direction when it reaches the last layer, to first order",
            y="length, above random",
            column="length",
        ),
        "difference_lens": lens_scores_figure(
            scores,
            [("logit", direction, direction) for direction in scores["direction"].unique()],
            title="Differences of mean activations through the unembedding",
            y=_NATS,
        ),
        "patchscope": lens_scores_figure(
            scores,
            [
                ("chat", "v_rev", "v_rev in a neutral prompt"),
                ("chat", "drift", "the drift there"),
                ("identity", "v_rev", "v_rev in the identity prompt"),
                ("identity", "drift", "the drift there"),
            ],
            title="Directions in the place of a token (patchscope)",
            y=_NATS,
        ),
        "features": features_figure(tables["features"]),
    }


def summary(subject: str, tables: Tables, found: Sequence[Claim]) -> str:
    """A page of Markdown: claims, and what each lens reads in the first run."""
    first = {name: table[table["seed"] == table["seed"].iloc[0]] for name, table in tables.items()}
    fidelity = tables["fidelity"].groupby(["lens", "layer"], sort=False)[["said", "unpatched"]].mean()
    nearest = first["features"][
        (first["features"]["rank"] == 1) & (first["features"]["null"] == "covariance")
    ]
    blocks = [
        "# What v_rev is made of",
        subject,
        _table(("claim", "ours", "verdict"), [(c.statement, str(c.estimate), c.verdict) for c in found]),
        f"Below: seed {tables['stream']['seed'].iloc[0]}.",
        "## Tokens that a direction promotes and demotes",
        _table(("lens", "direction", "layer", "promoted", "demoted"), _token_lines(first["tokens"])),
        "## Directions as sums of tokens' lens vectors",
        _table(
            ("direction", "side", "layer", "tokens"),
            [
                (*key, " ".join(_shown(token) for token in rows["token"].head(_N_TOKENS)))
                for key, rows in first["parts"].groupby(["direction", "side", "layer"], sort=False)
            ],
        ),
        "## How far a patchscope can be trusted",
        "Share of activations of known meaning that the model says, mean over runs; and without a patch.",
        _table(
            ("prompt", "layer", "said", "without"),
            [(*key, f"{said:.2f}", f"{bare:.2f}") for key, said, bare in fidelity.itertuples(name=None)],
        ),
        "## Nearest features",
        _table(
            ("dictionary", "direction", "layer", "feature", "cosine", "p"),
            [
                (row.dictionary, row.direction, row.layer, row.feature, f"{row.cosine:.2f}", f"{row.p:.3f}")
                for row in nearest.itertuples()
            ],
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _token_lines(tokens: pd.DataFrame) -> list[tuple[object, ...]]:
    lines = []
    for key, rows in tokens.groupby(["lens", "direction", "layer"], sort=False):
        ends = [rows[rows["end"] == end]["token"].head(_N_TOKENS) for end in ("top", "bottom")]
        lines.append((*key, *(" ".join(map(_shown, end)) for end in ends)))
    return lines


def _shown(token: str) -> str:
    """A token as code that a table holds."""
    return "`" + repr(token)[1:-1].replace("`", "'").replace("|", "\\|") + "`"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
