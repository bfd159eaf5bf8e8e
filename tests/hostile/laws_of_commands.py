"""Command lines: each gives the experiment that it names, a usage error, or an explained error."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import strategies as st

from hostile.fuzzing import Law, law
from revlens import experiment
from revlens.cli import main
from revlens.experiment import PLANS, ExperimentConfig, quick

LAWS: list[Law] = []
STAGES = tuple(stage.name for stage in PLANS["arms"].stages)
VERBS = ("reproduce", "study", *STAGES, "analyse", "report")
NUMBERS = st.integers(-3, 30).map(str) | st.sampled_from(
    ["0", "1", "2", "007", "1e3", "2.0", "9" * 30, "9" * 5000, "", " 3", "x", "\u0663", "-0"]
)
NAMES = st.sampled_from(
    [
        "nowhere.toml",
        "nowhere.yaml",
        ".",
        "/",
        "/dev/null",
        "a" * 300,
        "a\nb",
        "\udcff",
        "~",
        "",
        "file",
        "file/under",
        "\u202e",
    ]
)
#: Includes options that do not exist, values without an option, and options without a value.
OPTIONS = st.one_of(
    st.tuples(st.just("--seeds"), NUMBERS), st.tuples(st.just("--steps"), NUMBERS), st.just(("--quick",)),
    st.just(("--large",)), st.tuples(st.just("--manifest"), NAMES),
    st.tuples(st.just("--track"), st.sampled_from(["organism", "text", "tex", ""])),
    st.tuples(st.just("--data-dir"), NAMES),
    st.tuples(st.sampled_from(["--sedes", "-x", "--", "--seeds", "--out"])), st.tuples(NUMBERS | NAMES),
)  # fmt: skip


def outcome(argv: list[str]) -> tuple[int, str, list[ExperimentConfig]]:
    """Exit status, printed text, and the experiments that would have run."""
    ran: list[ExperimentConfig] = []
    said = io.StringIO()

    def run(config: ExperimentConfig, *args: Any, **options: Any) -> None:
        ran.append(config)

    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
    ):
        Path("file").write_text("x")
        with patch.object(experiment, "run_experiment", run):
            try:
                status = main(argv)
            except SystemExit as end:  # argparse
                status = int(end.code or 0)
        assert [path.name for path in Path(folder).iterdir()] == ["file"]
    return status, said.getvalue(), ran


@law(LAWS, 300, verb=st.sampled_from(VERBS) | NAMES, options=st.lists(OPTIONS, max_size=4), out=NAMES)
def a_command_line_is_run_as_it_says_or_explained(
    verb: str, options: list[tuple[str, ...]], out: str
) -> None:
    argv = [verb, *(part for option in options for part in option), "--out", out]
    status, said, ran = outcome(argv)
    assert "Traceback" not in said
    assert status in (0, 2)
    assert status == 0 or "revlens" in said
    assert len(ran) <= 1
    if status == 0:
        assert ran  # analyse and report find nothing


@law(
    LAWS,
    100,
    n_seeds=st.none() | st.integers(-2, 40),
    n_steps=st.none() | st.integers(-2, 200),
    smoke=st.booleans(),
    verb=st.sampled_from(STAGES),
)
def numbers_on_the_command_line_are_those_of_the_experiment(
    n_seeds: int | None, n_steps: int | None, smoke: bool, verb: str
) -> None:
    argv = [verb, *(["--quick"] if smoke else [])]
    argv += [] if n_seeds is None else [f"--seeds={n_seeds}"]
    argv += [] if n_steps is None else [f"--steps={n_steps}"]
    status, _, ran = outcome(argv)
    allowed = (n_seeds is None or n_seeds >= 2) and (n_steps is None or n_steps >= 1)
    assert status == (0 if allowed else 2)
    if not allowed:
        assert not ran
        return
    expected = quick() if smoke else ExperimentConfig()
    assert ran[0].subject == expected.subject
    assert ran[0].seeds == (expected.seeds if n_seeds is None else tuple(range(n_seeds)))
    assert ran[0].steps[-1] == (expected.steps[-1] if n_steps is None else n_steps)
