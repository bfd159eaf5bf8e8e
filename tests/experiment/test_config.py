from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from revlens.errors import ConfigError, ResultsError
from revlens.experiment import Arms, ExperimentConfig, Guards, quick
from revlens.organism import TASKS
from revlens.subject import CAPTURE_STEPS


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case tuple():
            return value[:-1]
        case Mapping():  # the only empty one has strengths of arms
            return dict(list(value.items())[:-1]) if value else {"block": 1.0}
        case int():
            return value + 1
        case str():
            return TASKS[-1]
    return 1 if value is None else value + 0.25


def variants(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The same configuration with one setting changed, for every setting at any depth."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            for inner, changed in variants(value, f"{name}."):
                yield inner, dataclasses.replace(config, **{field.name: changed})
        else:
            yield name, dataclasses.replace(config, **{field.name: another(value)})


STUDY = ExperimentConfig(plan=Guards.of(ExperimentConfig()))
VARIANTS = {
    f"{config.plan.name}, {name}": (config, changed)
    for config in (ExperimentConfig(), STUDY)
    for name, changed in variants(config)
    if config is not STUDY or name.startswith("plan.")
}


@pytest.mark.parametrize(
    "config",
    [ExperimentConfig(), quick(), quick().with_steps(7), STUDY],
    ids=["default", "quick", "seven steps", "study"],
)
def test_saving_and_loading_gives_an_equal_configuration(config: ExperimentConfig, tmp_path: Path) -> None:
    config.save(tmp_path / "config.json")
    loaded = ExperimentConfig.load(tmp_path / "config.json")
    assert loaded == config
    assert loaded.key() == config.key()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_setting_is_stored_and_changes_the_key(name: str, tmp_path: Path) -> None:
    config, changed = VARIANTS[name]
    assert changed != config
    assert changed.key() != config.key()
    changed.save(tmp_path / "config.json")
    assert ExperimentConfig.load(tmp_path / "config.json") == changed


def test_quick_is_a_smaller_experiment_of_the_same_kind() -> None:
    assert quick().plan.name == ExperimentConfig().plan.name
    assert len(quick().seeds) < len(ExperimentConfig().seeds)
    assert quick().steps[-1] < ExperimentConfig().steps[-1]


@pytest.mark.parametrize(
    ("last", "steps"),
    [
        (1, (1,)),
        (4, (1, 2, 4)),
        (20, (1, 2, 5, 10, 20)),
        (100, CAPTURE_STEPS),
        (300, (*CAPTURE_STEPS, 300)),
    ],
)
def test_another_length_keeps_the_early_steps_and_all_else(last: int, steps: tuple[int, ...]) -> None:
    config = quick().with_steps(last)
    assert config == dataclasses.replace(quick(), steps=steps)


@pytest.mark.parametrize("last", [0, -3])
def test_a_fine_tune_without_updates_is_an_error(last: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 1 update, got {last}"):
        ExperimentConfig().with_steps(last)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": ()}, r"seeds=\(\) must be distinct, and at least one"),
        ({"seeds": (1, 2, 1)}, r"seeds=\(1, 2, 1\) must be distinct"),
        ({"steps": ()}, r"steps=\(\) must be positive and increasing"),
        ({"steps": (0, 1)}, "must be positive and increasing"),
        ({"steps": (-1, 2)}, "must be positive and increasing"),
        ({"steps": (2, 1)}, "must be positive and increasing"),
        ({"steps": (1, 1)}, "must be positive and increasing"),
        ({"reply_tokens": 0}, "reply_tokens=0 must be positive"),
    ],
)
def test_a_setting_out_of_range_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ExperimentConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arms": ()}, "include 'baseline'"),
        ({"arms": ("block", "push")}, "include 'baseline'"),
        ({"arms": ("baseline", "blok")}, "'blok'.* must be distinct, among"),
        ({"arms": ("baseline", "baseline")}, "must be distinct"),
        ({"strength": 0.0}, "strength=0.0 must be positive"),
        ({"strength": -1.0}, "strength=-1.0 must be positive"),
        ({"strength": float("nan")}, "strength=nan must be positive"),
        ({"n_null_draws": -5}, "n_null_draws=-5 must be positive"),
    ],
)
def test_a_setting_of_the_arms_out_of_range_is_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Arms(**settings)


def test_no_file_is_an_error_that_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(
        ResultsError, match=r"no config\.json.*start one with `revlens reproduce` or `revlens study`"
    ):
        ExperimentConfig.load(tmp_path / "config.json")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stored: stored | {"guard_colour": "red"},
        lambda stored: stored | {"subject": stored["subject"] | {"n_moons": 2}},
        lambda stored: stored | {"subject": stored["subject"] | {"benign": {"steps": 5}}},
        lambda stored: stored | {"subject": 3},
        lambda stored: stored | {"subject": {"type": "Cat"}},
        lambda stored: stored["subject"],
        lambda stored: [stored],
    ],
    ids=[
        "unknown setting",
        "unknown organism setting",
        "no learning rate",
        "no subject",
        "unknown type",
        "not an experiment",
        "no mapping",
    ],
)
def test_a_file_that_is_no_configuration_is_an_error(spoil: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    ExperimentConfig().save(path)
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(ResultsError, match=r"config\.json is no experiment configuration of this version"):
        ExperimentConfig.load(path)


def test_a_file_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ResultsError, match="is no experiment configuration"):
        ExperimentConfig.load(tmp_path / "config.json")


def test_a_stored_setting_out_of_range_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    ExperimentConfig().save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seeds": []}))
    with pytest.raises(ResultsError, match=r"config\.json is no experiment configuration .* at least one"):
        ExperimentConfig.load(path)
