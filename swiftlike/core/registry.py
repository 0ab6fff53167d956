"""A registry is a package: every module in it is imported once, and every card found in them is an entry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from swiftlike.core.errors import UserError, suggestion

Card = TypeVar("Card")


class Registry(Generic[Card]):
    """Cards of one kind by name, found by scanning `package` on first use.

    A module contributes through a module-level name bound to a card or to a tuple of cards. A card has a `name`
    and may have `aliases`; two cards that answer to one name are an error that names both.
    """

    def __init__(self, kind: str, package: str, card: type[Card]) -> None:
        self.kind, self.package, self.card = kind, package, card
        self._cards: dict[str, Card] = {}
        self._aliases: dict[str, str] = {}
        self._extra: list[Card] = []
        self._scanned = False

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        package = importlib.import_module(self.package)
        for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
            module = importlib.import_module(f"{self.package}.{found.name}")
            for value in list(vars(module).values()):
                for card in value if isinstance(value, tuple) else (value,):
                    if isinstance(card, self.card):
                        self._enter(card)
        for card in self._extra:
            self._enter(card)

    def _enter(self, card: Card) -> None:
        name: str = card.name  # type: ignore[attr-defined]
        if self._cards.get(name) is card:
            return  # the same card, imported by another module
        names: Iterable[str] = (name, *getattr(card, "aliases", ()))
        for one in names:
            if one in self._cards or one in self._aliases:
                raise ValueError(f"{self.kind} {one!r} is registered twice")
        self._cards[name] = card
        self._aliases.update(dict.fromkeys(getattr(card, "aliases", ()), name))

    def add(self, card: Card) -> None:
        """Enter a card from outside the package (a user's plugin or data set file)."""
        self._extra.append(card)
        if self._scanned:
            self._enter(card)

    def get(self, name: str) -> Card:
        """The card of that name or alias. UserError with the nearest names when there is none."""
        self._scan()
        card = self._cards.get(self._aliases.get(name, name))
        if card is None:
            known = (*self._cards, *self._aliases)
            raise UserError(f"unknown {self.kind} {name!r}{suggestion(name, known)}")
        return card

    def names(self) -> tuple[str, ...]:
        """Names without aliases, sorted."""
        self._scan()
        return tuple(sorted(self._cards))

    def __contains__(self, name: str) -> bool:
        self._scan()
        return name in self._cards or name in self._aliases

    def __iter__(self) -> Iterator[Card]:
        self._scan()
        return iter([self._cards[name] for name in sorted(self._cards)])
