"""What the site does to the pages, which are written for a checkout.

README is its first page. Links that lead out of docs/ go to figures, which are copied, or to the repository.
The pages of the API list what each door offers, so that a public name stands in one place.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOMS = (
    "activations", "behaviour", "causal", "direction", "experiment", "history", "hooks", "screening",
    "training",
)  # fmt: skip


class _InnerProducts(Preprocessor):
    """Keeps <h, v> of docstrings from being taken for a tag."""

    def run(self, lines: list[str]) -> list[str]:
        return [re.sub(r"<(?=\w+, )", "&lt;", line) for line in lines]


class InnerProducts(Extension):
    """Text in which inner products stand as <h, v>."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(_InnerProducts(md), "inner_products", 100)


def on_config(config: Any) -> Any:
    """Read docstrings as they are written."""
    config.markdown_extensions.append(InnerProducts())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the first page, the API and the figures."""
    readme = re.sub(r"\]\(docs/", "](", (ROOT / "README.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, "index.md", content=readme))
    for room in ROOMS:
        blocks = [f"::: {path}\n" for path in offered(room)]
        door = f"::: revlens.{room}\n    options: {{members: false, show_root_heading: false}}\n"
        page = "\n".join([f"# revlens.{room}\n", door, *blocks])
        files.append(File.generated(config, f"api/{room}.md", content=page))
    paper = "# revlens.figures.paper\n\n::: revlens.figures.paper\n    options: {show_root_heading: false}\n"
    files.append(File.generated(config, "api/paper.md", content=paper))
    for figure in sorted((ROOT / "figures").glob("*.png")):
        files.append(File.generated(config, f"figures/{figure.name}", abs_src_path=str(figure)))
    return files


def offered(room: str) -> Iterator[str]:
    """Where each class and function is defined that the door of a room offers."""
    folder = ROOT / "src" / "revlens" / room
    door = folder / "__init__.pyi"
    tree = ast.parse((door if door.is_file() else folder / "__init__.py").read_text(encoding="utf-8"))
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            module = statement.module.removeprefix(f"revlens.{room}.")
            if not (folder / f"{module}.py").is_file():
                continue  # of a folder within the room, which the collector does not read
            for name in statement.names:
                yield f"revlens.{room}.{module}.{name.name}"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links out of docs/ to where they are."""
    blob = f"{config.repo_url.rstrip('/')}/blob/main"
    markdown = markdown.replace("](../figures/", "](figures/")
    if page.file.src_uri == "index.md":
        markdown = markdown.replace("](CITATION.cff)", f"]({blob}/CITATION.cff)")
    markdown = re.sub(r"\]\((runs/[^)]*)\)", rf"]({blob}/docs/\1)", markdown)
    return re.sub(r"\]\(\.\./", f"]({blob}/", markdown) if page.file.src_uri.count("/") == 0 else markdown


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Point the links of notebooks, which no plugin resolves, to the pages and files that they name."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def resolved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), link[2]))
        found = files.get_file_from_path(target)
        if found is None:
            raise PluginError(f"{page.file.src_uri} links to {link[2]}, which is no file of docs/.")
        return f'{link[1]}="{found.url_relative_to(page.file)}"'

    return re.sub(r'(href|src)="(?!#|[a-z]+:)([^"]+\.(?:ipynb|md|svg|png))"', resolved, html)
