"""Probes, splits, leaks and padding, against slow and obvious implementations."""

from __future__ import annotations

import functools
import json
import tempfile
import unicodedata
import warnings
from pathlib import Path
from typing import Any

from datasets import Dataset
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from hostile.fuzzing import Law, explains, law
from hostile.odd_values import PLAIN, mutated, same
from revlens.data import (
    DroppedWarning,
    distinct,
    drop_leaks,
    find_leaks,
    make_probes,
    normalise,
    train_test_split,
)
from revlens.data.chat_source import first_exchange
from revlens.errors import ConfigError, DataError, ProbeError
from revlens.organism.model import train_tokenizer
from revlens.prompts import SPLITS, Probes, encode_prompts, pad_left

LAWS: list[Law] = []
#: Few words, so that prompts repeat, overlap and differ in what `normalise` removes.
WORDS = st.lists(
    st.sampled_from(
        [
            "how",
            "How",
            "do",
            "I",
            "make",
            "a",
            "cake",
            "cake?",
            "caf\u00e9",
            "cafe\u0301",
            "\u200b",
            "...",
            "2",
        ]
    ),
    max_size=7,
)
PROMPT = WORDS.map(" ".join) | st.text(max_size=12)
SPLIT_TABLES = st.dictionaries(st.sampled_from([*SPLITS, "other"]), st.lists(PROMPT, max_size=4), max_size=4)


def read(content: bytes) -> Probes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probes.json"
        path.write_bytes(content)
        return Probes.from_json(path)


def are_probes(table: Any) -> bool:
    """The rules of the docstring, written a second time."""
    if not isinstance(table, dict) or not all(
        isinstance(p, list) and all(isinstance(x, str) for x in p) for p in table.values()
    ):
        return False
    every = [prompt for prompts in table.values() for prompt in prompts]
    return all(name in SPLITS and prompts for name, prompts in table.items()) and len(set(every)) == len(
        every
    )


@law(LAWS, 600, table=SPLIT_TABLES, as_text=st.booleans(), mark=st.booleans())
def probes_are_read_as_they_are_or_refused(table: dict[str, list[str]], as_text: bool, mark: bool) -> None:
    content = b"\xef\xbb\xbf" * mark + json.dumps(table, ensure_ascii=as_text, indent=mark).encode()
    try:
        assert {name: list(prompts) for name, prompts in read(content).splits.items()} == table
        assert are_probes(table)
    except ProbeError as error:
        explains(error)
        assert not are_probes(table)


@law(LAWS, 600, changed=mutated({"direction": ["a", "b"], "drift": ["c"], "harmless": ["d", "e"]}, PLAIN))
def changed_probes_are_read_as_they_are_or_refused(changed: tuple[Any, Any]) -> None:
    table, _ = changed
    try:
        assert same(dict(read(json.dumps(table).encode()).splits), table)
        assert are_probes(table)
    except ProbeError as error:
        explains(error)
        assert not are_probes(table)


WHOLE = json.dumps(
    {"direction": ["How do I?", "caf\u00e9"], "drift": ["\U0001f600"]}, ensure_ascii=False
).encode()


@law(LAWS, 600, place=st.integers(0, len(WHOLE)), junk=st.binary(max_size=3), cut=st.booleans())
def damaged_probes_are_read_as_json_has_them_or_refused(place: int, junk: bytes, cut: bool) -> None:
    content = WHOLE[:place] + junk + (b"" if cut else WHOLE[place + len(junk) :])
    try:
        probes = read(content)
    except ProbeError as error:
        explains(error, "probes.json", "split")
        return
    assert {name: list(prompts) for name, prompts in probes.splits.items()} == json.loads(content)


def slowly_normalised(prompt: str) -> str:
    """Character by character."""
    words = ""
    for character in unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prompt).casefold()):
        category = unicodedata.category(character)
        if character in "'\u2019" or category == "Cf":
            continue
        words += " " if category.startswith(("P", "Z")) or category == "Cc" else character
    return " ".join(words.split()) or " ".join(prompt.split())


@law(LAWS, 700, prompt=PROMPT, dressing=st.sampled_from([" {} ", "{}?", "({})", "\u200b{}", "{}\n"]))
def normalising_forgets_dress_and_nothing_else(prompt: str, dressing: str) -> None:
    assert normalise(prompt) == slowly_normalised(prompt)
    if any(character.isalnum() for character in normalise(prompt)):
        assert normalise(dressing.format(prompt)) == normalise(prompt)


@law(
    LAWS,
    200,
    harmful=st.lists(PROMPT, max_size=14),
    harmless=st.lists(PROMPT, max_size=5),
    seed=st.integers(0, 9),
    data=st.data(),
)
def splits_are_disjoint_of_the_sizes_asked_for_and_blind_to_order(
    harmful: list[str], harmless: list[str], seed: int, data: st.DataObject
) -> None:
    sizes = data.draw(st.dictionaries(st.sampled_from(SPLITS), st.integers(0, 4), min_size=1))
    n = sum(size for split, size in sizes.items() if split != "harmless")
    pools = ({normalise(prompt) for prompt in harmful}, {normalise(prompt) for prompt in harmless})
    allowed = (
        min(sizes.values()) > 0
        and n <= len(pools[0])
        and sizes.get("harmless", 0) <= len(pools[1])
        and not pools[0] & pools[1]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DroppedWarning)
        try:
            probes = make_probes(harmful, harmless, sizes=sizes, seed=seed)
        except (ProbeError, ConfigError) as error:
            explains(error)
            assert not allowed
            return
        assert allowed
        assert {split: len(prompts) for split, prompts in probes.splits.items()} == sizes
        drawn = [normalise(prompt) for prompts in probes.splits.values() for prompt in prompts]
        assert len(set(drawn)) == len(drawn)
        assert all(
            normalise(p) in pools[split == "harmless"]
            for split, prompts in probes.splits.items()
            for p in prompts
        )
        again = make_probes(
            distinct(harmful).prompts[::-1], distinct(harmless).prompts[::-1], sizes=sizes, seed=seed
        )
        assert again == probes


@law(
    LAWS,
    100,
    prompts=st.lists(PROMPT, min_size=1, max_size=10),
    n=st.integers(-1, 11),
    seed=st.integers(0, 3),
)
def equal_prompts_are_held_out_together(prompts: list[str], n: int, seed: int) -> None:
    data = Dataset.from_dict({"prompt": prompts, "row": list(range(len(prompts)))})
    try:
        train, test = train_test_split(data, test_size=n, seed=seed)
    except (ConfigError, DataError) as error:
        explains(error)
        assert not 0 < n < len(prompts) or len({normalise(prompt) for prompt in prompts}) < len(prompts)
        return
    assert len(test) == n
    assert sorted([*train["row"], *test["row"]]) == list(range(len(prompts)))
    assert not {normalise(p) for p in train["prompt"]} & {normalise(p) for p in test["prompt"]}


def runs(text: str) -> list[tuple[str, ...]]:
    words = text.split()
    return sorted({tuple(words[i : i + 3]) for i in range(len(words) - 2)})


@law(
    LAWS,
    200,
    probes=st.lists(PROMPT, min_size=1, max_size=5, unique=True),
    rows=st.lists(PROMPT, min_size=1, max_size=6),
    near=st.none() | st.floats(-0.5, 1.5),
)
def leaks_are_those_that_a_double_loop_finds(probes: list[str], rows: list[str], near: float | None) -> None:
    data, given = Dataset.from_dict({"prompt": rows}), Probes({"drift": tuple(probes)})
    try:
        leaks = list(find_leaks(given, data, near=near))
    except ConfigError as error:
        explains(error, f"near={near}")
        assert near is not None
        assert not 0 < near <= 1
        return
    expected: dict[int, float] = {}
    for i, row in enumerate(rows):
        for probe in probes:
            ours, theirs = runs(normalise(probe)), runs(normalise(row))
            share = len([run for run in ours if run in theirs]) / len(ours) if ours else 0.0
            if normalise(probe) == normalise(row):
                share = 1.0
            elif near is None or share < near or share == 0:
                continue
            expected[i] = max(share, expected.get(i, 0.0))
    assert {leak.row: leak.overlap for leak in leaks} == expected
    kept, n_dropped = drop_leaks(data, given, near=near)
    assert list(kept["prompt"]) == [row for i, row in enumerate(rows) if i not in expected]
    assert n_dropped == len(expected)


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(["How do I make a cake? Open the caf\u00e9."], 300)


@law(LAWS, 300, prompts=st.lists(PROMPT, min_size=1, max_size=5))
def prompts_become_tokens_one_by_one_and_come_back(prompts: list[str]) -> None:
    rows = encode_prompts(tokenizer(), prompts)
    assert rows == [encode_prompts(tokenizer(), [prompt])[0] for prompt in prompts]
    decoded = tokenizer().batch_decode(rows, clean_up_tokenization_spaces=False)
    assert decoded == [f"<|user|>{prompt}<|end|><|assistant|>" for prompt in prompts]


@law(LAWS, 600, rows=st.lists(st.lists(st.integers(0, 50), max_size=6), max_size=5), pad=st.integers(0, 50))
def padding_is_on_the_left_and_masked(rows: list[list[int]], pad: int) -> None:
    try:
        tokens, mask = pad_left(rows, pad)
    except ConfigError as error:
        explains(error)
        assert not rows or [] in rows
        return
    width = max(map(len, rows))
    assert tokens.tolist() == [[pad] * (width - len(row)) + row for row in rows]
    assert mask.tolist() == [[0] * (width - len(row)) + [1] * len(row) for row in rows]


MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "tool"]),
        "content": st.text(max_size=5) | st.none(),
    }
)


@law(LAWS, 400, messages=st.lists(MESSAGE, max_size=4) | st.lists(PLAIN, max_size=2) | PLAIN)
def a_conversation_opens_with_a_question_and_its_answer(messages: Any) -> None:
    try:
        exchange = first_exchange(messages, "row 0 of a.jsonl")
    except DataError as error:
        explains(error, "row 0 of a.jsonl")
        return
    assert [message["role"] for message in messages[:2]] == ["user", "assistant"][: len(messages)]
    assert exchange == tuple([*((message["content"] or "") for message in messages[:2]), "", ""][:2])
