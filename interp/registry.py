"""Registries of named things (instruments, methods, formats): the package's own, and those that other packages add.

Another package declares its own as an entry point; nothing is imported before a name is asked for. The module does not
know what is registered."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Generic, Protocol, TypeVar, runtime_checkable

from interp.errors import UserError


@runtime_checkable
class Named(Protocol):
    """A thing with a name under which it can be registered."""

    @property
    def name(self) -> str:
        """Unique in its registry."""


T = TypeVar("T", bound=Named)


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping by name: first the package's own members, then those of other packages.

    The first look-up raises UserError where another package's entry point cannot be imported, holds something of
    another type, or takes a name that exists already."""

    def __init__(self, group: str, kind: type, own: Callable[[], Iterable[T]]) -> None:
        """
        Args:
            group: the entry-point group under which other packages declare their members.
            kind: the type of every member.
            own: returns the package's own members; called at the first look-up.
        """
        self.group, self._kind, self._own = group, kind, own

    @cached_property
    def _by_name(self) -> dict[str, T]:
        members = {member.name: member for member in self._own()}
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            where = f"the entry point {point.name!r} of {self.group}, {point.value}"
            try:
                member: T = point.load()
            except Exception as error:  # whatever another package's import may raise
                raise UserError(f"{where}, cannot be imported: {error}; mend or uninstall that package") from error
            if not isinstance(member, self._kind):
                raise UserError(f"{where}, is a {type(member).__name__}, not one of {self._kind.__name__}")
            if member.name in members:
                raise UserError(f"{where}, takes the name {member.name!r}, which there is already")
            members[member.name] = member
        return members

    def __getitem__(self, name: str) -> T:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)
