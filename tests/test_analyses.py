from __future__ import annotations

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

import revlens as rl
from revlens.direction import isotropic_directions
from revlens.errors import ConfigError, HistoryError, ProbeError
from revlens.experiment import ExperimentConfig, analyse_and_save
from revlens.figures import areas_figure
from revlens.results import Layout

FOLDER = Path(__file__).parents[1] / "analyses"
SCRIPTS = sorted(path.name for path in FOLDER.glob("[!_]*.py"))

#: Runs a script with arguments, as `python analyses/...` does, and returns the rows of the tables it prints.
Script = Callable[..., list[list[str]]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    monkeypatch.setenv("COLUMNS", "1000")

    def run(name: str, *args: str) -> list[list[str]]:
        monkeypatch.setattr(sys, "argv", [name, *args])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        rows = [
            line.strip("│").split("│")
            for line in capsys.readouterr().out.splitlines()
            if line.startswith("│")
        ]
        return [[cell.strip() for cell in row] for row in rows]

    return run


@pytest.fixture
def own(history: rl.TrainingHistory, probes: rl.Probes, tmp_path: Path) -> list[str]:
    """The options that name the tiny history as the user's own."""
    path = tmp_path / "probes.json"
    path.write_text(json.dumps(dict(probes.splits)))
    return [
        "--reference",
        str(history.reference.path),
        "--aligned",
        str(history.aligned.path),
        "--probes",
        str(path),
    ]


@pytest.fixture
def activations(history: rl.TrainingHistory, probes: rl.Probes, tmp_path: Path) -> rl.Activations:
    return rl.capture(history, probes, tmp_path / "activations", splits=["direction", "drift"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_how_to_call_the_script(
    name: str, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        script(name, "--help")
    assert end.value.code == 0
    assert f"python analyses/{name}" in capsys.readouterr().out


def test_locate_prints_gap_and_reliability_of_every_layer(
    script: Script, own: list[str], activations: rl.Activations
) -> None:
    rows = script("locate_v_rev.py", *own)
    gap = rl.locate(activations).gap
    split_half = rl.reliability(
        activations.at("reference", "direction"), activations.at("aligned", "direction")
    )
    assert rows == [
        [
            str(layer),
            f"{gap[layer]:.2f}",
            f"{split_half.half[layer]:.3f}",
            f"{split_half.full[layer]:.3f} ({split_half.low[layer]:.3f} to {split_half.high[layer]:.3f})",
        ]
        for layer in activations.layers
    ]


def test_locate_saves_v_rev(
    script: Script, own: list[str], activations: rl.Activations, tmp_path: Path
) -> None:
    script("locate_v_rev.py", *own, "--save", str(tmp_path / "v_rev.safetensors"))
    saved, expected = rl.ReversionDirection.load(tmp_path / "v_rev.safetensors"), rl.locate(activations)
    torch.testing.assert_close(saved.unit, expected.unit, rtol=0, atol=0)
    torch.testing.assert_close(saved.gap, expected.gap, rtol=0, atol=0)
    assert (saved.layers, saved.split, saved.n_prompts) == (expected.layers, "direction", expected.n_prompts)


def test_drift_prints_every_step_against_every_null(
    script: Script, own: list[str], history: rl.TrainingHistory, activations: rl.Activations
) -> None:
    steps = [option for c in history.steps for option in ("--step", f"{c.step}={c.path}")]
    rows = script("drift_vs_nulls.py", *own, *steps, "--draws", "100")

    motion, naive = (
        rl.drift(activations, rl.locate(activations)),
        rl.drift(activations, rl.locate(activations, "drift"), naive=True),
    )
    reference, aligned = activations.at("reference", "direction"), activations.at("aligned", "direction")
    drawn = (
        rl.nulls.covariance_directions(aligned, 100),
        rl.nulls.relabelled_directions(reference, aligned, 100),
    )
    p99 = [
        rl.nulls.NullDistribution.of(
            motion.vectors, directions, n_prompts=activations.splits["direction"]
        ).quantile()
        for directions in drawn
    ]
    assert [int(row[0]) for row in rows] == [1, 3]
    for i, row in enumerate(rows):
        measured = [motion.alignment[i].mean(), naive.alignment[i].mean(), motion.fraction[i].mean()]
        assert row[1:4] == [f"{value:.3f}" for value in measured]
        layers = rl.nulls.NULLS["isotropic-layers"].quantile(motion.vectors, reference, aligned, n_draws=1)
        isotropic = rl.nulls.isotropic_quantile(aligned.shape[-1]), float(layers[i])
        thresholds = [*isotropic, *(float(values[i]) for values in p99)]
        assert row[4:] == [f"{t:.3f} {'passes' if measured[0] > t else 'no'}" for t in thresholds]


@pytest.mark.parametrize("name", ["locate_v_rev.py", "drift_vs_nulls.py"])
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--reference", "base"], "needs --reference, --aligned, --probes; --aligned, --probes missing"),
        (["--aligned", "chat", "--probes", "p.json"], "--reference missing"),
        (["--step", "1=ft"], "--reference, --aligned, --probes missing"),
    ],
)
def test_half_a_history_is_an_error_that_names_what_is_missing(
    name: str, args: list[str], message: str, script: Script
) -> None:
    with pytest.raises(ConfigError, match=message):
        script(name, *args)


@pytest.mark.parametrize("step", ["ft/step-20", "=ft", "20=", "-1=ft", "last=ft"])
def test_a_step_without_number_or_folder_is_an_error(step: str, script: Script, own: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"--step '{step}' must be N=DIR, such as 20=checkpoints/step-20"):
        script("drift_vs_nulls.py", *own, f"--step={step}")


def test_a_step_given_twice_is_an_error(script: Script, own: list[str], history: rl.TrainingHistory) -> None:
    """Otherwise one of the two checkpoints would be dropped silently."""
    with pytest.raises(ConfigError, match="--step 3 is given twice"):
        script("drift_vs_nulls.py", *own, "--step", f"3={history[1].path}", "--step", f"3={history[3].path}")


def test_folders_and_probes_that_are_not_there_are_named(
    script: Script, own: list[str], tmp_path: Path
) -> None:
    with pytest.raises(HistoryError, match="step-5: .*nowhere is no Hugging Face checkpoint"):
        script("drift_vs_nulls.py", *own, "--step", f"5={tmp_path / 'nowhere'}")
    with pytest.raises(ProbeError, match=r"Cannot read probes from .*nothing\.json"):
        script("locate_v_rev.py", *own[:-1], str(tmp_path / "nothing.json"))
    with pytest.raises(HistoryError, match="No fine-tuning step was captured"):
        script("drift_vs_nulls.py", *own)


@pytest.mark.slow
def test_the_guard_holds_alignment_and_harmfulness_down(script: Script) -> None:
    """On the default organism, seed 0."""
    rows = {
        row[0]: [float(cell) for cell in row[1:]]
        for row in script("guarded_finetuning.py", "--arms", "baseline", "block")
    }
    assert list(rows) == ["baseline", "block"]
    (
        (alignment, harmfulness, over_refusal, loss),
        (blocked_alignment, blocked_harmfulness, *_, blocked_loss),
    ) = rows.values()
    assert blocked_alignment < 0 < alignment
    assert blocked_harmfulness < harmfulness
    assert over_refusal <= 1
    assert blocked_loss == pytest.approx(loss, rel=0.2)


OPENINGS = ["--engaging", "Sure", "Use", "--refusal", "I can't", "Sorry"]


@pytest.fixture
def fine_tuned(own: list[str], history: rl.TrainingHistory) -> list[str]:
    return [*own, "--step", f"3={history[3].path}", *OPENINGS]


def test_patching_prints_every_cell_and_every_part(
    script: Script,
    fine_tuned: list[str],
    history: rl.TrainingHistory,
    probes: rl.Probes,
    activations: rl.Activations,
) -> None:
    rows = script("layerwise_patching.py", *fine_tuned, "--last", "2")
    aligned, tuned = history.aligned.load(), history[3].load()
    metric = rl.RefusalLogitDifference.from_texts(aligned.tokenizer, ["Sure", "Use"], ["I can't", "Sorry"])
    sweep = rl.patch_between(aligned, tuned, probes["drift"], metric, last=2)
    along = rl.patch_between(
        aligned, tuned, probes["drift"], metric, part="along", v_rev=rl.locate(activations)
    )
    assert [[cell.rstrip("*") for cell in row[1:]] for row in rows[:3]] == [
        [f"{v:.2f}" for v in row] for row in sweep.recovered().tolist()
    ]
    assert [row[2].split(" ")[0] for row in rows[3:]] == [
        f"{v:.2f}" for v in along.recovered()[:, 0].tolist()
    ]


@pytest.mark.parametrize(
    ("name", "n_columns"),
    [("directional_ablation.py", 5), ("dose_response.py", 6), ("vocabulary_readout.py", 6)],
)
def test_interventions_print_a_row_for_every_site(
    name: str, n_columns: int, script: Script, fine_tuned: list[str]
) -> None:
    controls = [] if name == "vocabulary_readout.py" else ["--controls", "3"]
    rows = script(name, *fine_tuned, *controls)
    expected = {
        "directional_ablation.py": 8,
        "dose_response.py": 4,
        "vocabulary_readout.py": 3,
    }  # three layers, and all together
    assert [len(row) for row in rows] == [n_columns] * expected[name]


def test_a_users_history_needs_its_openings(script: Script, own: list[str]) -> None:
    with pytest.raises(ConfigError, match="needs --engaging and --refusal"):
        script("vocabulary_readout.py", *own)


@pytest.fixture
def manifest(history: rl.TrainingHistory, own: list[str], tmp_path: Path) -> list[str]:
    """The option that names the tiny history, its probes and openings by one file."""
    reference, aligned, probes = own[1::2]
    lines = [
        "[history]",
        f"reference = {json.dumps(reference)}",
        f"aligned = {json.dumps(aligned)}",
        f"steps = {json.dumps(str(history[1].path.parent / 'step-*'))}",
        "[probes]",
        f"file = {json.dumps(probes)}",
        "[openings]",
        f"engaging = {json.dumps(OPENINGS[1:3])}",
        f"refusal = {json.dumps(OPENINGS[4:])}",
    ]
    (tmp_path / "run.toml").write_text("\n".join(lines))
    return ["--manifest", str(tmp_path / "run.toml")]


def test_a_manifest_names_what_the_options_name(
    script: Script, own: list[str], history: rl.TrainingHistory, manifest: list[str]
) -> None:
    steps = [option for c in history.steps for option in ("--step", f"{c.step}={c.path}")]
    for name, *args in (["drift_vs_nulls.py", "--draws", "100"], ["layerwise_patching.py", "--last", "1"]):
        options = [*own, *steps, *(OPENINGS if name == "layerwise_patching.py" else [])]
        assert script(name, *manifest, *args) == script(name, *options, *args)


def test_a_manifest_and_options_for_the_history_exclude_each_other(
    script: Script, own: list[str], manifest: list[str]
) -> None:
    with pytest.raises(ConfigError, match="leave the options for them out"):
        script("locate_v_rev.py", *manifest, *own[:2])


@pytest.mark.usefixtures("no_static_images")
def test_what_v_rev_is_leaves_tables_claims_figures_and_a_summary(
    script: Script, manifest: list[str], history: rl.TrainingHistory, probes: rl.Probes, tmp_path: Path
) -> None:
    """A planted feature of a sparse autoencoder is found; a second call reads what is on disk."""
    v_rev = rl.ReversionDirection.fit(*rl.read_endpoints(history, probes["direction"]), split="direction")
    decoder = torch.cat([isotropic_directions(30, 1, 16)[:, 0], -v_rev.unit[1][None]])
    save_file({"W_dec": decoder.float()}, tmp_path / "sae.safetensors")
    few = ("--draws", "5", "--lens-prompts", "2", "--decoder", f"1={tmp_path / 'sae.safetensors'}")
    out = tmp_path / "out"
    script("what_v_rev_is.py", *manifest, *few, "--out", str(out))
    features = pd.read_parquet(out / "features.parquet")
    nearest = features[(features["dictionary"] == "SAE features") & (features["rank"] == 1)]
    found = nearest[nearest["direction"] == "v_rev"]
    assert set(found["feature"]) == {30}
    assert found["cosine"].tolist() == pytest.approx([-1.0, -1.0])
    scores = pd.read_parquet(out / "scores.parquet")
    assert {lens: rows["layer"].nunique() for lens, rows in scores.groupby("lens")} == {
        "logit": 3, "jacobian": 3, "chat": 3, "identity": 2,
    }  # fmt: skip
    plain = scores[(scores["lens"] == "logit") & (scores["direction"] == "v_rev")]
    readout = rl.vocabulary_readout(history.aligned.load(), v_rev, _openings(history))
    assert plain["score"].tolist() == pytest.approx(readout.score.tolist() * 2)
    summary = (out / "summary.md").read_text()
    assert "too few runs" in summary
    assert "| SAE features | v_rev | 1 | 30 | -1.00 |" in summary
    assert {path.stem for path in (out / "figures").glob("*.html")} == {
        "stream_lens", "jacobian_lens", "arrival", "difference_lens", "patchscope", "features",
    }  # fmt: skip
    assert json.loads((out / "what_v_rev_is.json").read_text())["draws"] == 5
    before = (out / "seed-0" / "scores.parquet").stat().st_mtime_ns
    script("what_v_rev_is.py", *manifest, *few, "--out", str(out))
    assert (out / "seed-0" / "scores.parquet").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="runs of another draws; choose another --out"):
        script("what_v_rev_is.py", *manifest, *few, "--draws", "6", "--out", str(out))


def _openings(history: rl.TrainingHistory) -> rl.RefusalLogitDifference:
    tokenizer = history.aligned.load().tokenizer
    return rl.RefusalLogitDifference.from_texts(tokenizer, OPENINGS[1:3], OPENINGS[4:])


def test_what_v_rev_is_refuses_options_that_do_not_go_together(
    script: Script, manifest: list[str], tmp_path: Path
) -> None:
    save_file({"W_enc": torch.ones(2, 2)}, tmp_path / "sae.safetensors")
    for options, match in (
        (["--model", "m.gguf"], "--model is for --track llm"),
        ([*manifest, "--track", "llm"], "leave --track"),
        ([*manifest, "--decoder", "sae.safetensors"], "LAYER=FILE"),
        ([*manifest, "--decoder", f"1={tmp_path / 'sae.safetensors'}"], "no tensor W_dec, only W_enc"),
    ):
        with pytest.raises(ConfigError, match=match):
            script("what_v_rev_is.py", *options, "--out", str(tmp_path / "out"))


def test_early_warning_reads_a_study(studied: Layout, script: Script, tmp_path: Path) -> None:
    analyse_and_save(copied := Path(shutil.copytree(studied.out, tmp_path / "study")))
    made = runpy.run_path(str(FOLDER / "early_warning.py"))
    rows = made["points"](rl.load_results(copied), ExperimentConfig.load(copied / "config.json"))
    assert len(rows) == 2 * 2 * len(set(rows["step"])), "two seeds, two rates"
    first = rows.drop_duplicates(["seed", "rate"]).pivot(index="seed", columns="rate", values="first_order")
    assert np.allclose(first[2.0], 2 * first[1.0])
    assert rows["harmed"].nunique() == 1, "so few updates decide nothing"
    with pytest.raises(ConfigError, match="of 4 fine-tunes.*nothing to foretell"):
        script("early_warning.py", "--study", str(copied), "--out", str(tmp_path / "out"))
    rows["harmed"] = rows["rate"] == 2.0
    table = made["areas"](made["with_combinations"](rows))
    assert set(table["pairs"]) == {"all", "equal tasks"}, "at equal rates none is harmed, or all are"
    assert (table.loc[table["predictor"] == "drift_norm", "auroc"] == 1.0).all(), "larger steps drift more"
    assert areas_figure(table).data


def test_a_held_out_score_has_not_seen_its_group_and_pairs_are_alike_where_asked() -> None:
    made = runpy.run_path(str(FOLDER / "early_warning.py"))
    drawn = np.random.default_rng(0)
    rows = pd.DataFrame(
        [(seed, rate, drawn.normal()) for seed in range(6) for rate in (1.0, 2.0) for _ in range(10)],
        columns=["seed", "rate", "noise"],
    )
    # Harm follows the noise with a sign of each seed's own, and comes with the higher rate only.
    sign = np.where(rows["seed"] % 2, 1, -1)
    rows["harmed"] = (sign * rows["noise"] > 0) & (rows["rate"] == 2.0)
    one_sided = rows[rows["seed"] % 2 == 1]
    others = pd.concat([one_sided, rows[rows["seed"] == 0]])
    others = others.assign(score=made["held_out_scores"](others, ["noise", "rate"], "seed"))
    area = made["area"]
    for seed, expected in ((1, 1.0), (0, 0.0)):
        assert area(others[others["seed"] == seed], "score", equal=["rate"]).value == expected
    assert area(one_sided, "rate").value == roc_auc_score(one_sided["harmed"], one_sided["rate"]) > 0.6
    assert area(one_sided, "rate", equal=["rate"]).value == 0.5, "at equal rates the rate says nothing"
    assert area(one_sided, "noise", equal=["rate"]).value == 1.0
    assert area(one_sided, "noise", minus="rate", equal=["rate"]).value == 0.5
    assert area(one_sided.assign(harmed=True), "noise") is None
