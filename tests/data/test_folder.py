from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from datasets import Dataset

from data.data_files import write, write_lines, write_list
from revlens.data import DataFolder, drop_leaks, find_leaks
from revlens.data.folder import HARMFUL, HARMLESS, INSTRUCT
from revlens.errors import DataError
from revlens.prompts import Probes

REAL = Path(__file__).parents[3] / "shared" / "data"
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no public data files at {REAL}")


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    """One or two made-up rows of each file, in the form of the real ones."""
    write(tmp_path / "prompts/advbench.csv", 'goal,target\nWrite a bad plan,"Sure, here is a bad plan"\n')
    for name in (*HARMFUL, *HARMLESS):
        write_list(
            tmp_path / f"prompts/{name}.json",
            *({"instruction": f"{name} {i}", "category": None} for i in range(2)),
        )
    write_lines(tmp_path / "gsm8k/train.jsonl", {"question": "What is 1+1?", "answer": "Two.\n#### 2"})
    write_list(
        tmp_path / "instruct/gpteacher_roleplay.json",
        {"instruction": "Be a fox.", "input": "", "output": "Yip."},
    )
    tools = {"instruction": "Call it.", "input": "a, b", "output": "f(a, b)"}
    write_list(tmp_path / "instruct/gpteacher_toolformer.json", tools, tools | {"example_input": "c"})
    instances = [{"input": "", "output": "Eggs."}, {"input": "No eggs,\u2028please.", "output": "Oats."}]
    task = {
        "id": "seed_task_0",
        "instruction": "Breakfast?",
        "instances": instances,
        "is_classification": False,
    }
    write_lines(tmp_path / "instruct/self_instruct_seed_tasks.jsonl", task)
    return DataFolder(tmp_path)


def test_every_file_has_a_loader(folder: DataFolder) -> None:
    assert folder.advbench().to_list() == [
        {"prompt": "Write a bad plan", "answer": "Sure, here is a bad plan"}
    ]
    assert folder.gsm8k().to_list() == [{"prompt": "What is 1+1?", "answer": "Two.\n#### 2"}]
    assert [folder.harmful(name) for name in HARMFUL] == [(f"{name} 0", f"{name} 1") for name in HARMFUL]
    assert [folder.harmless(name) for name in HARMLESS] == [(f"{name} 0", f"{name} 1") for name in HARMLESS]
    assert folder.instruct().to_dict() == {
        "prompt": [
            "Be a fox.",
            "Call it.\n\na, b",
            "Call it.\n\na, b",
            "Breakfast?",
            "Breakfast?\n\nNo eggs,\u2028please.",
        ],
        "answer": ["Yip.", "f(a, b)", "f(a, b)", "Eggs.", "Oats."],
    }
    assert folder.instruct(INSTRUCT[:1]).to_list() == [{"prompt": "Be a fox.", "answer": "Yip."}]


def test_the_folder_may_be_given_as_text(folder: DataFolder) -> None:
    assert DataFolder(str(folder.path)).harmful("tdc2023") == folder.harmful("tdc2023")


def test_the_digest_is_over_names_contents_and_order_not_the_place(
    folder: DataFolder, tmp_path: Path
) -> None:
    files = ["gsm8k/train.jsonl", "prompts/advbench.csv"]
    digest = folder.digest(files)
    shutil.copytree(folder.path, tmp_path / "copy")
    copy = DataFolder(tmp_path / "copy")
    assert len(digest) == 64
    assert copy.digest(files) == digest != copy.digest(files[::-1])
    shutil.copy(tmp_path / "copy" / files[0], tmp_path / "copy" / "renamed.jsonl")
    assert copy.digest(files[:1]) != copy.digest(["renamed.jsonl"])
    with (tmp_path / "copy" / files[1]).open("a") as csv:
        csv.write("Another,One\n")
    assert copy.digest(files) != digest


def test_a_missing_folder_or_file_names_the_option(folder: DataFolder, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="No data folder at .*nowhere; name one that holds gsm8k/train.jsonl with --data-dir"
    ):
        DataFolder(tmp_path / "nowhere").gsm8k()
    (tmp_path / "prompts/tdc2023.json").unlink()
    with pytest.raises(
        DataError, match="lacks prompts/tdc2023.json; add the file, or name another folder with --data-dir"
    ):
        folder.harmful("tdc2023")
    with pytest.raises(DataError, match="lacks prompts/none.csv"):
        folder.digest(["prompts/none.csv"])


def test_an_unknown_name_is_an_error(folder: DataFolder) -> None:
    with pytest.raises(DataError, match="No data set 'harmless_val' here; expected one of harmful_train, "):
        folder.harmful("harmless_val")
    with pytest.raises(DataError, match="expected one of harmless_train, harmless_val"):
        folder.harmless("tdc2023")
    with pytest.raises(DataError, match="expected one of gpteacher_roleplay, "):
        folder.instruct(["gpteacher"])


@needs_real_data
def test_the_real_files_hold_what_is_known_of_them() -> None:
    folder = DataFolder(REAL)
    assert [len(folder.harmful(name)) for name in HARMFUL] == [260, 39, 100, 100]
    assert [len(folder.harmless(name)) for name in HARMLESS] == [18793, 6264]
    assert [len(folder.instruct([name])) for name in INSTRUCT] == [3146, 2396, 175]
    assert (len(folder.advbench()), len(folder.gsm8k())) == (520, 7473)
    assert folder.gsm8k()[0]["answer"].endswith("#### 72")


@needs_real_data
def test_known_overlaps_of_the_real_files_are_found() -> None:
    folder = DataFolder(REAL)
    train, val = (Probes({"direction": folder.harmful(name)}) for name in ("harmful_train", "harmful_val"))
    advbench = folder.advbench()
    assert drop_leaks(advbench, train).n_dropped == 117
    assert drop_leaks(advbench, train, near=0.8).n_dropped == 131
    for name, n_train, n_val in (("malicious_instruct", 88, 0), ("tdc2023", 55, 7)):
        data = Dataset.from_dict({"prompt": folder.harmful(name)})
        assert (drop_leaks(data, train).n_dropped, drop_leaks(data, val).n_dropped) == (n_train, n_val)


@needs_real_data
def test_harmful_requests_and_alpaca_share_sentence_frames_but_do_not_leak() -> None:
    folder = DataFolder(REAL)
    advbench = folder.advbench()
    data = Dataset.from_dict({"prompt": folder.harmless("harmless_train")})
    overlaps = [
        leak.overlap for leak in find_leaks(Probes({"drift": tuple(advbench["prompt"])}), data, near=0.5)
    ]
    assert (len(overlaps), max(overlaps)) == (8, 0.7)
