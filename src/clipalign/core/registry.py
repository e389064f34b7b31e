"""Extension points: objects by name, from this package and from entry points of other distributions."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, reduce
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar, cast

from .errors import UserError

T = TypeVar("T")
E = TypeVar("E")


@dataclass(frozen=True)
class Reference:
    """Where an entry lives; importing it is put off until the entry is used.

    Attributes:
        target: "module:attribute", the object itself; or "module", which registers it when imported.
        distribution: name and version of the distribution that declares it; None for this package.
    """

    target: str
    distribution: str | None = None

    @property
    def module(self) -> str:
        """Dotted name of the module."""
        return self.target.partition(":")[0]

    def __str__(self) -> str:
        return self.target if self.distribution is None else f"{self.target} of {self.distribution}"

    def load(self) -> Any:
        """Import the module and return the object, or None if the target is a module."""
        module, attribute = import_module(self.module), self.target.partition(":")[2]
        return reduce(getattr, attribute.split("."), module) if attribute else None


class Registry(Generic[T]):
    """Objects of one kind by name, imported on first use.

    Entries come from four places:

    - `modules`: lines of name and target, for entries of this package;
    - `package`: every file of a package of ours, named as the file with hyphens (`wise_ft.py` is "wise-ft");
    - entry points in `group`, declared by other distributions;
    - `register`, a decorator. A target without an attribute is a module that registers its entry this way.

    `names` imports nothing, so that `--help` and `list` stay fast.

    Args:
        kind: singular noun for messages, such as "method".
        group: entry-point group, such as "clipalign.methods".
        modules: name -> "module" or "module:attribute".
        package: dotted name of a package with one entry per file.
        skip: files of `package` that hold no entry.
        flag: option that takes the names, for messages; default: none.
        check: called with the name and the object of each new entry; raises TypeError if the object is invalid.

    Example:
        >>> colours: Registry[str] = Registry("colour", "example.colours", {"pi": "math:pi"})
        >>> @colours.register("red")
        ... class Red: ...
        >>> colours.names()
        ['pi', 'red']
        >>> colours.get("red").__name__, colours.get("pi")
        ('Red', 3.141592653589793)
    """

    def __init__(
        self,
        kind: str,
        group: str,
        modules: Mapping[str, str] | None = None,
        *,
        package: str | None = None,
        skip: Sequence[str] = (),
        flag: str | None = None,
        check: Callable[[str, T], None] | None = None,
    ) -> None:
        self.kind, self.group, self.flag = kind, group, flag
        self._modules, self._package, self._skip = dict(modules or {}), package, frozenset(skip)
        self._check = check
        self._objects: dict[str, T] = {}
        self._resolved: set[str] = set()

    def register(self, name: str) -> Callable[[E], E]:
        """Return a decorator that adds a class or function under `name`.

        Raises:
            TypeError: (from the decorator) the name is taken, or the object is invalid.
        """

        def add(entry: E) -> E:
            self.add(name, cast(T, entry))
            return entry

        return add

    def add(self, name: str, entry: T) -> None:
        """Add an object under `name`; see `register`."""
        # A module registers its entry while it is imported, so one that was never imported is not the caller.
        own = self._own.get(name)
        foreign = own is not None and own.module not in sys.modules
        if name in self._objects or foreign:
            raise TypeError(
                f'two {self.kind}s are named "{name}": {self._objects.get(name, own)!r} and {entry!r}'
            )
        if self._check is not None:
            self._check(name, entry)
        self._objects[name] = entry

    def names(self) -> list[str]:
        """Names of all entries: this package's in their order, then the others sorted. Nothing is imported."""
        return [*self._own, *sorted({*self._points, *self._objects} - {*self._own})]

    def get(self, name: str) -> T:
        """Return the entry of a name, importing it if need be.

        Raises:
            UserError: the name is unknown, declared twice, or its entry point fails to load.
        """
        if name not in self:
            near = difflib.get_close_matches(name, self.names(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            subject = f"{self.flag}: unknown" if self.flag else f"unknown {self.kind}"
            raise UserError(f'{subject} "{name}"{hint} (known: {", ".join(self.names())})')
        if name not in self._resolved:
            self._resolve(name)
            self._resolved.add(name)
        return self._objects[name]

    def all(self) -> dict[str, T]:
        """Return every entry by name, importing all of them; raises as `get` does."""
        return {name: self.get(name) for name in self.names()}

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Read entry points again, and forget entries of other packages on exit; for tests of extensions."""
        before, imported = set(self._objects), set(sys.modules)
        vars(self).pop("_points", None)
        try:
            yield
        finally:
            added = [name for name in self._objects if name not in before and name not in self._own]
            for name in added:
                del self._objects[name]
            self._resolved -= set(added)
            # Modules register once, when they are imported, so the next import has to run them again.
            packages = {
                point.module.partition(".")[0] for points in self._points.values() for point in points
            }
            for module in set(sys.modules) - imported:
                if module.partition(".")[0] in packages:
                    del sys.modules[module]
            vars(self).pop("_points", None)

    def __contains__(self, name: object) -> bool:
        return name in self._objects or name in self._own or name in self._points

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    @cached_property
    def _own(self) -> dict[str, Reference]:
        """Entries of this package, in order."""
        found = {name: Reference(target) for name, target in self._modules.items()}
        if self._package is not None:
            spec = find_spec(self._package)
            places = (spec.submodule_search_locations if spec else None) or ()
            for module in iter_modules(places):
                if module.name not in self._skip:
                    found[module.name.replace("_", "-")] = Reference(f"{self._package}.{module.name}")
        return found

    @cached_property
    def _points(self) -> dict[str, list[Reference]]:
        """Entries of other distributions; several under one name if they clash."""
        from importlib.metadata import entry_points  # takes as long as the rest of `clipalign --help`

        found: dict[str, list[Reference]] = {}
        for point in entry_points(group=self.group):
            dist = point.dist
            origin = "an unnamed distribution" if dist is None else f"{dist.name} {dist.version}"
            reference = Reference(point.value.replace(" ", ""), origin)
            if reference not in found.setdefault(point.name, []):
                found[point.name].append(reference)
        return found

    def _resolve(self, name: str) -> None:
        """Import the one place that declares a name; refuse a name that several places declare."""
        references = [*([self._own[name]] if name in self._own else []), *self._points.get(name, [])]
        if len(references) > 1:
            raise UserError(
                f'two {self.kind}s are named "{name}": {" and ".join(map(str, references))}; '
                f"uninstall one of the distributions, or rename its entry point in [{self.group}]"
            )
        for reference in references:
            registered = set(self._objects)
            try:
                entry = reference.load()
                if entry is not None and self._objects.get(name) is not entry:
                    self.add(name, entry)
                if name not in self._objects:
                    raise TypeError(f'{reference.target} registers no {self.kind} "{name}"')
            except Exception as error:
                self._objects = {k: v for k, v in self._objects.items() if k in registered}
                if reference.distribution is None:
                    raise
                raise UserError(
                    f'{self.kind} "{name}": cannot load {reference} ({type(error).__name__}: {error}); '
                    "update or uninstall that distribution"
                ) from error
