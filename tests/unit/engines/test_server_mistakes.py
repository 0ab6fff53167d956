"""Clients that make many mistakes."""

from swiftlike.engines.server.mistakes import DELAY, FREE, Mistakes


def test_a_flood_of_mistakes_is_held_back_and_forgiven() -> None:
    mistakes = Mistakes()
    delays = [mistakes.delay("one", now=0.0) for _ in range(100)]
    assert delays == [0.0] * int(FREE) + [DELAY] * (100 - int(FREE))
    assert mistakes.delay("another", now=0.0) == 0.0
    assert mistakes.delay("one", now=0.5) == DELAY
    assert mistakes.delay("one", now=10.0) == 0.0


def test_now_and_then_is_free() -> None:
    mistakes = Mistakes()
    assert {mistakes.delay("one", now=0.2 * k) for k in range(500)} == {0.0}


def test_only_so_many_clients_are_remembered() -> None:
    mistakes = Mistakes()
    for k in range(5000):
        mistakes.delay(str(k), now=0.0)
    assert len(mistakes._known) <= 1024
