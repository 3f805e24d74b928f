"""What the site has beside the pages of docs/: the API reference, files of the repository that pages link to, formulas.

Pages link to files as they lie in the repository, so that the links work wherever that is browsed. Here such a link
becomes one within the site: `rules.py#update_rates` leads to the function's entry in the reference, other files lead to
pages that show them. Formulas become MathML, which browsers show without a script or anything fetched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# The folder that holds each package.
PACKAGES = {"plastic_envs": ROOT, "plastic_agents": ROOT / "agents"}
# A block of code, in which nothing is a link; or the target of a link and its fragment.
CODE_OR_LINK = re.compile(r"^```.*?^```|\]\((?!\w+:|#)([^)#\s]+)(?:#([^)\s]*))?\)", re.DOTALL | re.MULTILINE)
# What pymdownx.arithmatex marks: a formula in a line, or one on lines of its own.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
# How files that are no Markdown are shown.
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".json": "json"}


def on_config(config: MkDocsConfig) -> None:
    """Put the reference at the end of the navigation."""
    assert config.nav is not None
    for package in PACKAGES:
        pages = [{module.removeprefix(f"{package}."): _reference(module)} for module in _modules(package)]
        config.nav.append({f"API: {package}": pages})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of the reference, and those of files outside docs/ that pages link to."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    for module in (module for package in PACKAGES for module in _modules(package)):
        files.append(File.generated(config, _reference(module), content=f"::: {module}\n"))
    while waiting:
        page = waiting.pop()
        for match in CODE_OR_LINK.finditer(page.read_text(encoding="utf-8")):
            target = _target(page, match)
            shown = target is not None and (target.suffix in LANGUAGES or target.suffix == ".md")
            if not shown or _module(target) or files.get_file_from_path(_place(target)):
                continue
            files.append(File.generated(config, _place(target), content=_content(target)))
            if target.suffix == ".md":
                waiting.append(target)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links within the site."""
    place = page.file.src_uri
    origin = Path(page.file.abs_src_path or ROOT / place)
    if not origin.exists():  # a page of the reference, or one that shows code
        return markdown

    def within(match: re.Match[str]) -> str:
        target = _target(origin, match)
        if target is None:
            return match[0]
        module = _module(target)
        if module:
            return f"][{module}.{match[2]}]" if match[2] else f"][{module}]"
        link = os.path.relpath(_place(target), Path(place).parent)
        return f"]({link}#{match[2]})" if match[2] else f"]({link})"

    return CODE_OR_LINK.sub(within, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn TeX into MathML."""
    return FORMULA.sub(lambda m: convert(unescape(m[2]), display="block" if m[1] == "div" else "inline"), html)


def _target(page: Path, match: re.Match[str]) -> Path | None:
    """The file that a link of a page leads to; None for code."""
    return None if match[1] is None else (page.parent / match[1]).resolve()


def _modules(package: str) -> Iterator[str]:
    return map(_module, sorted((PACKAGES[package] / package).rglob("*.py")))


def _module(path: Path) -> str:
    """Return the name of the module that a file of the packages holds; "" for other files."""
    for package, folder in PACKAGES.items():
        if path.suffix == ".py" and path.is_relative_to(folder / package):
            return ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
    return ""


def _reference(module: str) -> str:
    return f"reference/{module}.md"


def _place(path: Path) -> str:
    """Where in the site's sources a file of the repository stands."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    relative = path.relative_to(ROOT).as_posix()
    return relative + ".md" if path.suffix in LANGUAGES else relative


def _content(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {path.relative_to(ROOT)}\n\n````{LANGUAGES[path.suffix]}\n{text}````\n"
