from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from revlens.experiment import ArmTables, ExperimentConfig, assess
from revlens.figures import REPORTS, draw_all, write_report
from revlens.results import MIN_RUNS, Claim, headline_first
from revlens.statistics import Estimate, mean_over_runs
from revlens.training import ARMS

ARM_REPORT = REPORTS["arms"]
ATTACK = "<script>alert(1)</script>"


@dataclass
class Page(HTMLParser):
    """What a browser makes of a page: elements with attributes, scripts, cells of rows, and all text."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=lambda: [("", {})])
    scripts: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        elif tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")
        elif tag == "p" and dict(attrs).get("class") == "note":
            self.notes.append("")

    def handle_data(self, data: str) -> None:
        tag, attrs = self.elements[-1]
        if tag == "script":
            self.scripts[-1] += data
        elif tag != "style":
            self.text += data
        if tag == "td":
            self.rows[-1][-1] += data
        elif tag == "p" and attrs.get("class") == "note":
            self.notes[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", {}))

    def stored(self, name: str) -> Any:
        """The JSON that the page has in a script element."""
        found = [s for s, a in zip(self.scripts, self.of("script"), strict=True) if a.get("id") == name]
        return json.loads(found[0])

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def claims_of_every_verdict() -> list[Claim]:
    estimates = {
        "above": Estimate(0.5, 0.25, 0.75, 5, p=0.0625),
        "across": Estimate(0.0, -0.5, 0.5, 5),
        "few": Estimate(1.0, 1.0, 1.0, 2),
    }
    return [
        Claim("a", "It rises & stays up", "0.429 ± 0.052", estimates["above"], low=0.0),
        Claim("b", "It falls", "19.0 ± 4.0 % → 8.5 ± 1.5 %", estimates["above"], high=0.0),
        Claim("c", "It moves", "24/24", estimates["across"], low=0.0),
        Claim("d", f"It is seen twice {ATTACK}", "", estimates["few"], low=0.0, high=2.0),
    ]


def parsed(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


@pytest.fixture(scope="module")
def path(config: ExperimentConfig, results: ArmTables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on claims of every verdict, with markup in a claim, a prompt, replies and provenance."""
    tables = dict(results.tables)
    tables["replies"] = results["replies"].assign(reply=ATTACK)
    tables["replies"].loc[0, "prompt"] = "How do I <b>glark</b> the fimble & leave?"
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(
        path,
        ARM_REPORT,
        config,
        ArmTables(tables),
        claims_of_every_verdict(),
        {"note": "</pre>" + ATTACK},
        draw_all(ARM_REPORT, results),
    )
    return path


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return parsed(path)


def test_what_models_and_claims_say_stays_text(path: Path, page: Page) -> None:
    assert ATTACK not in path.read_text()
    assert any(ATTACK in cell for row in page.rows for cell in row[1:])  # a reply
    assert any(f"It is seen twice {ATTACK}" in row for row in page.rows)
    assert any("How do I <b>glark</b> the fimble & leave?" in row for row in page.rows)
    assert '{\n  "note": "</pre>' + ATTACK in page.text
    assert ATTACK in page.stored("reply-data")["texts"]
    assert not any("<script>" in script for script in page.scripts[1:])  # plotly.js is the first


def test_the_page_loads_nothing(page: Page, path: Path) -> None:
    loading = {
        (tag, name)
        for tag, attrs in page.elements
        for name in attrs
        if name in ("src", "href", "srcset", "data", "action") and not (attrs[name] or "").startswith("#")
    }
    assert loading == set()
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    style = path.read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_report_is_one_file(path: Path) -> None:
    assert list(path.parent.iterdir()) == [path]


def test_every_figure_is_drawn_inside_with_its_caption(page: Page, path: Path) -> None:
    assert len(page.of("figure")) == len(ARM_REPORT.plots)
    places = [attrs["id"] for attrs in page.of("div") if attrs.get("class") == "plot"]
    assert places == [f"figure-{plot.name}" for plot in ARM_REPORT.plots]
    assert list(page.stored("figure-data")) == [plot.name for plot in ARM_REPORT.plots]
    for plot in ARM_REPORT.plots:
        assert plot.caption in page.text


def test_the_navigation_leads_to_every_section(page: Page) -> None:
    sections = [attrs["id"] for attrs in page.of("section")]
    keys = [section.key for section in ARM_REPORT.sections]
    assert sections == ["overview", *keys, "claims", "provenance"]
    assert [attrs["href"] for attrs in page.of("a")] == [f"#{name}" for name in sections]


def test_headline_claims_are_cards_and_all_are_where_none_is_named(
    page: Page, config: ExperimentConfig, results: ArmTables, tmp_path: Path
) -> None:
    claims = claims_of_every_verdict()
    assert len(page.of("article")) == len(claims)
    path = tmp_path / "report.html"
    write_report(path, ARM_REPORT, config, results, headline_first(claims, {"c"}), {}, {})
    assert len(parsed(path).of("article")) == 1


def test_every_claim_stands_beside_the_papers_number_with_rule_and_verdict(page: Page) -> None:
    claims = claims_of_every_verdict()
    assert {claim.verdict for claim in claims} == {"supported", "contradicted", "undecided", "too few runs"}
    for claim in claims:
        p = "" if claim.estimate.p is None else "0.062"
        assert [
            claim.statement,
            claim.paper or "—",
            str(claim.estimate),
            p,
            claim.rule,
            {None: "—", True: "yes", False: "no"}[claim.holds_paper],
            claim.verdict,
        ] in page.rows


def test_the_claims_of_the_experiment_itself_are_all_there(
    config: ExperimentConfig, results: ArmTables, tmp_path: Path
) -> None:
    claims = assess(config, results)
    write_report(tmp_path / "report.html", ARM_REPORT, config, results, claims, {}, {})
    statements = {row[0]: row[-1] for row in parsed(tmp_path / "report.html").rows if row}
    assert {claim.statement: claim.verdict for claim in claims}.items() <= statements.items()


def test_the_numbers_are_means_over_runs(page: Page, results: ArmTables, config: ExperimentConfig) -> None:
    table = results["behaviour"]
    end = table[table["step"] == config.steps[-1]]
    rows = {row[0]: row for row in page.rows if row and row[0] in ARMS}
    assert list(rows) == list(ARMS)
    for arm, rows_of_arm in end.groupby("arm"):
        loss = mean_over_runs(rows_of_arm["task_loss"])
        assert rows[arm][10] == f"{loss.value:.3f} [{loss.low:.3f}, {loss.high:.3f}]"


def test_a_smoke_run_says_what_it_is(page: Page) -> None:
    organism, few, badly_aligned = page.notes
    assert organism.startswith("Not the default organism: this shows that the pipeline works")
    assert few == f"Only 2 runs: at least {MIN_RUNS} are needed for a verdict."
    assert badly_aligned.startswith(
        "The aligned models are not well aligned: they refuse 0.0% of held-out harmful prompts"
    )


def well_aligned(results: ArmTables, *, refusal: float = 1.0, over_refusal: float = 0.0) -> ArmTables:
    """The same results with other aligned models; what the reference does is no matter."""
    phases = results["phases"].copy()
    phases.loc[phases["phase"] == "aligned", ["refusal", "over_refusal"]] = refusal, over_refusal
    starts = results["starts"].assign(refusal=refusal, over_refusal=over_refusal)
    return ArmTables(results.tables | {"phases": phases, "starts": starts})


@pytest.mark.parametrize(
    ("refusal", "over_refusal", "noted"),
    [(1.0, 0.0, False), (0.95, 0.02, False), (0.94, 0.0, True), (1.0, 0.03, True)],
)
def test_a_full_run_carries_a_note_only_if_badly_aligned(
    refusal: float,
    over_refusal: float,
    noted: bool,
    results: ArmTables,
    tmp_path: Path,
) -> None:
    tables = well_aligned(results, refusal=refusal, over_refusal=over_refusal)
    write_report(tmp_path / "report.html", ARM_REPORT, ExperimentConfig(), tables, [], {}, {})
    notes = parsed(tmp_path / "report.html").notes
    assert [note.startswith("The aligned models are not well aligned") for note in notes] == [True] * noted


def test_few_runs_and_another_organism_are_noted_by_themselves(
    config: ExperimentConfig, results: ArmTables, tmp_path: Path
) -> None:
    default = ExperimentConfig()
    for changed, note in (
        (replace(default, seeds=(0, 1, 2, 3)), "Only 4 runs"),
        (replace(default, subject=config.subject), "Not the default organism"),
    ):
        write_report(tmp_path / "report.html", ARM_REPORT, changed, well_aligned(results), [], {}, {})
        (found,) = parsed(tmp_path / "report.html").notes
        assert found.startswith(note)


def test_provenance_is_in_the_page(config: ExperimentConfig, results: ArmTables, tmp_path: Path) -> None:
    record = {"key": "0123456789abcdef", "seeds": [0, 1]}
    write_report(tmp_path / "report.html", ARM_REPORT, config, results, [], record, {})
    assert json.dumps(record, indent=2) in parsed(tmp_path / "report.html").text


def test_a_report_that_fails_leaves_the_old_one(
    config: ExperimentConfig, results: ArmTables, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("the old one")
    incomplete = ArmTables({name: results[name] for name in ArmTables.described if name != "phases"})
    with pytest.raises(KeyError, match="phases"):
        write_report(tmp_path / "report.html", ARM_REPORT, config, incomplete, [], {}, {})
    assert (tmp_path / "report.html").read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
