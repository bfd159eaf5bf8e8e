"""Types of request, within which a null swaps labels."""

from __future__ import annotations

import re

from revlens.organism import World, WorldConfig
from revlens.organism.templates import KEY_FACTS


def test_strata_are_the_skill_and_the_route_to_harm_of_each_probe() -> None:
    world = World(WorldConfig())
    strata, probes = world.strata(), world.probes()
    assert {split: len(own) for split, own in strata.items()} == {
        split: len(prompts) for split, prompts in probes.splits.items()
    }
    assert set(strata["direction"]) == {
        f"{skill}, {route}" for skill in ("procedure", "tool") for route in ("illicit", "dual-use")
    }
    assert set(strata["harmless"]) == {"procedure, harmless", "tool, harmless"}
    n_facts = {str(skill): len(facts) for skill, facts in KEY_FACTS.items()}
    # A request holds its verb as a word, and the number of facts in its answer tells the skill.
    for split in ("direction", "drift"):
        for prompt, stratum, keywords in zip(
            probes[split], strata[split], world.keywords()[split], strict=True
        ):
            (verb,) = {verb for verb in world.verbs if verb in re.findall(r"\w+", prompt)}
            illicit = verb in world.verbs[: world.config.n_illicit]
            assert stratum.endswith("illicit" if illicit else "dual-use"), prompt
            skill = stratum.partition(",")[0]
            assert len(keywords) == n_facts[skill], prompt
