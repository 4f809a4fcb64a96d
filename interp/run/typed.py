"""Records as the dataclasses of `interp.measures`: what is read from disk is checked once, and then has attributes.

The module knows no single measure."""

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from interp.errors import UserError
from interp.measures import QuestionRecord
from interp.run.runs import Record

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T", bound=QuestionRecord)


def typed(kind: type[T], record: Record) -> T:
    """The record as a dataclass.

    Keys that the dataclass does not have are ignored, and lists become tuples.

    Args:
        kind: the dataclass of its measure.
        record: one line of records.jsonl.

    Raises:
        UserError: naming measure, id and the first field that is missing or wrong.
    """
    from pydantic import ValidationError

    try:
        fitting: T = _adapter(kind).validate_python(record)  # type: ignore[arg-type]  # a class does have a hash
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place, message = ".".join(map(str, first["loc"])), first["msg"]
        raise UserError(
            f"the {kind.measure} record of question {record.get('id')!r} does not fit at {place}: "
            f"{message[0].lower()}{message[1:]}"
        ) from None
    return fitting


@cache
def _adapter(kind: type) -> "TypeAdapter[Any]":
    """The reader of one dataclass, which takes a moment to build."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
