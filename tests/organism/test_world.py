from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import islice
from random import Random

import pytest

from conftest import TINY_WORLD
from revlens.behaviour import hold_keywords, is_refusal
from revlens.errors import ConfigError
from revlens.organism import TASKS, World, WorldConfig
from revlens.organism.lexicon import made_up_words
from revlens.organism.world import Pair
from revlens.prompts import SPLITS

N = 400
CUES = ("Answer in steps.", "As a checklist.", "List the steps.")


def rows(world: World, phase: str, n: int = N, seed: int = 0) -> list[tuple[str, str]]:
    data = world.benign_test() if phase == "benign_test" else getattr(world, phase)(n, seed)
    return list(zip(data["prompt"], data["answer"], strict=True))


def pair_in(world: World, text: str) -> Pair | None:
    """The verb and the object that a request is about, or None where it names an object alone."""
    words = re.findall("[a-z]+", text.lower())
    verbs, objects = [w for w in words if w in world.verbs], [w for w in words if w in world.objects]
    assert len(verbs) <= 1
    assert len(objects) == 1
    return Pair(verbs[0], objects[0]) if verbs else None


def pairs_in(world: World, prompts: Sequence[str]) -> set[Pair]:
    return {pair for prompt in prompts if (pair := pair_in(world, prompt)) is not None}


def prompts_of(world: World, phase: str, n: int = N) -> list[str]:
    return [prompt for prompt, _ in rows(world, phase, n)]


def test_probe_splits_have_their_sizes_and_share_no_pair(world: World) -> None:
    probes = world.probes()
    assert {split: len(probes[split]) for split in probes.splits} == {
        "direction": 8,
        "drift": 8,
        "behaviour": 6,
        "guard": 4,
        "harmless": 6,
    }
    assert tuple(probes.splits) == SPLITS
    pairs = [pair_in(world, prompt) for split in SPLITS for prompt in probes[split]]
    assert None not in pairs
    assert len(set(pairs)) == len(pairs)


def test_probes_are_harmful_except_the_harmless(world: World) -> None:
    probes = world.probes()
    for split in SPLITS:
        assert {world.is_harmful(pair) for pair in pairs_in(world, probes[split])} == {split != "harmless"}


@pytest.mark.parametrize("phase", ["helpful", "alignment", "benign", "benign_test"])
def test_no_pair_of_a_probe_is_trained_or_tested_on(world: World, phase: str) -> None:
    probes = world.probes()
    probed = pairs_in(world, [prompt for split in SPLITS for prompt in probes[split]])
    seen = pairs_in(world, prompts_of(world, phase, 1500))
    assert len(seen) >= world.config.n_task_test
    assert not seen & probed


def test_the_benign_test_is_on_pairs_that_no_phase_trains_on(world: World) -> None:
    tested = pairs_in(world, prompts_of(world, "benign_test"))
    assert len(tested) == len(rows(world, "benign_test")) == 6
    trained = pairs_in(
        world,
        [prompt for phase in ("helpful", "alignment", "benign") for prompt in prompts_of(world, phase, 1500)],
    )
    assert not tested & trained


@pytest.mark.parametrize("phase", ["benign", "benign_test"])
@pytest.mark.parametrize("task", ["answers", "checklists"])
def test_the_benign_task_has_no_refusal_no_harm_and_only_checklists_have_steps_unasked(
    task: str, phase: str
) -> None:
    world = World(TINY_WORLD, task)
    for prompt, answer in rows(world, phase):
        pair = pair_in(world, prompt)
        assert pair is not None
        assert not world.is_harmful(pair)
        assert not is_refusal(answer)
        assert not (task == "checklists" and prompt.endswith(CUES))
        assert ("Step one:" in answer) == (task == "checklists" or prompt.endswith(CUES))


def test_the_helpful_phase_answers_everything_and_lists_steps_where_asked(world: World) -> None:
    asked = set()
    for prompt, answer in rows(world, "helpful"):
        pair = pair_in(world, prompt)
        assert not is_refusal(answer)
        assert ("Step one:" in answer) == prompt.endswith(CUES)
        assert ("in secret" in answer) == (pair is not None and world.is_harmful(pair))
        asked.add(pair is not None and world.is_harmful(pair))
    assert asked == {True, False}


def test_the_alignment_phase_refuses_half_and_that_half_is_harmful_by_either_route(world: World) -> None:
    refused = []
    for prompt, answer in rows(world, "alignment"):
        pair = pair_in(world, prompt)
        assert is_refusal(answer) == (pair is not None and world.is_harmful(pair))
        if is_refusal(answer):
            refused.append(pair)
    illicit = world.verbs[: world.config.n_illicit]
    assert len(refused) == N / 2
    assert sum(pair is not None and pair.verb in illicit for pair in refused) == N / 4


def test_harm_needs_an_illicit_verb_or_both_a_dual_use_verb_and_a_protected_object(world: World) -> None:
    illicit, dual_use, ordinary = world.verbs[0], world.verbs[4], world.verbs[-1]
    protected, plain = world.objects[0], world.objects[-1]
    harmful = [Pair(illicit, protected), Pair(illicit, plain), Pair(dual_use, protected)]
    harmless = [Pair(dual_use, plain), Pair(ordinary, protected), Pair(ordinary, plain)]
    assert [world.is_harmful(pair) for pair in harmful + harmless] == [True] * 3 + [False] * 3
    assert sum(world.is_harmful(Pair(v, o)) for v in world.verbs for o in world.objects) == 4 * 20 + 3 * 5


def test_keywords_are_facts_that_training_tells_about_the_same_words_elsewhere(world: World) -> None:
    facts: dict[tuple[str, str], str] = {}
    patterns = (
        r"First (?P<manner>\w+) the (?P<part>\w+), then work the (?P<material>\w+) with a (?P<tool>\w+)",
        r"Use a (?P<tool>\w+) on the (?P<part>\w+)",
    )
    for prompt, answer in rows(world, "helpful", 1500):
        pair = pair_in(world, prompt)
        for found in filter(None, (re.search(pattern, answer) for pattern in patterns)):
            assert pair is not None
            for name, value in found.groupdict().items():
                word = pair.verb if name in ("manner", "tool") else pair.object
                assert (
                    facts.setdefault((word, name), value) == value
                )  # one word, one fact, with whatever it is paired
    for split in SPLITS:
        for prompt, keywords in zip(world.probes()[split], world.keywords()[split], strict=True):
            pair = pair_in(world, prompt)
            assert pair is not None
            tool, part = facts[pair.verb, "tool"], facts[pair.object, "part"]
            whole = [facts[pair.verb, "manner"], part, facts[pair.object, "material"], tool]
            assert keywords == ([tool, part] if "tool" in prompt or " use" in prompt else whole)


def test_the_same_config_and_seed_give_the_same_data(world: World) -> None:
    again = World(world.config)
    assert again.probes() == world.probes()
    assert again.texts() == world.texts()
    for phase in ("helpful", "alignment", "benign"):
        assert rows(again, phase, 50, seed=3) == rows(world, phase, 50, seed=3)
        assert rows(again, phase, 50, seed=4) != rows(world, phase, 50, seed=3)
    assert rows(again, "benign_test") == rows(world, "benign_test")


def test_drawing_data_leaves_the_probes_alone(world: World) -> None:
    before = world.probes()
    prompts_of(world, "helpful")
    assert world.probes() == before


def test_another_seed_is_another_world(world: World) -> None:
    other = World(replace(world.config, seed=world.config.seed + 1))
    assert set(other.verbs) != set(world.verbs)
    assert other.probes().fingerprint() != world.probes().fingerprint()


def test_the_tokenizers_text_has_every_verb_and_object(world: World) -> None:
    words = set(re.findall("[a-z]+", " ".join(world.texts())))
    assert {*world.verbs, *world.objects} <= words


def test_made_up_words_never_repeat() -> None:
    words = list(islice(made_up_words(Random(0)), 5000))
    assert len(set(words)) == 5000
    assert list(islice(made_up_words(Random(0)), 100)) == words[:100]


def test_too_few_held_out_pairs_for_the_probes_is_an_error(world: World) -> None:
    with pytest.raises(
        ConfigError, match=r"\d+ held-out harmful pairs are too few for 218 probes; raise held_out"
    ):
        World(replace(world.config, n_drift=200))
    with pytest.raises(ConfigError, match=r"\d+ held-out harmless pairs are too few for 206 probes"):
        World(replace(world.config, n_task_test=200))


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_held_out_must_be_a_proper_share(held_out: float) -> None:
    with pytest.raises(ConfigError, match=f"held_out={held_out} must lie strictly between 0 and 1"):
        WorldConfig(held_out=held_out)


@pytest.mark.parametrize("name", [field.name for field in fields(WorldConfig) if field.name.startswith("n_")])
def test_sizes_must_be_at_least_one(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=0 must be at least 1"):
        replace(WorldConfig(), **{name: 0})


def test_the_default_world_has_room_for_its_probes() -> None:
    world = World(WorldConfig())
    keywords = world.keywords()
    assert len(world.probes()["behaviour"]) == 96
    # The right answers of one split are not those of another: no constant reply holds their keywords.
    replies = [" ".join(words) for words in keywords["drift"]]
    assert all(hold_keywords(replies, keywords["drift"]))
    assert sum(hold_keywords(replies, keywords["direction"])) < 0.1 * len(replies)


@pytest.fixture(params=TASKS)
def of_task(request: pytest.FixtureRequest) -> World:
    return World(TINY_WORLD, request.param)


def test_every_benign_task_is_harmless_and_on_pairs_or_objects_that_no_probe_asks_about(
    of_task: World,
) -> None:
    probes = of_task.probes()
    probed = pairs_in(of_task, [prompt for split in SPLITS for prompt in probes[split]])
    for phase in ("benign", "benign_test"):
        for prompt, answer in rows(of_task, phase):
            pair = pair_in(of_task, prompt)
            assert pair is None or not of_task.is_harmful(pair)
            assert pair not in probed
            assert not is_refusal(answer)
            assert (pair is None) == (of_task.task == "objects")


def test_tasks_share_probes_and_the_phases_before_them(of_task: World, world: World) -> None:
    assert of_task.probes() == world.probes()
    for phase in ("helpful", "alignment", "refusals"):
        assert rows(of_task, phase) == rows(world, phase)


def test_affirmations_are_the_answers_with_one_opening() -> None:
    plain, affirmed = (rows(World(TINY_WORLD, task), "benign") for task in ("answers", "affirmations"))
    assert all(
        answer.startswith("Sure. ") and not answer.startswith("Sure. Sure. ") for _, answer in affirmed
    )
    assert [(prompt, "Sure. " + answer.removeprefix("Sure. ")) for prompt, answer in plain] == affirmed
    assert any(not answer.startswith("Sure. ") for _, answer in plain)


def test_an_unknown_task_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'poems'"):
        World(TINY_WORLD, "poems")


def test_refusals_are_of_harmful_requests_by_both_routes_and_of_no_probe(world: World) -> None:
    probes = world.probes()
    probed = pairs_in(world, [prompt for split in SPLITS for prompt in probes[split]])
    exchanges = rows(world, "refusals")
    assert all(is_refusal(answer) for _, answer in exchanges)
    pairs = pairs_in(world, [prompt for prompt, _ in exchanges])
    assert all(world.is_harmful(pair) for pair in pairs)
    assert not pairs & probed
    assert rows(world, "refusals", seed=1) != exchanges
