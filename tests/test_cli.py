from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from revlens import experiment
from revlens.cli import main
from revlens.cli.arguments import parse
from revlens.cli.claims import print_claims
from revlens.experiment import PLANS, ExperimentConfig, Guards, quick
from revlens.organism import OrganismConfig, WorldConfig
from revlens.results import Claim
from revlens.statistics import Estimate

STAGES = tuple(stage.name for stage in PLANS["arms"].stages)
VERBS = ("reproduce", "study", "directions", *STAGES, "analyse", "report")
HELP = """
import sys
from revlens.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    sys.exit(end.code or ("torch" in sys.modules and "torch was imported"))
"""


def run_help(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HELP, *args, "--help"], capture_output=True, text=True, check=False
    )


@pytest.fixture(autouse=True)
def _unbroken_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No line wraps, and a command that writes into the working folder writes into tmp_path."""
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(tmp_path)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"revlens {version('revlens')}\n"


def test_help_fits_80_columns_in_groups_with_examples_that_are_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    texts = {}
    for verb in ("", *VERBS, "inspect", "runs", "screen", "rejudge", "verify"):
        with pytest.raises(SystemExit):
            main([*verb.split(), "--help"])
        texts[verb] = capsys.readouterr().out
        assert max(map(len, texts[verb].splitlines())) <= 80
    headings = ["Look first:", "Whole experiments:", "Stages, one by one:", "Results:", "Examples:"]
    assert [line for line in texts[""].splitlines() if line in headings] == headings
    assert "what is run:" in texts["reproduce"]
    assert "where it runs:" in texts["reproduce"]
    for text in texts.values():
        for example in re.findall(
            r"^  revlens (.*?)(?:  +\(.*)?$", text.partition("Examples:")[2], flags=re.M
        ):
            assert parse(example.split()).verb == example.split()[0]


def claims_of(n: int, *, headline: int) -> list[Claim]:
    statement = "Blocking random directions, matched in what they take away, leaves refusals (step 100)"
    estimate = Estimate(-0.123, -0.456, 0.789, 5)
    paper = "19.0 ± 4.0 % → 8.5 ± 1.5 %"
    return [
        Claim(f"{i}", f"{statement} {i}", paper, estimate, 0.0, paper_value=0.1, headline=i < headline)
        for i in range(n)
    ]


def printed(claims: list[Claim], *, every: bool = False) -> list[str]:
    said = io.StringIO()
    print_claims(claims, Console(file=said, width=80), every=every)
    return said.getvalue().splitlines()


def test_the_headline_claims_fit_a_screen() -> None:
    lines = printed(claims_of(66, headline=5))
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "66 claims: 66 undecided; --all prints the other 61."


def test_all_claims_are_printed_where_they_are_asked_for_or_none_is_a_headline() -> None:
    for lines in (printed(claims_of(9, headline=5), every=True), printed(claims_of(9, headline=0))):
        assert lines[-1] == "9 claims: 9 undecided."
        assert len([line for line in lines if "0.789" in line]) == 9


def test_help_names_every_verb_and_imports_no_torch() -> None:
    shown = run_help()
    assert (shown.returncode, shown.stderr) == (0, "")
    for verb in VERBS:
        assert verb in shown.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_imports_no_torch(verb: str) -> None:
    shown = run_help(verb)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"usage: revlens {verb}" in shown.stdout
    assert ("--seeds" in shown.stdout) == (verb not in ("analyse", "report"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "the following arguments are required: VERB"),
        (("reproduec",), "invalid choice: 'reproduec'"),
        (("reproduce", "--sedes", "3"), "unrecognized arguments: --sedes"),
        (("reproduce", "--seeds", "three"), "invalid int value: 'three'"),
        (("report", "--quick"), "unrecognized arguments: --quick"),
    ],
)
def test_a_mistyped_command_exits_with_2(
    args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", "1"), "--seeds 1: at least 2 runs are needed"),
        (("--seeds", "0"), "--seeds 0: at least 2 runs are needed"),
        (("--seeds", "-2"), "--seeds -2: at least 2 runs are needed"),
        (("--steps", "0"), "A fine-tune needs at least 1 update, got 0"),
        (("--steps", "-3"), "A fine-tune needs at least 1 update, got -3"),
        (("--workers", "0"), "0 workers cannot run anything"),
        (("--run-gpus", "1"), "--run-cpus and --run-gpus are for runs on Ray; add --ray"),
        (("--ray", "auto", "--workers", "2"), "n_workers=2, address=auto"),
    ],
)
@pytest.mark.parametrize("verb", ["reproduce", *STAGES])
def test_a_setting_out_of_range_is_refused_before_anything_is_written(
    verb: str, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([verb, "--out", "out", *options]) == 2
    assert f"revlens: {message}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_is_not_launched_several_times(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["reproduce", "--quick", "--out", "out"]) == 2
    assert (
        "An experiment starts its own processes: run it as one, with --workers or --ray"
        in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["analyse", "report"])
def test_an_empty_folder_is_refused_with_the_command_to_run(
    verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([verb, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert "No experiment at out" in error
    assert "start one with `revlens reproduce` or `revlens study`" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["reproduce", *STAGES])
def test_an_output_folder_that_cannot_be_made_is_named(
    verb: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert main([verb, "--out", "file/out"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("revlens: file/out cannot be written: ")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_in_place_of_the_output_folder_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("no folder")
    assert main(["reproduce", "--out", "out"]) == 2
    assert "out cannot be written" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "no folder"


class Ran(list[tuple[ExperimentConfig, Path, tuple[str, ...] | None]]):
    """The experiments that would have run."""

    def __call__(
        self,
        config: ExperimentConfig,
        out: Path,
        *,
        stages: tuple[str, ...] | None,
        console: object,
        on: object,
    ) -> None:
        self.append((config, out, stages))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    ran = Ran()
    monkeypatch.setattr(experiment, "run_experiment", ran)
    return ran


@pytest.mark.parametrize("verb", STAGES)
def test_a_stage_runs_alone_and_in_the_default_folder(verb: str, ran: Ran) -> None:
    assert main([verb]) == 0
    assert ran == [(ExperimentConfig(), Path("revlens-out"), (verb,))]


def test_a_whole_plan_runs_every_stage_in_a_folder_of_its_own(ran: Ran) -> None:
    assert main(["reproduce"]) == 2  # nothing ran, so there is nothing to analyse
    assert main(["study"]) == 2
    study = ExperimentConfig(plan=Guards.of(ExperimentConfig()))
    assert ran == [
        (ExperimentConfig(), Path("revlens-out"), None),
        (study, Path("revlens-study"), None),
    ]


def test_a_quick_study_is_one_of_the_quick_experiment(ran: Ran) -> None:
    assert main(["study", "--quick", "--seeds", "3"]) == 2
    config = quick().with_seeds(3)
    assert ran[0][0] == config.with_plan(Guards.quick(config))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--quick",), quick()),
        (("--seeds", "3"), ExperimentConfig(seeds=(0, 1, 2))),
        (
            ("--world", "1", "--task", "checklists"),
            ExperimentConfig(
                subject=replace(OrganismConfig(), world=WorldConfig(seed=1)).with_task("checklists")
            ),
        ),
        (("--world", "0"), ExperimentConfig()),
        (("--steps", "4"), ExperimentConfig(steps=(1, 2, 4))),
        (("--quick", "--seeds", "4", "--steps", "2"), replace(quick(), seeds=(0, 1, 2, 3), steps=(1, 2))),
    ],
)
def test_options_choose_the_experiment(
    options: tuple[str, ...], expected: ExperimentConfig, ran: Ran
) -> None:
    assert main(["history", *options]) == 0
    assert ran == [(expected, Path("revlens-out"), ("history",))]


def test_without_options_a_folder_goes_on_with_its_own_experiment(ran: Ran) -> None:
    own = quick().with_steps(7)
    own.save(Path("out") / "config.json")
    assert main(["capture", "--out", "out"]) == 0
    assert main(["capture", "--out", "out", "--steps", "3"]) == 0
    assert [config for config, _, _ in ran] == [own, ExperimentConfig(steps=(1, 2, 3))]


def test_a_choice_of_zero_is_a_choice(ran: Ran) -> None:
    ExperimentConfig(subject=OrganismConfig(world=WorldConfig(seed=1))).save(Path("out") / "config.json")
    assert main(["capture", "--out", "out", "--world", "0"]) == 0
    assert [config for config, _, _ in ran] == [ExperimentConfig()]


def test_a_spoilt_configuration_is_explained(
    capsys: pytest.CaptureFixture[str], ran: Ran, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"guard_colour": "red"}')
    assert main(["capture", "--out", "."]) == 2
    assert "is no experiment configuration of this version of revlens" in capsys.readouterr().err
    assert ran == []
