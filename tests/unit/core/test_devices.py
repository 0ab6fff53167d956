"""Which process owns which devices."""

import pytest

from swiftlike.core.devices import own_devices
from swiftlike.core.errors import UserError


@pytest.mark.parametrize(
    ("visible", "processes", "shares"),
    [
        (0, 1, [[]]),
        (0, 2, [[], []]),
        (1, 1, [[0]]),
        (2, 1, [[0, 1]]),
        (2, 2, [[0], [1]]),
        (4, 2, [[0, 2], [1, 3]]),
        (8, 4, [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ],
)
def test_placement(visible: int, processes: int, shares: list[list[int]]) -> None:
    assert [own_devices(visible, processes, rank) for rank in range(processes)] == shares


@pytest.mark.parametrize(("visible", "processes"), [(3, 2), (2, 4), (1, 2)])
def test_cards_that_cannot_be_shared_evenly(visible: int, processes: int) -> None:
    with pytest.raises(UserError, match=f"NPROC_PER_NODE={processes}"):
        own_devices(visible, processes, 0)
