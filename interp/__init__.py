"""Diagnostics of answer-independence in verbalized confidence.

`interp.load` takes a checkpoint or a model in memory; what it returns is asked, contrasted and diagnosed. Names are
imported when they are first used, so that `--help` stays fast."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.api import Contrast, Model, Result, load, questions, read_run

__all__ = ["Contrast", "Model", "Result", "load", "questions", "read_run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    from interp import api

    return getattr(api, name)
