"""The API reference: a page with the public names of each package, and a page for each module."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]
# The folder that holds each package.
PACKAGES = {"plastic_envs": ROOT, "plastic_agents": ROOT / "agents"}
# Headings of the public names, by the module that defines them; the first prefix that matches counts.
SECTIONS = {
    "plastic_envs": "Environments and tasks",
    "plastic_agents.models.plastic": "Plasticity",
    "plastic_agents.models": "Networks",
    "plastic_agents.training": "Training and recipes",
    "plastic_agents.actor_critic": "Reinforcement learning",
    "plastic_agents.analysis": "Agents, probes and reports",
    "plastic_agents": "Other",
}
# The head of a page that the search leaves out.
NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"


def module_name(path: Path) -> str:
    """Return the module name of a file of the packages, or "" for other files."""
    for package, folder in PACKAGES.items():
        if path.suffix == ".py" and path.is_relative_to(folder / package):
            return ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")
    return ""


def modules(package: str) -> list[str]:
    """Return the names of all modules of a package, the package first."""
    return [module_name(path) for path in sorted((PACKAGES[package] / package).rglob("*.py"))]


def reference_page(module: str) -> str:
    """Return the path of a module's page in the site's sources. The page of a package heads those of its modules."""
    package = module.partition(".")[0]
    is_inner_package = module != package and (PACKAGES[package] / module.replace(".", "/")).is_dir()
    return f"reference/{module}/index.md" if is_inner_package else f"reference/{module}.md"


def reference_nav() -> list[Any]:
    """Return the navigation of the reference: the public names first, then the modules in folds."""
    nav: list[Any] = [{package: reference_page(package)} for package in PACKAGES]
    return nav + [{f"Modules of {package}": modules_nav(package)} for package in PACKAGES]


def modules_nav(package: str) -> list[Any]:
    """Return the navigation of the modules in a package, each inner package with its own."""
    nav: list[Any] = []
    for module in modules(package.partition(".")[0]):
        parent, _, label = module.rpartition(".")
        if parent == package and label != "__main__":
            inner = modules_nav(module)
            nav.append({label: [reference_page(module), *inner] if inner else reference_page(module)})
    return nav


def reference_pages() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each page."""
    for package, folder in PACKAGES.items():
        root = griffe.load(package, search_paths=[folder])
        yield reference_page(package), package_page(root)
        public = {final_target(root, name).canonical_path for name in public_names(root)}
        for module in modules(package):
            if module != package and not module.endswith("__main__"):
                text = module_page(root[module.partition(".")[2]])
                is_public = any(path == module or path.rpartition(".")[0] == module for path in public)
                yield reference_page(module), text if is_public else NOT_SEARCHED + text


def package_page(package: griffe.Module) -> str:
    """Return the page of a package: tables of its public names, with links to their entries."""
    summary, _, rest = package.docstring.value.partition("\n\n")
    rows: dict[str, list[str]] = {}
    for name in public_names(package):
        target = final_target(package, name)
        heading = next(title for prefix, title in SECTIONS.items() if target.canonical_path.startswith(prefix))
        page = os.path.relpath(reference_page(target.canonical_path), "reference")
        link = f"[`{name}`]({page})" if target.is_module else f"[`{name}`][{target.canonical_path}]"
        rows.setdefault(heading, []).append(f"| {link} | {first_sentence(target)} |")
    tables = "\n\n".join(
        f"## {heading}\n\n| Name | |\n|---|---|\n" + "\n".join(sorted(rows[heading], key=str.casefold))
        for heading in SECTIONS.values()
        if heading in rows
    )
    return f"""# {package.name}

{summary} {rest}

The tables have the public names, which you import from `{package.name}`. Each name leads to its entry, with signature
and defaults, on the page of the module that defines it.

{tables}
"""


def module_page(module: griffe.Module) -> str:
    """Return the page of a module. The names that a package only imports have their entries in its modules."""
    defined = [name for name, member in module.members.items() if not (member.is_alias or name.startswith("_"))]
    is_imports_only = all(module.members[name].is_module for name in defined)
    options = "    options: {members: false}\n" if module.is_init_module and is_imports_only else ""
    return f"::: {module.path}\n{options}"


def public_names(package: griffe.Module) -> list[str]:
    """Return the public names of a package: those of `__all__`, or those that its source re-exports with "as"."""
    if package.exports and all(isinstance(name, str) for name in package.exports):
        names = [str(name) for name in package.exports]
    else:
        tree = ast.parse(Path(str(package.filepath)).read_text(encoding="utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        names = [alias.name for node in imports for alias in node.names if alias.asname == alias.name]
    return [name for name in names if not name.startswith("_")]


def final_target(package: griffe.Module, name: str) -> griffe.Object:
    """Return what a name of a package stands for, where it is defined."""
    member = package.members[name]
    return member.final_target if member.is_alias else member


def first_sentence(thing: griffe.Object) -> str:
    """Return the first sentence of a docstring, for a cell of a table."""
    if not thing.docstring:
        raise ValueError(f"{thing.canonical_path} must have a docstring: the reference has no entry without one")
    text = " ".join(thing.docstring.value.partition("\n\n")[0].split())
    return re.sub(r"(?<=[a-z)`])\. .*", ".", text).replace("|", r"\|")
