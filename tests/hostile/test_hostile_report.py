"""Text of models, prompts and files stays text in reports and figures; pages load nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from revlens.experiment import ArmTables, ExperimentConfig
from revlens.figures import REPORTS, draw, draw_all, write_report
from revlens.figures.page import Chapter, Table, write_page
from revlens.figures.replies import ReplyView
from revlens.results import Claim
from revlens.statistics import Estimate

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</script><script>alert(1)</script>",
    "</pre></td></table><h1>x</h1>",
    "<!--<script>",
    "-->",
    "]]>",
    "{{ 7*7 }}{% raw %}",
    "&lt;b&gt; &#60;script&#62;",
    "\u2028alert(1)\u2029",
    "<link rel=stylesheet href=http://127.0.0.1/x.css>",
    "<style>@import url(http://127.0.0.1)</style>",
    "\u202ereversed",
    "javascript:alert(1)",
    "\\u003cscript\\u003ealert(1)",
    "${alert(1)}`",
]
#: Attributes with which a browser loads or runs something.
LOADING = {
    "src",
    "href",
    "srcset",
    "data",
    "action",
    "formaction",
    "poster",
    "background",
    "xlink:href",
    "style",
}


@dataclass
class Page(HTMLParser):
    """Elements with attributes as a browser makes them, the text outside scripts, and the scripts."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    @classmethod
    def of(cls, path: Path) -> Page:
        page = cls()
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        return page

    @property
    def structure(self) -> list[tuple[str, list[str]]]:
        """Tags with the names of their attributes, in order: no data may change them."""
        return [(tag, sorted(attrs)) for tag, attrs in self.elements]


def figure(text: str) -> go.Figure:
    """A figure with the text in every place that can hold text."""
    traces = [
        go.Scatter(
            x=[text, "b"], y=[1, 2], name=text, text=[text, text], hovertext=text, customdata=[text, text]
        )
    ]
    layout = {"title": text, "xaxis_title": text, "annotations": [{"text": text, "x": 0, "y": 1}]}
    return go.Figure([*traces, go.Bar(x=[1], y=[1], name=text)], layout)


@pytest.fixture(autouse=True)
def _only_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the four million characters of plotly.js, figures without images: revlens' own output."""
    monkeypatch.setattr("revlens.figures.page.get_plotlyjs", lambda: "var Plotly;")
    monkeypatch.setattr("revlens.figures.export._static_images", lambda figures, folder: None)


def assert_scripts_stay_open(page: Page) -> None:
    """Nothing in a script makes a browser end it or change the parser's state."""
    assert len(page.scripts) >= 2
    assert not any(re.search("<(?:/?script|!--)", script, flags=re.I) for script in page.scripts)


def page_of(path: Path, text: str) -> Page:
    """A report with the text in every place that can hold text."""
    replies = {name: [text] for name in ("arm", "seed", "step", "split", "prompt", "reply")}
    view = ReplyView(text, pd.DataFrame(replies | {"outcome": ["refusal"]}))
    table = Table(text, [text, "b"], [[text, text], ["x", text]])
    write_page(
        path,
        title=text,
        lead=text,
        notes=[text],
        claims=[Claim(text, text, text, Estimate(0.5, 0.25, 0.75, 5, p=0.0625), low=0.0)],
        overview=["overview"],
        chapters=[Chapter("drift", text, [], [table], [view])],
        figures={"overview": figure(text)},
        captions={"overview": text},
        provenance={text: text, "config": {"judge": {"path": text}}},
    )
    return Page.of(path)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_element_of_a_report_comes_from_the_data(text: str, tmp_path: Path) -> None:
    page, plain = page_of(tmp_path / "hostile.html", text), page_of(tmp_path / "plain.html", "plain")
    assert page.structure == plain.structure
    assert (
        sum(part.count(text) for part in page.texts) >= 8
    )  # whole and unchanged, in title, lead, note, claim and cells
    assert_scripts_stay_open(page)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_element_of_an_exported_figure_comes_from_the_data(text: str, tmp_path: Path) -> None:
    for name, content in (("hostile", text), ("plain", "plain")):
        assert draw({"overview": figure(content)}, tmp_path / name) is None
    page, plain = (Page.of(tmp_path / name / "overview.html") for name in ("hostile", "plain"))
    assert page.structure == plain.structure
    assert_scripts_stay_open(page)


def assert_loads_nothing(page: Page, beside: set[str]) -> None:
    """No attribute, style or import leads out of the folder; ``beside`` names the files allowed in it."""
    for tag, attrs in page.elements:
        assert tag not in {
            "link",
            "iframe",
            "object",
            "embed",
            "base",
            "img",
            "form",
            "svg",
            "audio",
            "video",
        }
        for name in LOADING & attrs.keys():
            value = attrs[name] or ""
            inside = (name == "style" and "url(" not in value) or (name == "href" and value.startswith("#"))
            assert inside or value in beside, (tag, name, value)
        assert not any(name.startswith("on") for name in attrs)
        assert tag != "meta" or "http-equiv" not in attrs


def test_a_report_loads_nothing(tmp_path: Path) -> None:
    """The report loads nothing, though plotly.js holds addresses as strings.

    They belong to its server, which a hidden button opens, to map tiles and to outlines of maps. No figure
    has a map, and only pages that load MathJax use it.
    """
    assert_loads_nothing(page_of(tmp_path / "report.html", "plain"), set())
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for style in re.findall(r"<style>(.*?)</style>", text, flags=re.S):
        assert "url(" not in style
        assert "@import" not in style
    drawn = text[text.rindex('id="figure-data"') :]
    assert "mathjax" not in drawn.lower()
    assert '"showSendToCloud":true' not in drawn.replace(" ", "")


def test_an_exported_figure_loads_plotly_from_its_own_folder(tmp_path: Path) -> None:
    draw({"overview": figure("plain")}, tmp_path / "figures")
    page = Page.of(tmp_path / "figures" / "overview.html")
    assert_loads_nothing(page, {"plotly.min.js"})
    assert (tmp_path / "figures" / "plotly.min.js").is_file()


def test_replies_prompts_and_tokens_of_stored_tables_stay_text(
    config: ExperimentConfig, results: ArmTables, tmp_path: Path
) -> None:
    def with_text(text: str) -> Page:
        tables = {name: table.copy() for name, table in results.tables.items()}
        for name, columns in {"replies": ["prompt", "reply"], "readout_tokens": ["token"]}.items():
            tables[name][columns] = text
        write_report(path, REPORTS["arms"], config, ArmTables(tables), [], {"note": text}, {})
        return Page.of(path)

    path = tmp_path / "report.html"
    maps = ("scattergeo", "choropleth", "scattermap", "densitymap")
    assert not any(
        trace.type.startswith(maps)
        for figure in draw_all(REPORTS["arms"], results).values()
        for trace in figure.data
    )
    plain = with_text("plain")
    for text in (
        '</script><script>alert(1)</script>"><img src=x onerror=alert(1)>{{ 7*7 }}\u2028',
        "<!--<script>",
    ):
        page = with_text(text)
        assert page.structure == plain.structure
        assert sum(text in part for part in page.texts) >= 8
        assert_loads_nothing(page, set())
