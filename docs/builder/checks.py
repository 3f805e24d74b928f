"""Checks of a built site that Zensical does not make."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

# What a browser loads with a page, or a link that a reader may follow.
LOADED = re.compile(r'<(?:script|img|iframe|source)\b[^>]*?\bsrc="([^"]*)"|<link\b[^>]*?\bhref="([^"]*)"')
FOLLOWED = re.compile(r'<a\b[^>]*?\bhref="([^"#]*)')
# Words that readers search for.
SEARCHED = ("neuromodulation", "plastic-rnn", "eta", "fast weight", "transplant")


def faults(site: Path) -> list[str]:
    """Return the faults of a site: missing files, files from other hosts, formulas as TeX, words that are not found."""
    found = []
    for page in sorted(site.rglob("*.html")):
        if page.name == "404.html":  # a host shows it at any address
            continue
        html = page.read_text(encoding="utf-8")
        name = page.relative_to(site)
        if "arithmatex" in html:
            found.append(f"{name} has a formula that is not MathML")
        loaded = [source or target for source, target in LOADED.findall(html)]
        found += [f"{name} loads {target} from another host" for target in loaded if re.match(r"https?:|//", target)]
        for target in {*loaded, *FOLLOWED.findall(html)}:
            is_local = target and not re.match(r"\w+:|//", target)
            if is_local and not (page.parent / unquote(target.partition("#")[0].partition("?")[0])).exists():
                found.append(f"{name} refers to {target}, which does not exist")
    index = (site / "search.json").read_text(encoding="utf-8")
    return found + [f'the search index has no "{word}"' for word in SEARCHED if word not in index]
