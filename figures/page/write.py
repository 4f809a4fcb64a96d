"""`report.html` on disk."""

from collections.abc import Sequence
from pathlib import Path

from figures.page.content import Report
from figures.page.render import rendered
from interp.errors import UserError

REPORT = "report.html"
"""The file's name beside a run's figures."""


def written(path: Path, reports: Sequence[Report]) -> Path:
    """Writes the page of one or several runs.

    Args:
        path: The file; one that is there is replaced at once, so that no reader sees half a page.
        reports: The runs, in the order of the page.

    Returns:
        The file.

    Raises:
        UserError: where it cannot be written.
    """
    text, temporary = rendered(reports), path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the run's records are kept") from None
    return path
