"""Configurations in Python and in JSON: reading gives what was stored; anything else is refused."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hostile.fuzzing import Law, explains, law
from hostile.odd_values import NUMBERS, PLAIN, mutated, same
from revlens.data import ChatSource, PromptSource
from revlens.errors import ConfigError, ResultsError
from revlens.experiment import Arms, ExperimentConfig, Guards, quick
from revlens.experiment.config import MAX_RUNS
from revlens.organism import ModelConfig, OrganismConfig, WorldConfig
from revlens.results import config_json
from revlens.subject import CAPTURE_STEPS, ProbeFiles, UserHistory
from revlens.training import ARMS, METHODS, FinetuneConfig

LAWS: list[Law] = []
POSITIVE = st.integers(1, 10**9)
FLOAT = st.floats(min_value=1e-12, max_value=1e12)
#: All text but surrogates: a manifest may hold any.
TEXT = st.text(max_size=12)


@st.composite
def finetunes(draw: st.DrawFn) -> FinetuneConfig:
    steps, batch = draw(POSITIVE), draw(POSITIVE)
    return FinetuneConfig(
        steps, draw(FLOAT), batch, draw(st.integers(0, steps)), draw(st.booleans()), draw(FLOAT), draw(FLOAT),
        draw(POSITIVE), draw(st.none() | st.integers(1, batch)),
    )  # fmt: skip


ORGANISMS = st.builds(
    OrganismConfig,
    world=st.builds(WorldConfig, seed=st.integers(), n_plain=POSITIVE, held_out=st.floats(0.001, 0.999),
    n_guard=POSITIVE),
    model=st.builds(ModelConfig, d_model=POSITIVE, n_layers=POSITIVE),
    helpful=finetunes(), alignment=finetunes(), benign=finetunes(),
)  # fmt: skip
PLAIN_TABLES = st.dictionaries(
    TEXT | st.just("type"), TEXT | st.integers() | st.tuples(TEXT, TEXT), max_size=3
)
POOLS = st.builds(PromptSource, path=TEXT, limit=st.none() | POSITIVE)
OWN = st.builds(
    UserHistory,
    root=TEXT, history=PLAIN_TABLES,
    probes=st.builds(ProbeFiles, harmful=st.lists(POOLS, max_size=2).map(tuple),
                     sizes=st.dictionaries(TEXT | st.just("type"), POSITIVE, max_size=2)),
    engaging=st.lists(TEXT, max_size=3).map(tuple), refusal=st.lists(TEXT, max_size=3).map(tuple),
    task=st.builds(ChatSource, path=TEXT, prompt=TEXT, seed=st.none() | st.integers()), benign=finetunes(),
    lora=st.none() | PLAIN_TABLES, judge=PLAIN_TABLES, batch_size=POSITIVE, drop_overlaps=st.booleans(),
)  # fmt: skip


def grid_of(strengths: dict[str, tuple[float, ...]]) -> dict[str, tuple[float | None, ...]]:
    """With the baseline, and no strength where a method has none."""
    grid: dict[str, tuple[float | None, ...]] = {"baseline": (None,)}
    return grid | {name: given if METHODS[name].strength else (None,) for name, given in strengths.items()}


PLANS = st.builds(
    Arms,
    arms=st.lists(st.sampled_from(ARMS[1:]), unique=True, max_size=3).map(lambda arms: ("baseline", *arms)),
    strength=FLOAT, n_null_draws=POSITIVE, n_controls=POSITIVE,
) | st.builds(
    Guards,
    grid=st.dictionaries(
        st.sampled_from(list(METHODS)), st.lists(FLOAT, min_size=1, max_size=2).map(tuple), max_size=3
    ).map(grid_of),
    lasting=st.just({}), released=st.just({}), long_steps=POSITIVE, released_steps=POSITIVE,
    rates=st.lists(FLOAT, max_size=2).map(tuple),
)  # fmt: skip
EXPERIMENTS = st.builds(
    ExperimentConfig,
    subject=ORGANISMS | OWN,
    seeds=st.lists(st.integers(), min_size=1, max_size=6, unique=True).map(tuple),
    steps=st.lists(POSITIVE, min_size=1, max_size=6, unique=True).map(lambda steps: tuple(sorted(steps))),
    reply_tokens=POSITIVE,
    plan=PLANS,
)  # fmt: skip


@law(LAWS, 300, config=EXPERIMENTS)
def what_is_stored_is_what_is_read(config: ExperimentConfig) -> None:
    again = read(json.dumps(config_json(config), allow_nan=False).encode())
    assert again == config
    assert again.key() == config.key()


def is_allowed(name: str, value: Any, steps: int, batch_size: int) -> bool:
    """The ranges of FinetuneConfig's docstring, written a second time."""
    if name == "weight_decay":
        return value >= 0
    if name == "warmup_steps":
        return 0 <= value <= steps
    if name == "micro_batch_size":
        return 1 <= value <= batch_size
    return value > 0


@law(LAWS, 800, data=st.data())
def a_training_setting_is_taken_if_it_is_in_its_range(data: st.DataObject) -> None:
    kinds = {
        "steps": int, "learning_rate": float, "batch_size": int, "warmup_steps": int, "weight_decay": float,
        "max_grad_norm": float, "sort_window": int, "micro_batch_size": int,
    }  # fmt: skip
    chosen = data.draw(st.sets(st.sampled_from(sorted(kinds)), min_size=1, max_size=4))
    values = {
        name: data.draw(st.integers(-3, 40) if kinds[name] is int else st.floats()) for name in sorted(chosen)
    }
    settings: dict[str, Any] = {"steps": 20, "learning_rate": 1e-3, **values}
    allowed = all(
        is_allowed(name, value, settings["steps"], settings.get("batch_size", 32))
        for name, value in settings.items()
    )
    try:
        config = FinetuneConfig(**settings)
    except ConfigError as error:
        assert not allowed
        explains(error, *settings)
    else:
        assert allowed
        assert all(getattr(config, name) == value for name, value in settings.items())


@law(LAWS, 400, kind=st.sampled_from([WorldConfig, ModelConfig]), data=st.data())
def a_size_is_taken_if_it_is_positive(kind: type[WorldConfig | ModelConfig], data: st.DataObject) -> None:
    name = data.draw(
        st.sampled_from([field.name for field in fields(kind) if field.name not in ("seed", "held_out")])
    )
    value = data.draw(st.integers())
    try:
        assert getattr(kind(**{name: value}), name) == value
        assert value >= 1
    except ConfigError as error:
        explains(error, f"{name}={value}")
        assert value < 1


@law(LAWS, 300, n=st.integers(-3, 300) | st.integers())
def seeds_and_steps_are_counted(n: int) -> None:
    try:
        assert ExperimentConfig().with_seeds(n).seeds == tuple(range(n))
        assert 1 <= n <= MAX_RUNS
    except ConfigError:
        assert not 1 <= n <= MAX_RUNS
    try:
        steps = ExperimentConfig().with_steps(n).steps
        assert steps[-1] == n
        assert set(steps[:-1]) == {step for step in CAPTURE_STEPS if step < n}
    except ConfigError:
        assert n < 1


def read(content: bytes) -> ExperimentConfig:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_bytes(content)
        return ExperimentConfig.load(path)


OWN_EXPERIMENT = ExperimentConfig(
    subject=UserHistory(
        "root",
        {"reference": "base", "aligned": "chat"},
        ProbeFiles(harmful=(PromptSource("a.json"),), sizes={"drift": 3}),
        ("Sure",),
        ("Sorry",),
        task=ChatSource("t.jsonl"),
        benign=FinetuneConfig(100, 1e-3),
        lora={"r": 4},
    ),
)
STORED = [
    json.loads(json.dumps(config_json(config))) for config in (ExperimentConfig(), quick(), OWN_EXPERIMENT)
]


@law(LAWS, 800, changed=st.sampled_from(STORED).flatmap(lambda stored: mutated(stored, PLAIN | NUMBERS)))
def a_changed_file_is_read_as_it_is_or_refused(changed: tuple[Any, tuple[Any, ...]]) -> None:
    stored, _ = changed
    try:
        config = read(json.dumps(stored).encode())
    except (ResultsError, ConfigError) as error:
        explains(error)
        return
    plain = config_json(config)
    assert_contains(plain, stored)
    assert read(json.dumps(plain, allow_nan=False).encode()) == config


def assert_contains(read_back: Any, stored: Any) -> None:
    """The configuration holds whatever the file says; what the file leaves out has its default."""
    if isinstance(stored, dict) and "type" in stored:
        for key, value in stored.items():
            assert_contains(read_back[key], value)
    elif isinstance(stored, list):
        assert len(read_back) == len(stored)
        for ours, theirs in zip(read_back, stored, strict=True):
            assert_contains(ours, theirs)
    else:
        assert same(read_back, stored) or (
            isinstance(stored, float) and math.isnan(stored) and math.isnan(read_back)
        )


@law(LAWS, 600, place=st.integers(0, 3000), junk=st.binary(max_size=4), cut=st.booleans())
def a_damaged_file_is_read_as_json_has_it_or_refused(place: int, junk: bytes, cut: bool) -> None:
    whole = json.dumps(STORED[0]).encode()
    place = min(place, len(whole))
    content = whole[:place] + junk + (b"" if cut else whole[place + len(junk) :])
    try:
        config = read(content)
    except (ResultsError, ConfigError):
        return
    assert_contains(config_json(config), json.loads(content.decode("utf-8-sig")))


@law(LAWS, 60, config=EXPERIMENTS, other=EXPERIMENTS)
def keys_are_equal_where_configurations_are(config: ExperimentConfig, other: ExperimentConfig) -> None:
    assert (config.key() == other.key()) == (config == other)
    assert replace(config, reply_tokens=config.reply_tokens + 1).key() != config.key()
