"""`report.html`: runs as one page that holds all it needs, as a template filled with what the runs say.

Whatever a text says, it is never markup: the template escapes, data is JSON, and scripts build elements from text."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from figures.captions import NOT_MEASURABLE
from figures.page.blocks import Detail, copies_block, details_of, fitting, list_block, plain
from figures.page.content import SPAN_ORDER, Report, Shown
from figures.page.drawing import inline_drawing
from figures.style import SPAN_COLOURS

NOTE = 2_000
"""Bytes that are kept free for the sentences on what is left out."""
TOGETHER = re.compile(rf"\[[^]]*\]|{{[^}}]*}}|{NOT_MEASURABLE} \S+|\d %")
"""What stays on one line in a table."""
INDENT = "  "
"""A line of a caption that begins with it goes on with the item above."""


@dataclass(frozen=True)
class Paragraph:
    """A part of a caption: a paragraph, or numbers under a heading."""

    text: str
    """The paragraph, or the heading."""
    items: tuple[str, ...] = ()
    """The numbers; empty for a paragraph."""


@dataclass(frozen=True)
class Drawing:
    """A figure as the template takes it."""

    id: str
    """Its id in the page."""
    shown: Shown
    """The figure."""
    html: Markup
    """The drawing."""
    caption: tuple[Paragraph, ...]
    """Its caption, unwrapped."""


@dataclass(frozen=True)
class Section:
    """A run as the template takes it."""

    id: str
    """What the ids in it begin with."""
    report: Report
    """The run."""
    headlines: tuple[Drawing, ...]
    """The figures at the top."""
    others: tuple[Drawing, ...]
    """The other figures."""
    subject: str = ""
    """What all captions end with, which is shown once; empty where they differ, and of a single figure."""
    without_prompt: int = 0
    """How many of its last questions have no prompt in the page, for want of room."""
    without_details: int = 0
    """How many of its last questions have nothing but their line in the list."""


def rendered(reports: Sequence[Report], *, most_bytes: int = 20_000_000) -> str:
    """The HTML of a page with one or several runs.

    The same reports give the same text. The layout of the figures is fixed by this call.

    Args:
        reports: The runs, in the order of the page.
        most_bytes: How long the page may be. Where it would be longer, the prompts of the last questions are left out,
            and then all that opens with the last ones; the page says so. Figures, tables and the list always stay.

    Raises:
        ValueError: without a report, and for a number in the questions that is not finite.
    """
    if not reports:
        raise ValueError("a page without a report")
    ids = [f"r{number}" for number in range(1, len(reports) + 1)]
    sections = [_section(name, report) for name, report in zip(ids, reports, strict=True)]
    blocks = "".join(list_block(one, r) + copies_block(one, r) for one, r in zip(ids, reports, strict=True))
    details = [detail for number, name in enumerate(ids) for detail in details_of(number, name, reports[number])]
    room = most_bytes - len(_page(sections, blocks).encode()) - NOTE
    kept = fitting(details, room)
    return _page([_noted(n, section, details, kept) for n, section in enumerate(sections)], blocks + "".join(kept))


def _section(name: str, report: Report) -> Section:
    drawings = [_drawing(f"{name}-f{number}", shown) for number, shown in enumerate(report.figures)]
    subject = _shared_ending(drawings)
    if subject:
        drawings = [replace(one, caption=one.caption[:-1]) for one in drawings]
    first, others = (tuple(one for one in drawings if one.shown.headline is top) for top in (True, False))
    return Section(name, report, first, others, subject)


def _shared_ending(drawings: Sequence[Drawing]) -> str:
    """The last paragraph of the captions of several figures; empty where they differ, or it is all of a caption."""
    endings = {one.caption[-1].text if len(one.caption) > 1 else "" for one in drawings}
    return endings.pop() if len(endings) == 1 and len(drawings) > 1 else ""


def _drawing(name: str, shown: Shown) -> Drawing:
    html = inline_drawing(shown.page.figure, f"{name}-", f"{name}-title")
    return Drawing(name, shown, Markup(html), unwrapped(shown.page.caption))


def unwrapped(caption: str) -> tuple[Paragraph, ...]:
    """A caption that was wrapped for a terminal, as paragraphs; its numbers are the items of a list."""
    return tuple(_paragraph(part.splitlines()) for part in re.split(r"\n{2,}", caption.strip("\n")))


def _paragraph(lines: Sequence[str]) -> Paragraph:
    if not (lines[1:] and lines[0].startswith("Numbers") and lines[0].endswith(":")):
        return Paragraph(" ".join(map(str.strip, lines)))
    items: list[str] = []
    for line in lines[1:]:
        if items and line.startswith(INDENT):
            items[-1] += " " + line.strip()
        else:
            items.append(line.strip())
    return Paragraph(lines[0], tuple(items))


def _noted(number: int, section: Section, details: Sequence[Detail], kept: Sequence[str]) -> Section:
    """The section with its counts of what is left out; number: the run's index."""
    ours = [(detail, text) for detail, text in zip(details, kept, strict=True) if detail.run == number]
    nothing = sum(not text for _, text in ours)
    short = sum(text != detail.whole for detail, text in ours)
    return replace(section, without_prompt=short, without_details=nothing)


def _page(sections: Sequence[Section], blocks: str) -> str:
    """The template filled. blocks: the script elements with data."""
    style, script = (
        files("figures.page").joinpath(f"report.{end}").read_text(encoding="utf-8") for end in ("css", "js")
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            sections=sections,
            blocks=Markup(blocks),
            style=Markup(style),
            script=Markup(script),
            policy=policy(style, script),
            spans=[(span, SPAN_COLOURS[span]) for span in SPAN_ORDER],
        )
    )


def policy(style: str, script: str) -> str:
    """What a browser is allowed in the page: this style, this script, pictures within the page, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _environment() -> Environment:
    """Every text that the template shows is escaped, and goes through `plain` before."""
    environment = Environment(
        loader=PackageLoader("figures.page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["unbroken"] = unbroken
    return environment


def unbroken(cell: str) -> str:
    """A cell's text, whose intervals, percentages and marked numbers stay on one line."""
    return TOGETHER.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)
