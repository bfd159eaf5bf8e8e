"""Captures of prompts that hold the date: it is pinned, and other token ids are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import revlens as rl
from revlens.errors import ConfigError, HistoryError, ResultsError
from revlens.history import TrainingHistory, save
from revlens.prompts import encode_prompts
from templates import bridge_with, template, tokenizer_with

DATED = template("'<|eot|>'", "{% if quick is defined %}!{% endif %}", "{{ strftime_now('%d %b') }}")
PROBES = rl.Probes({"direction": ("Hi.", "Who?"), "drift": ("So?",)})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dated")
    bridge = bridge_with(tokenizer_with(DATED), num_hidden_layers=1)
    save(bridge, root / "aligned")
    bridge.tokenizer_as_given.chat_template = template("'<|eot|>'")
    save(bridge, root / "reference")
    return root


def history_of(folders: Path, **settings: Any) -> TrainingHistory:
    settings = {"any_template": True} | settings
    return TrainingHistory.from_dirs(folders / "reference", folders / "aligned", **settings)


def on(day: str, patch: pytest.MonkeyPatch) -> None:
    for module in ("chat_templates", "history.training_history"):
        patch.setattr(f"revlens.{module}.today", lambda: day)


def test_a_capture_goes_on_with_the_date_of_its_first_day(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("2026-01-05", monkeypatch)
    begun = rl.capture(history_of(folders), PROBES, tmp_path, splits=["direction"])
    on("2026-01-06", monkeypatch)
    again = rl.capture(history_of(folders), PROBES, tmp_path)
    assert begun.manifest.template_date == again.manifest.template_date == "2026-01-05"
    first_day = history_of(folders, template_date="2026-01-05").aligned.load()
    expected = rl.read_prompts(first_day, PROBES["drift"]).double()
    assert (again.at("aligned", "drift") - expected).abs().max() < 1e-5
    assert first_day.tokenizer.decode(encode_prompts(first_day.tokenizer, ["Hi."])[0]).startswith(
        "05 Jan<|user|>"
    )


@pytest.mark.parametrize("change", [{"template_date": "2026-01-07"}, {"template_kwargs": {"quick": True}}])
def test_other_token_ids_are_refused_by_the_name_of_the_first_prompt(
    change: dict[str, Any], folders: Path, tmp_path: Path
) -> None:
    rl.capture(history_of(folders, template_date="2026-01-05"), PROBES, tmp_path)
    with pytest.raises(ResultsError, match="prompt 0 of .*(Hi|So).*template_kwargs.*2026-01-05 there"):
        rl.capture(history_of(folders, **{"template_date": "2026-01-05"} | change), PROBES, tmp_path)
    rl.capture(history_of(folders, template_date="2026-01-05"), PROBES, tmp_path)  # the advice: restore them


def test_one_history_has_one_date_and_all_of_its_checkpoints_the_same(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("2026-01-05", monkeypatch)
    history = history_of(folders, template_kwargs={"quick": True})
    on("2026-01-06", monkeypatch)
    rows = [encode_prompts(checkpoint.load().tokenizer, ["Hi."]) for checkpoint in history]
    assert rows[0] == rows[1] == encode_prompts(history.aligned.tokenizer(), ["Hi."])
    text = history.aligned.tokenizer().decode(rows[0][0])
    assert text == "05 Jan<|user|>Hi.<|eot|><|assistant|>!"
    save(history.aligned.load(), folders / "again")  # what is saved is the template as it was given
    assert history_of(folders, template_date="2026-01-05").aligned.source.chat_template() == DATED


def test_the_advice_on_differing_templates_works(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"any_template=True, or chat_template = 'aligned' in a manifest"):
        history_of(folders, any_template=False)
    table = {"reference": str(folders / "reference"), "aligned": str(folders / "aligned")}
    with pytest.raises(HistoryError, match="any_template=True"):
        TrainingHistory.from_table(table, tmp_path)
    table |= {"chat_template": "aligned", "template_date": "2026-01-05"}
    from_table = TrainingHistory.from_table({**table, "template_kwargs": {"quick": True}}, tmp_path)
    in_memory = from_table.aligned.source.module(from_table.dtype)
    from_memory = TrainingHistory.from_state_dicts(
        in_memory,
        from_table.aligned.source.tokenizer(),
        reference=in_memory.state_dict(),
        aligned={name: tensor.clone() for name, tensor in in_memory.state_dict().items()},
        any_template=True,
        template_kwargs={"quick": True},
        template_date="2026-01-05",
    )
    rows = [encode_prompts(h.aligned.load().tokenizer, ["Hi."]) for h in (from_table, from_memory)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template_kwargs": {"quik": True}}, "does not read 'quik'"),
        ({"template_date": "tomorrow"}, "of the form 2026-01-31"),
    ],
)
def test_settings_that_do_nothing_are_refused_at_once(
    settings: dict[str, Any], message: str, folders: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        history_of(folders, **settings)
