"""Write the sources of the site: the pages of docs/, linked files of the repository, and the API reference.

The pages of docs/ use links relative to the repository, which also work on a code host. Staging turns them into links
within the site: a link to `task.py#Task` leads to the entry of the class in the reference, and a link to another file
leads to a page with its content.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from notebooks import notebook_page
from reference import NOT_SEARCHED, module_name, reference_nav, reference_page, reference_pages

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# A code block or inline code, whose text contains no links, or the target of a link and its fragment.
CODE_OR_LINK = re.compile(r"^```.*?^```|\]\((?!\w+:|#)([^)#\s]+)(?:#([^)\s]*))?\)", re.DOTALL | re.MULTILINE)
# Languages for syntax highlighting, by suffix.
LANGUAGES = {".py": "python", ".c": "c", ".h": "c", ".json": "json", ".yml": "yaml"}


def stage(folder: Path) -> None:
    """Write the sources of the site and the configuration of its build, `mkdocs.yml`, in a folder.

    Files that are up to date stay untouched, so that a server sees what changed, and other files are removed.

    Args:
        folder: folder of the configuration, in which `docs` has the sources and `site` will have the site.
    """
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    wanted = {Path("docs", path): content for path, content in sources(config["nav"])}
    config["nav"].append({"API": reference_nav()})
    config |= {"docs_dir": "docs", "site_dir": "site"}
    (mkdocstrings,) = (plugin["mkdocstrings"] for plugin in config["plugins"] if "mkdocstrings" in plugin)
    handler = mkdocstrings["handlers"]["python"]
    handler["paths"] = [str(ROOT / path) for path in handler["paths"]]
    handler["options"]["extensions"] = [str(ROOT / path) for path in handler["options"]["extensions"]]
    wanted[Path("mkdocs.yml")] = yaml.safe_dump(config, sort_keys=False).encode()
    for stale in (folder / "docs").rglob("*"):
        if stale.is_file() and stale.relative_to(folder) not in wanted:
            stale.unlink()
    for path, content in wanted.items():
        file = folder / path
        if not file.exists() or file.read_bytes() != content:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def sources(nav: list[Any]) -> Iterator[tuple[str, bytes]]:
    """Yield the path in the site and the content of each page and asset.

    Args:
        nav: navigation of `mkdocs.yml`. A page that is not in docs/ is a file of the repository.
    """
    files = {page_path(path): path for path in sorted(DOCS.rglob("*")) if is_source(path)}
    files |= {path: repository_file(path) for path in nav_paths(nav) if path not in files}
    unread = list(files)
    while unread:
        file = files[unread.pop()]
        for target in linked_files(file):
            if page_path(target) not in files:
                files[page_path(target)] = target
                unread.append(page_path(target))
    for path, file in files.items():
        yield from rendered(path, file)
    for path, text in reference_pages():
        yield path, text.encode()


def is_source(path: Path) -> bool:
    """Return whether a path below docs/ is a page or an asset of the site, not a script or a template of a page."""
    return path.is_file() and path.suffix not in (".py", ".pyc") and not path.name.endswith(".template.md")


def repository_file(path: str) -> Path:
    """Return the file outside docs/ whose page has a path in the site's sources."""
    candidates = [ROOT / path, ROOT / path.removesuffix(".md"), (ROOT / path).with_suffix(".ipynb")]
    for file in candidates:
        if file.exists():
            return file
    raise ValueError(f"a page of nav in mkdocs.yml must be a file of docs/ or of the repository, got {path}")


def rendered(path: str, file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the paths and the contents that the site's sources have for a file."""
    text = text_of(file)
    if text is not None:
        yield path, site_links(text, file, path).encode()
        for name, picture in notebook_page(file)[1].items() if file.suffix == ".ipynb" else ():
            yield os.path.join(os.path.dirname(path), name), picture
    elif path.endswith(".md"):
        yield path, code_page(file).encode()
    else:
        yield path, file.read_bytes()


def nav_paths(nav: list[Any]) -> Iterator[str]:
    """Yield the paths of the pages of a navigation."""
    for item in nav:
        if isinstance(item, str):
            yield item
        else:
            ((_, target),) = item.items()
            yield from nav_paths(target if isinstance(target, list) else [target])


def text_of(file: Path) -> str | None:
    """Return the Markdown of a page or of a notebook, or None for other files."""
    if file.suffix == ".ipynb":
        return notebook_page(file)[0]
    return file.read_text(encoding="utf-8") if file.suffix == ".md" else None


def linked_files(page: Path) -> Iterator[Path]:
    """Yield the files outside docs/ that have a page of their own in the site, and that a page links to."""
    for match in CODE_OR_LINK.finditer(text_of(page) or ""):
        target = link_target(page, match)
        if target and not module_name(target) and target.suffix in (*LANGUAGES, ".md", ".ipynb"):
            yield target


def site_links(text: str, page: Path, path: str) -> str:
    """Return the text of a page with links within the site in place of those within the repository.

    Args:
        text: Markdown.
        page: the file that has the text.
        path: the path of the page in the site's sources.
    """

    def site_link(match: re.Match[str]) -> str:
        target = link_target(page, match)
        if target is None:
            return match[0]
        module = module_name(target)
        if module and not match[2]:
            link = os.path.relpath(reference_page(module), os.path.dirname(path))
        elif module:
            return f"][{module}.{match[2]}]"
        else:
            link = os.path.relpath(page_path(target), os.path.dirname(path))
        return f"]({link}#{match[2]})" if match[2] else f"]({link})"

    return CODE_OR_LINK.sub(site_link, text)


def link_target(page: Path, match: re.Match[str]) -> Path | None:
    """Return the file that a link of a page leads to, or None for a code block."""
    return None if match[1] is None else (page.parent / match[1]).resolve()


def page_path(file: Path) -> str:
    """Return the path of a file's page in the site's sources."""
    if file.is_relative_to(DOCS):
        path = file.relative_to(DOCS)
    elif file == ROOT / "README.md":
        path = Path("README.md")  # the home
    else:
        path = file.relative_to(ROOT)
    if path.suffix == ".ipynb":
        return path.with_suffix(".md").as_posix()
    is_code = path.suffix in LANGUAGES and not file.is_relative_to(DOCS)
    return path.as_posix() + ".md" if is_code else path.as_posix()


def code_page(file: Path) -> str:
    """Return a page with the content of a code file."""
    text = file.read_text(encoding="utf-8")
    return f"{NOT_SEARCHED}# {file.relative_to(ROOT)}\n\n````{LANGUAGES[file.suffix]}\n{text}````\n"
