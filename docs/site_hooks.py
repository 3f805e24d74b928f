"""MkDocs hooks: the API reference, pages for linked files of the repository, and formulas.

The pages of docs/ use links relative to the repository, which also work on a code host. These hooks turn them into
links within the site: a link to `task.py#Task` leads to the entry of the class in the reference, and a link to another
file leads to a page with its content. Formulas become MathML, which browsers render without scripts.
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
# A code block, whose text contains no links, or the target of a link and its fragment.
CODE_OR_LINK = re.compile(r"^```.*?^```|\]\((?!\w+:|#)([^)#\s]+)(?:#([^)\s]*))?\)", re.DOTALL | re.MULTILINE)
# The markup of pymdownx.arithmatex for an inline formula or a display formula.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
# Languages for syntax highlighting, by suffix.
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".json": "json"}
# The display attribute of MathML, by the element of the markup.
DISPLAY = {"div": "block", "span": "inline"}


def on_config(config: MkDocsConfig) -> None:
    """Put the reference at the end of the navigation."""
    assert config.nav is not None
    for package in PACKAGES:
        pages = [{module.removeprefix(f"{package}."): _reference(module)} for module in _modules(package)]
        config.nav.append({f"API: {package}": pages})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of the reference, and pages for linked files outside docs/."""
    unread_pages = [DOCS / file.src_uri for file in files.documentation_pages()]
    for module in (module for package in PACKAGES for module in _modules(package)):
        files.append(File.generated(config, _reference(module), content=f"::: {module}\n"))
    while unread_pages:
        page = unread_pages.pop()
        for match in CODE_OR_LINK.finditer(page.read_text(encoding="utf-8")):
            target = _target(page, match)
            has_page = target is not None and (target.suffix in LANGUAGES or target.suffix == ".md")
            if not has_page or _module(target) or files.get_file_from_path(_page_path(target)):
                continue
            files.append(File.generated(config, _page_path(target), content=_content(target)))
            if target.suffix == ".md":
                unread_pages.append(target)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links within the site."""
    page_path = page.file.src_uri
    source = Path(page.file.abs_src_path or ROOT / page_path)
    if not source.exists():  # a page of the reference or of a code file
        return markdown

    def site_link(match: re.Match[str]) -> str:
        target = _target(source, match)
        if target is None:
            return match[0]
        module = _module(target)
        if module:
            return f"][{module}.{match[2]}]" if match[2] else f"][{module}]"
        link = os.path.relpath(_page_path(target), Path(page_path).parent)
        return f"]({link}#{match[2]})" if match[2] else f"]({link})"

    return CODE_OR_LINK.sub(site_link, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn TeX into MathML."""
    return FORMULA.sub(lambda match: convert(unescape(match[2]), display=DISPLAY[match[1]]), html)


def _target(page: Path, match: re.Match[str]) -> Path | None:
    """Return the file that a link of a page leads to, or None for a code block."""
    return None if match[1] is None else (page.parent / match[1]).resolve()


def _modules(package: str) -> Iterator[str]:
    return map(_module, sorted((PACKAGES[package] / package).rglob("*.py")))


def _module(path: Path) -> str:
    """Return the module name of a file of the packages, or "" for other files."""
    for package, folder in PACKAGES.items():
        if path.suffix == ".py" and path.is_relative_to(folder / package):
            return ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
    return ""


def _reference(module: str) -> str:
    return f"reference/{module}.md"


def _page_path(path: Path) -> str:
    """Return the path of a file's page in the sources of the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    relative = path.relative_to(ROOT).as_posix()
    return relative + ".md" if path.suffix in LANGUAGES else relative


def _content(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {path.relative_to(ROOT)}\n\n````{LANGUAGES[path.suffix]}\n{text}````\n"
