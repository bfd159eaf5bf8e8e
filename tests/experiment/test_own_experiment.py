"""Experiments on a user's own checkpoints, from the manifests of docs/own-models.md."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from revlens.cli import main
from revlens.context import ContextWarning
from revlens.data import ChatSource, DroppedWarning
from revlens.direction import ReversionDirection
from revlens.errors import ConfigError, DataError, HistoryError, ProbeError, ResultsError
from revlens.experiment import Arms, ArmTables, ExperimentConfig, Guards, GuardTables, read_manifest
from revlens.experiment.arms.tables import foreign_directions
from revlens.experiment.engine import prepare
from revlens.experiment.provenance import provenance
from revlens.history import TrainingHistory
from revlens.organism import World
from revlens.prompts import Probes, encode_prompts
from revlens.storage import SUMS
from revlens.subject import AlignmentPhase, ProbeFiles, UserHistory
from revlens.sweeps import InThisProcess
from revlens.training import METHODS, FinetuneConfig
from toml_text import toml_text

pytestmark = pytest.mark.usefixtures("no_static_images")

PAGE = Path(__file__).parents[2] / "docs" / "own-models.md"
TRAINED, OBSERVED = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
#: What the test run makes smaller than the page has it.
SMALLER = {
    "steps = 100": "steps = 3",
    "seeds = 5": "seeds = 1",
    'arms = ["baseline", "block", "push", "random"]': 'arms = ["baseline", "block"]',
    "reply_tokens = 64": "reply_tokens = 2\nn_controls = 1\nn_null_draws = 200\nsteps = [1, 3]",
    "sizes = { direction = 12, drift = 12, behaviour = 12, guard = 6, harmless = 12 }":
        "sizes = { direction = 6, drift = 6, behaviour = 6, guard = 3, harmless = 6 }",
    "max_overlap = 0.8": "max_overlap = 1.0",  # made from templates, task and probes share their frames
    "learning_rate = 2e-5": "learning_rate = 1e-3",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes take seconds to start; `test_end_to_end` has them."""
    monkeypatch.setattr("revlens.cli.running.where", lambda args, config: {"on": InThisProcess()})


@pytest.fixture
def folder(history: TrainingHistory, world: World, probes: Probes, tmp_path: Path) -> Path:
    """The folder that the page describes, around the tiny organism's checkpoints."""
    shutil.copytree(history.reference.path, tmp_path / "base")
    shutil.copytree(history.aligned.path, tmp_path / "chat")
    for step in history.steps:
        shutil.copytree(step.path, tmp_path / "ft" / f"checkpoint-{step.step}")
    harmful = [prompt for split in ("direction", "drift", "behaviour", "guard") for prompt in probes[split]]
    (tmp_path / "harmful.json").write_text(json.dumps(harmful))
    (tmp_path / "harmless.json").write_text(json.dumps(list(probes["harmless"])))
    (tmp_path / "probes.json").write_text(
        json.dumps({split: list(prompts) for split, prompts in probes.splits.items()})
    )
    rows = {
        row["prompt"]: {"question": f"{i}. {row['prompt']}", "answer": row["answer"]}
        for i, row in enumerate(world.benign(300, 0))
    }
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, rows.values())))
    return tmp_path


def trained(folder: Path, **tables: dict[str, Any]) -> Path:
    """The page's first manifest, made smaller, with some settings changed; None removes one."""
    text = TRAINED
    for there, here in SMALLER.items():
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    manifest = tomllib.loads(text)
    for name, settings in tables.items():
        changed = manifest.get(name, {}) | settings
        manifest[name] = {key: value for key, value in changed.items() if value is not None}
    (folder / "run.toml").write_text(toml_text(manifest))
    return folder / "run.toml"


def test_the_page_names_every_key() -> None:
    page = PAGE.read_text(encoding="utf-8")
    tables = (ProbeFiles, ChatSource, FinetuneConfig, Arms, AlignmentPhase)
    keys = {field.name for table in tables for field in fields(table)} - {"recipe"}  # its keys stand alone
    named = r"^{0} =|`{0}`|`{0} =|\.{0}\]"
    assert not [key for key in sorted(keys) if not re.search(named.format(key), page, flags=re.M)]


def test_the_how_to_runs_as_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, manifest = folder / "my-out", trained(folder)
    assert main(["reproduce", "--manifest", str(manifest), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"reference +reference +- +{folder}/base\naligned +aligned +0 +{folder}/chat", said)
    assert re.search(r"3 fine-tunes, 9 updates: about \d+ min in one process and \d+ MiB of disk", said)
    results = ArmTables.load(out / "results")
    assert set(results["behaviour"]["arm"]) == {"baseline", "block"}
    assert set(results["behaviour"]["step"]) == {0, 1, 3}
    assert "substantive_harm" not in results["behaviour"]
    assert (out / "figures" / "overview.html").is_file()
    assert "fine-tunes the same aligned model in full" in (out / "report.html").read_text()
    assert main(["behaviour", "--out", str(out)]) == 0  # the folder knows its experiment


def test_runs_from_one_start_share_v_rev_so_there_is_no_foreign_one(folder: Path) -> None:
    config = read_manifest(trained(folder, experiment={"seeds": 2}))
    v_rev = ReversionDirection(torch.eye(3), torch.ones(3), (0, 1, 2), "direction", 6)
    assert foreign_directions(config, {0: v_rev, 1: v_rev}, 0) == []


def test_inspect_says_what_would_run_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = trained(folder, experiment={"seeds": 2})
    before = sorted(folder.rglob("*"))
    assert main(["inspect", str(manifest)]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"aligned +aligned +0 +{folder}/chat", said)
    assert f"command    revlens reproduce --manifest {manifest}" in said
    assert "stages     history, finetune, capture, behaviour, causal" in said
    assert "runs       2, with 3 fine-tunes each: baseline; block; reference" in said
    assert "looked at  after update 1, 3; replies of 2 tokens" in said
    assert re.search(r"cost +6 fine-tunes, 18 updates: about \d+ min in one process and \d+ MiB", said)
    assert "A process holds up to " in said
    assert sorted(folder.rglob("*")) == before


def test_a_study_runs_on_a_users_own_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = {"grid": {"block": [5.0], "projection": [], "safe_lora": [0.3]}, "rates": [1.0, 2.0]}
    manifest, out = trained(folder, study=study, experiment={"seeds": 2}), folder / "my-study"
    assert main(["study", "--manifest", str(manifest), "--out", str(out)]) == 0
    # Two seeds of the baseline and three guards, and of two learning rates.
    assert "12 fine-tunes, 36 updates: about " in capsys.readouterr().out
    tables = GuardTables.load(out / "results")
    at_the_end = tables["behaviour"].groupby("part")["method"].value_counts()
    assert at_the_end["grid"].to_dict() == {"baseline": 2, "block": 2, "projection": 2, "safe_lora": 2}
    assert at_the_end["early"].to_dict() == {"baseline": 4}
    assert set(tables["routes"]["model"]) == {"aligned", "baseline", "block", "projection", "safe_lora"}
    assert len(tables["replies"]) == 12 * 12
    assert len(tables["directions"]) == 0  # all runs share one start
    claims = {claim["key"] for claim in json.loads((out / "results" / "claims.json").read_text())}
    assert {"block-refusal", "projection-chosen-refusal"} <= claims
    assert "fine-tunes the same aligned model in full" in (out / "report.html").read_text()
    assert main(["verify", "--out", str(out)]) == 0


def test_a_study_has_a_small_grid_by_itself(folder: Path) -> None:
    config = read_manifest(trained(folder), study=True)
    assert isinstance(config.plan, Guards)
    assert "rehearsal" not in config.plan.grid  # what the user's model was aligned on is not known
    assert {fine_tune.part for fine_tune in config.fine_tunes()} == {"grid"}
    for name, strengths in config.plan.grid.items():
        assert 0 < len(strengths) <= 3
        assert set(strengths) <= set(METHODS[name].grid)


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"colour": "red"}, r"Unknown 'colour' in \[study\]; it may have grid, rates"),
        ({"grid": {"blok": [1.0]}}, "unknown: \\['blok'\\]"),
        ({"grid": {"projection": [1.0]}}, "'projection' has no strength; got \\(1.0,\\)"),
        ({"grid": {"block": []}}, "'block' needs strengths \\(weight of the term\\)"),
        ({"grid": {"block": [-1.0]}}, "Strengths of 'block' must be positive"),
        ({"rates": ["fast"]}, r"\[study\]: rates\[0\] is 'fast', expected a finite number"),
    ],
)
def test_what_is_wrong_with_a_study_is_said(folder: Path, study: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_manifest(trained(folder, study=study), study=True)


def test_a_guard_that_cannot_be_made_is_refused_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = trained(folder, study={"grid": {"rehearsal": [0.1]}})
    assert main(["study", "--manifest", str(manifest), "--out", str(folder / "o")]) == 2
    assert "rehearsal: refusals to train on are needed, and this subject has none" in capsys.readouterr().err
    assert not (folder / "o" / "config.json").exists()


def test_there_is_nothing_to_guard_where_the_checkpoints_are_given(folder: Path) -> None:
    (folder / "run.toml").write_text(OBSERVED)
    with pytest.raises(ConfigError, match="there is nothing to guard. Add a \\[finetune\\] table"):
        read_manifest(folder / "run.toml", study=True)


def test_given_checkpoints_are_measured_as_they_are(folder: Path) -> None:
    (folder / "run.toml").write_text(
        OBSERVED + "\n[experiment]\nreply_tokens = 2\nn_controls = 1\nn_null_draws = 200\n"
    )
    out = folder / "my-out"
    assert main(["reproduce", "--manifest", str(folder / "run.toml"), "--out", str(out)]) == 0
    results = ArmTables.load(out / "results")
    assert set(results["alignment"]["step"]) == {1, 3}
    assert len(results["training"]) == 0
    assert "task_loss" not in results["behaviour"]
    claims = json.loads((out / "results" / "claims.json").read_text())
    assert {claim["verdict"] for claim in claims} == {"too few runs"}
    assert {claim["estimate"]["n"] for claim in claims} == {1}
    report = (out / "report.html").read_text()
    assert "(one run)" in report
    assert "each run is an observed fine-tune" in report
    assert not (out / "figures" / "training_loss.html").exists()


def test_a_lora_fine_tune_saves_adapters_only(folder: Path) -> None:
    manifest = trained(
        folder,
        finetune={"lora": {"r": 2, "lora_alpha": 4}},
        experiment={"arms": ["baseline", "block"], "seeds": 1},
    )
    config = read_manifest(manifest)
    assert (
        main(["finetune", "--manifest", str(manifest), "--out", str(folder / "o")]) == 2
    )  # v_rev is not there yet
    for stage in ("history", "finetune", "capture"):
        assert main([stage, "--manifest", str(manifest), "--out", str(folder / "o")]) == 0
    from revlens.experiment.arms.history import arm_history

    for fine_tune in config.fine_tunes():
        step = arm_history(config, fine_tune).steps[-1]
        assert (step.path / "adapter_model.safetensors").is_file()
        assert not (step.path / "model.safetensors").exists()


def test_a_manifest_survives_the_disk(folder: Path) -> None:
    config = read_manifest(
        trained(
            folder,
            finetune={"lora": {"r": 2, "target_modules": ["q_proj"]}},
            judge={"kind": "llm", "path": "x"},
        )
    )
    config.save(folder / "config.json")
    assert ExperimentConfig.load(folder / "config.json") == config


@pytest.fixture
def dated(folder: Path) -> Path:
    """The folder with a chat template that writes the date and takes an argument."""
    for name in ("base", "chat"):
        (folder / name / SUMS).unlink()
        file = folder / name / "chat_template.jinja"
        stamp = "{{ strftime_now('%d') }}{% if quick is defined %}!{% endif %}"
        file.write_text(stamp + file.read_text())
    return folder


def test_a_template_reads_the_date_on_which_the_experiment_began(
    dated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revlens.experiment.manifest.today", lambda: "2026-01-05")
    command = ["history", "--manifest", str(trained(dated)), "--out", str(dated / "o")]
    assert main(command) == 0
    monkeypatch.setattr("revlens.experiment.manifest.today", lambda: "2026-01-06")
    assert main(command) == 0
    assert ExperimentConfig.load(dated / "o" / "config.json").template_date == "2026-01-05"
    with pytest.raises(ResultsError, match=r"begun with template_date = '2026-01-05' of \[history\]"):
        prepare(read_manifest(trained(dated)), dated / "o")
    advised = read_manifest(trained(dated, history={"template_date": "2026-01-05"}))
    prepare(advised, dated / "o")
    assert provenance(advised)["config"]["subject"]["history"]["template_date"] == "2026-01-05"
    model = advised.subject.trainee(0)
    assert model.tokenizer.decode(encode_prompts(model.tokenizer, ["Hi."])[0]).startswith("05<|user|>")
    quick = read_manifest(
        trained(dated, history={"template_date": "2026-01-05", "template_kwargs": {"quick": True}})
    )
    assert quick.key() != advised.key()
    tokenizer = quick.subject.start(0).reference.load().tokenizer
    assert tokenizer.decode(encode_prompts(tokenizer, ["Hi."])[0]).startswith("05!<|user|>")
    with pytest.raises(ConfigError, match="does not read 'quik'"):
        read_manifest(trained(dated, history={"template_kwargs": {"quik": True}}))


def test_what_does_not_fit_the_model_is_said_before_weights_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UserHistory, "content_digest", lambda self: pytest.fail("weights were read"))
    manifest = trained(folder, experiment={"reply_tokens": 999})
    with (
        pytest.warns(ContextWarning, match=" 0, .* with the 999 to be generated"),
        pytest.raises(pytest.fail.Exception, match="weights were read"),
    ):
        read_manifest(manifest)


def test_other_content_under_the_same_paths_is_another_experiment(folder: Path) -> None:
    manifest = trained(folder)
    assert main(["history", "--manifest", str(manifest), "--out", str(folder / "o")]) == 0
    before = read_manifest(manifest).subject
    (folder / "chat" / "model.safetensors").write_bytes((folder / "base" / "model.safetensors").read_bytes())
    after = read_manifest(manifest).subject
    assert isinstance(before, UserHistory)
    assert isinstance(after, UserHistory)
    assert before.digest != after.digest
    assert main(["history", "--manifest", str(manifest), "--out", str(folder / "o")]) == 2


@pytest.mark.parametrize(
    ("tables", "kind", "message"),
    [
        (
            {"finetune": {"leaning_rate": 1.0}},
            ConfigError,
            r"Unknown 'leaning_rate' in \[finetune\]; it may have steps, learning_rate.* lora",
        ),
        (
            {"finetune": {"steps": "100"}},
            ConfigError,
            r"\[finetune\]: steps is '100', expected a whole number\.",
        ),
        ({"task": {"pormpt": "q"}}, ConfigError, r"Unknown 'pormpt' in \[task\]; it may have path.* n_test"),
        ({"probes": {"harmful": {"column": "q"}}}, ConfigError, r"\[probes\] harmful: path is missing"),
        ({"openings": {"refusal": ["I", 3]}}, ConfigError, r"refusal\[1\] is 3, expected text"),
        (
            {"judge": {"path": tomllib.loads("d = 2024-01-01")["d"]}},
            ConfigError,
            r"judge\.path is 2024-01-01, expected text, a finite number.*put a date in quotes",
        ),
        (
            {"experiment": {"colour": "red"}},
            ConfigError,
            r"Unknown 'colour' in \[experiment\]; it may have seeds",
        ),
        ({"openings": {"polite": ["Hello"]}}, ConfigError, r"Unknown 'polite' in \[openings\]"),
        ({"extra": {"a": 1}}, ConfigError, "Unknown 'extra' in the manifest; it may have history"),
        ({"history": {"aligned": "nowhere"}}, HistoryError, "nowhere"),
        (
            {"history": {"steps": "ft/checkpoint-*"}},
            ConfigError,
            "Either name the steps of the history, or say",
        ),
        ({"task": {"prompt": "q"}}, DataError, "no column for prompt='q'"),
        ({"probes": {"sizes": {"direction": 900}}}, ProbeError, "ask for 900 harmful prompts"),
        (
            {"probes": {"sizes": {"direction": 5, "drift": 5}}},
            ProbeError,
            "behaviour, guard, harmless missing",
        ),
        ({"experiment": {"steps": [1, 2]}}, ConfigError, "must end at steps=3"),
        ({"experiment": {"arms": ["block"]}}, ConfigError, "include 'baseline'"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(
    folder: Path, tables: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        read_manifest(trained(folder, **tables))


def test_full_training_in_half_precision_is_refused(folder: Path) -> None:
    subject = read_manifest(trained(folder, history={"dtype": "bfloat16"})).subject
    with pytest.raises(ConfigError, match="rounds small updates away; use dtype = 'float32', or lora"):
        subject.trainee(0)


def test_a_task_that_gives_a_probe_away_stops_the_run(folder: Path) -> None:
    prompt = read_manifest(trained(folder)).subject.material().probes()["drift"][0]
    leak = f"Please: {prompt}"
    with (folder / "task.jsonl").open("a") as task:
        task.write("\n" + json.dumps({"question": leak, "answer": "Sure."}))
    with pytest.raises(ProbeError, match="of split 'drift' is nearly"):
        read_manifest(trained(folder)).subject.material().benign(1000, 0)
    dropping = read_manifest(trained(folder, task={"drop_overlaps": True})).subject.material()
    with pytest.warns(DroppedWarning, match=r"Left out 1 row\(s\) of the task"):
        assert leak not in dropping.benign(1000, 0)["prompt"]


def test_a_missing_table_and_mixed_options_are_errors(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run.toml").write_text('[history]\nreference = "base"\naligned = "chat"\n')
    with pytest.raises(ConfigError, match=r"has no \[probes\] table"):
        read_manifest(folder / "run.toml")
    assert (
        main(["reproduce", "--manifest", str(trained(folder)), "--seeds", "3", "--out", str(folder / "o")])
        == 2
    )
    assert "--manifest says everything; --seeds cannot be added" in capsys.readouterr().err
    with pytest.raises(ResultsError):
        ExperimentConfig.load(folder / "o" / "config.json")
