"""Builds one site in build/site: the README and the pages of docs/, and below api/ the pages of all functions.

    python scripts/build_site.py

A warning of the page builder is an error, and so is a link that leads nowhere."""

import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "site"
ABOVE = ("README", "LOG", "CHANGELOG", "CONTRIBUTING")
PAGES = (*(ROOT / f"{name}.md" for name in ABOVE), *sorted((ROOT / "docs").glob("*.md")))
ROOMS = ("interp", "training", "figures")
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; color: #222; }
nav { font-size: 14px; border-bottom: 1px solid #ddd; padding-bottom: .5rem; } nav a { margin-right: .8rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .2rem .6rem; text-align: left; vertical-align: top; }
td:first-child code { white-space: nowrap; }
tr { border-bottom: 1px solid #ddd; } pre { background: #f5f5f5; padding: .6rem; overflow-x: auto; }
img { max-width: 100%; } a { color: #0a58a8; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } a { color: #7db7f0; }
pre { background: #262626; } img { background: #fff; } }
"""


def written(page: Path, site: Path) -> Path:
    """Where a page stands in the site."""
    return site / page.relative_to(ROOT).with_suffix(".html")


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def rendered(page: Path, site: Path) -> str:
    """A page as HTML, its links to pages leading to their HTML; other files that it shows or links are copied."""
    markdown = MarkdownIt("commonmark").enable("table")
    tokens = markdown.parse(page.read_text(encoding="utf-8"))
    for token, inline in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and inline:
            token.attrSet("id", slug(inline.content))
        for child in token.children or ():
            for name in ("href", "src"):
                if isinstance(target := child.attrGet(name), str):
                    child.attrSet(name, _moved(target, page, site))
    body = markdown.renderer.render(tokens, markdown.options, {})
    title = html.escape(page.stem if page.parent != ROOT else "ADVICE" if page.stem == "README" else page.stem)
    up = "../" * (len(page.relative_to(ROOT).parts) - 1)
    links = [(one.stem, up + str(one.relative_to(ROOT).with_suffix(".html"))) for one in PAGES]
    links.append(("functions", f"{up}api/interp.html"))
    nav = " ".join(f'<a href="{path}">{name.lower().replace("_", " ")}</a>' for name, path in links)
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    viewport = '<meta name="viewport" content="width=device-width">'
    return f"{head}{viewport}</head><body><nav>{nav}</nav><main>{body}</main></body></html>\n"


def _moved(target: str, page: Path, site: Path) -> str:
    path, fragment = urldefrag(target)
    if "://" in target or not path:
        return target
    source = (page.parent / unquote(path)).resolve()
    if source in PAGES:
        return path.removesuffix(".md") + ".html" + (f"#{fragment}" if fragment else "")
    if source.is_file() and source.is_relative_to(ROOT):
        copy = site / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    return target


class Links(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        self.targets += [value for name in ("href", "src") if (value := given.get(name))]


def broken(site: Path) -> list[str]:
    """Every link of the site that leads to no file, or to no place in it."""
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    lost = []
    for path, links in pages.items():
        for target in links.targets:
            name, fragment = urldefrag(target)
            if ":" in name:
                continue
            there = (path.parent / unquote(name)).resolve() if name else path
            if not there.exists() or (fragment and there in pages and unquote(fragment) not in pages[there].anchors):
                lost.append(f"{path.relative_to(site)}: {target}")
    return lost


def main() -> None:
    """Builds the site. Exit code 1 where a link leads nowhere."""
    shutil.rmtree(SITE, ignore_errors=True)
    quiet = ("-W", "error::UserWarning", "-W", "error::RuntimeWarning")
    subprocess.run([sys.executable, *quiet, "-m", "pdoc", "-o", SITE / "api", *ROOMS], cwd=ROOT, check=True)
    for page in PAGES:
        path = written(page, SITE)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rendered(page, SITE), encoding="utf-8")
    shutil.copyfile(written(ROOT / "README.md", SITE), SITE / "index.html")
    if lost := broken(SITE):
        print("links that lead nowhere:", *lost, sep="\n  ", file=sys.stderr)
        raise SystemExit(1)
    print(SITE / "index.html")


if __name__ == "__main__":
    main()
