"""Hooks of mkdocs: pages of the repository that lie outside docs/ are part of the site as well.

The README is its front page. Links between pages stay as a reader of the repository follows them, and are put
right here; a link to a file that is not part of the site becomes plain text.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "recipes/README.md": "recipes.md",
}
# What mkdocstrings reads: a copy of the package whose folders are all packages, which it asks for.
SOURCES = ROOT / "build" / "site-sources"
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


def on_startup(command: str, dirty: bool) -> None:
    """Copy the package for the reference pages; nothing is imported."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    shutil.copytree(ROOT / "accel", SOURCES / "accel", ignore=only_python)
    for folder in [SOURCES / "accel", *(SOURCES / "accel").rglob("*/")]:
        (folder / "__init__.py").touch()


def only_python(folder: str, names: list[str]) -> list[str]:
    """What is not copied of a folder."""
    return [name for name in names if not (name.endswith(".py") or (Path(folder) / name).is_dir())]


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put the links of a page right."""
    uri = page.file.src_uri
    source = {page: source for source, page in OUTSIDE.items()}.get(uri, f"docs/{uri}")

    def link(found: re.Match) -> str:
        text, target, anchor = found.groups()
        if "://" in target:
            return found[0]
        new = relative(source, uri, target)
        return text if new is None else f"[{text}]({new}{anchor or ''})"

    def image(found: re.Match) -> str:
        return f"![{found[1]}]({relative(source, uri, found[2]) or found[2]})"

    return LINK.sub(link, IMAGE.sub(image, markdown))


def relative(source: str, uri: str, target: str) -> str | None:
    """A link's target in the site, as seen from a page; None if the site does not have it.

    Args:
        source: the page in the repository, `uri` in the site.
        target: as the repository's page names it.
    """
    place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if not (ROOT / place).exists():
        raise FileNotFoundError(f"{source}: links to {target}, which does not exist")
    there = OUTSIDE.get(place, place.removeprefix("docs/") if place.startswith("docs/") else None)
    if there is None or (ROOT / place).is_dir():
        return None
    return posixpath.relpath(there, posixpath.dirname(uri) or ".")
