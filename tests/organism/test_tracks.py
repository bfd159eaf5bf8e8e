"""The tracks, and what a study asks of an organism."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from revlens.errors import ConfigError, DataError
from revlens.experiment import quick
from revlens.organism import TASKS, TRACKS, OrganismConfig, TextWorldConfig, WorldConfig
from revlens.subject import Subject

TEXT = TRACKS["text"].default(TextWorldConfig("folder", "digest"))


def test_a_track_goes_by_its_name_and_its_worlds_belong_to_it() -> None:
    assert list(TRACKS) == ["organism", "text"]
    for name, track in TRACKS.items():
        assert track.name == name
        assert track.summary
    assert (WorldConfig.track, TextWorldConfig.track) == ("organism", "text")


def test_the_default_organism_of_the_embedded_track_is_the_default() -> None:
    assert TRACKS["organism"].organism() == OrganismConfig()
    assert TRACKS["organism"].organism("quick") == quick().subject


def test_sizes_and_data_folders_that_a_track_does_not_have_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="organism track has no large organism; .*--track text"):
        TRACKS["organism"].organism("large")
    with pytest.raises(ConfigError, match="organism track reads no data folder; .*--track text"):
        TRACKS["organism"].organism(data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="text track needs a data folder"):
        TRACKS["text"].organism()
    with pytest.raises(DataError, match=str(tmp_path / "nowhere")):
        TRACKS["text"].organism(data_dir=str(tmp_path / "nowhere"))


def test_an_organism_of_a_track_has_no_caveat_and_another_one_has() -> None:
    large = TRACKS["text"].large
    assert large is not None
    for own in (OrganismConfig(), TEXT, large(TextWorldConfig("elsewhere", "other data"))):
        assert own.caveat is None
        assert "Not the default organism" in str(replace(own, benign=replace(own.benign, steps=7)).caveat)
    assert TRACKS["organism"].organism("quick").caveat is not None
    assert TRACKS["text"].quick(TextWorldConfig("folder", "digest")).caveat is not None


@pytest.mark.parametrize("subject", [OrganismConfig(), TEXT], ids=["organism", "text"])
def test_an_organism_is_a_subject(subject: OrganismConfig) -> None:
    assert isinstance(subject, Subject)
    assert subject.world.harm in subject.summary
    assert cast(Subject, subject).describe() is None
    assert subject.other_histories == ("early-reference", "other-alignment", "other-seed")


def test_another_task_keeps_the_start_and_comes_first() -> None:
    subject = OrganismConfig().with_task("objects", 0.5)
    assert subject == replace(
        OrganismConfig(), task="objects", benign=replace(OrganismConfig().benign, learning_rate=1e-4)
    )
    assert OrganismConfig().tasks == TASKS
    assert subject.tasks == ("objects", "answers", "checklists", "affirmations")
    assert OrganismConfig().with_task(TASKS[0]) == OrganismConfig()
    assert TEXT.tasks == ("problems",)
    with pytest.raises(ConfigError, match="Unknown benign task 'objects'; expected one of problems"):
        TEXT.with_task("objects")


def test_halving_leaves_half_the_updates_of_one_phase() -> None:
    subject = replace(OrganismConfig(), alignment=replace(OrganismConfig().alignment, steps=15))
    early, other = subject.halved("early-reference"), subject.halved("other-alignment")
    assert early == replace(subject, helpful=replace(subject.helpful, steps=600))
    # A warm-up is no longer than its phase.
    assert other == replace(subject, alignment=replace(subject.alignment, steps=7, warmup_steps=7))
    with pytest.raises(ConfigError, match="'other-seed'; expected one of early-reference, other-alignment"):
        subject.halved("other-seed")
