"""A matplotlib figure as a piece of the page: SVG that shares no id and no style with the rest, or a picture.

The page allows no style that is not its own, so that what matplotlib writes as `style` becomes attributes."""

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.figure import Figure

from figures.style import MONOSPACED, paper, with_fixed_layout
from interp.plain import CONTROL

HEAVY = 400_000
"""Characters of SVG above which a figure becomes a picture: thousands of points scroll badly."""
PIXELS_PER_INCH = 120
"""How large an inch of paper is on the screen where there is room; then 7 points are about as high as small text."""
PICTURE_DPI = 2 * PIXELS_PER_INCH
"""Dots per inch of a picture, for screens with two dots a pixel."""

FALLBACKS = {True: "Menlo, 'Courier New', monospace", False: "Verdana, sans-serif"}
"""Fonts where matplotlib's own is not installed, by whether it is monospaced; their characters are about as wide."""
REFERENCE = re.compile(r"url\(#([^)]+)\)")
SERIES = re.compile(r"series-(\d+)")
"""The id (gid) of a part that belongs to one checkpoint; several parts may have it."""
_XML = re.compile("[^\t\n\r]")


def inline_drawing(figure: Figure, prefix: str, label: str) -> str:
    """A figure as HTML.

    Args:
        figure: The figure; its layout is fixed by this call, where it was not before.
        prefix: What the ids in it begin with, unique in the page.
        label: The id of the element that says what the figure shows.

    Returns:
        An `<svg>`; an `<img>` with the same label where the SVG would be heavier than `HEAVY`.
    """
    with paper(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        with_fixed_layout(figure)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
        if len(written.getvalue()) > HEAVY:
            return _picture(figure, label)
    return _inlined(written.getvalue(), figure, prefix, label)


def _picture(figure: Figure, label: str) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=PICTURE_DPI, metadata={"Software": None})
    width, height = _size(figure)
    source = base64.b64encode(drawn.getvalue()).decode()
    return (
        f'<img src="data:image/png;base64,{source}" width="{width}" height="{height}" alt="" '
        f'role="img" aria-labelledby="{label}">'
    )


def _size(figure: Figure) -> tuple[int, int]:
    """Width and height on the screen, in pixels."""
    width, height = figure.get_size_inches()
    return round(width * PIXELS_PER_INCH), round(height * PIXELS_PER_INCH)


def _inlined(svg: str, figure: Figure, prefix: str, label: str) -> str:
    """matplotlib's SVG without its style sheet, metadata, name spaces, and ids that nothing refers to."""
    root = ElementTree.fromstring(CONTROL.sub(lambda match: "□" if _XML.match(match[0]) else match[0], svg))
    for parent in [*root.iter()]:
        for child in [*parent]:
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    referred = set(REFERENCE.findall(svg)) | set(re.findall(r'href="#([^"]+)"', svg))
    for element in root.iter():
        element.tag = _local(element.tag)
        element.tail = None if element.tail is None or not element.tail.strip() else element.tail
        element.attrib = _attributes(element.attrib, prefix, referred)
    width, height = _size(figure)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": str(width),
        "height": str(height),
        "role": "img",
        "aria-labelledby": label,
        # what matplotlib's style sheet says of every element
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
        # blanks in a line of monospaced text hold their places
        "xml:space": "preserve",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """A name without its name space."""
    return name.rpartition("}")[2]


def _attributes(attributes: dict[str, str], prefix: str, referred: set[str]) -> dict[str, str]:
    """An element's attributes in the page."""
    kept: dict[str, str] = {}
    for name, value in attributes.items():
        local = _local(name)
        if local == "id":
            kept |= _identity(value, prefix, referred)
        elif local == "href" and value.startswith("#"):
            kept["href"] = f"#{prefix}{value[1:]}"
        elif local == "style":
            kept |= _declared(value)
        else:
            kept[local] = value
    return {name: REFERENCE.sub(rf"url(#{prefix}\1)", value) for name, value in kept.items()}


def _identity(name: str, prefix: str, referred: set[str]) -> dict[str, str]:
    if series := SERIES.fullmatch(name):
        return {"data-series": series[1]}
    return {"id": prefix + name} if name in referred else {}


def _declared(style: str) -> dict[str, str]:
    """The declarations of a style as attributes, which SVG has for all that matplotlib writes."""
    pairs = (declaration.partition(":") for declaration in style.split(";") if ":" in declaration)
    declared = {name.strip(): value.strip() for name, _, value in pairs}
    if family := declared.get("font-family"):
        declared["font-family"] = f"{family}, {FALLBACKS[MONOSPACED in family]}"
    return declared
