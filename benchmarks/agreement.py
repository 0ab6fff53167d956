"""Whether two sides of train_step.py compute the same."""

from __future__ import annotations

from typing import Any

TOLERANCE, RELATIVE = 1e-3, 1e-5
ALONE = ("start", "reference", "policy")  # what EXO and a peer's DPO on its answers have in common


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Every place at which two nested results are further apart than TOLERANCE. What only one has is not compared."""
    if isinstance(ours, dict):
        pairs = [(name, ours[name], theirs[name]) for name in ours if name in theirs]
        odd = sorted(ours.keys() ^ theirs.keys()) if where else []
        if odd:
            return [f"{where}: {odd} on one side only"]
    elif isinstance(ours, list):
        if len(ours) != len(theirs):
            return [f"{where}: {len(ours)} against {len(theirs)}"]
        pairs = [(str(i), *both) for i, both in enumerate(zip(ours, theirs, strict=True))]
    else:
        apart = not abs(ours - theirs) <= TOLERANCE + RELATIVE * abs(theirs)  # NaN is apart from everything
        return [f"{where}: {ours} against {theirs}"] if apart else []
    return [line for name, one, other in pairs for line in differences(one, other, f"{where}/{name}")]


def comparable(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Our numbers in the form that a peer has them: EXO's answers as pairs, a prompt and its answer as one."""
    lengths = [
        [row[0], *row[i : i + 2]] for row in ours["lengths"] for i in range(1, len(row), 2)
    ]  # of pairs, each with a prompt
    out = dict(ours)
    if len(theirs.get("lengths", ours["lengths"])) != len(ours["lengths"]):
        out = {name: ours[name] for name in ALONE}
        out["lengths"] = lengths
    whole = [[row[0] + answer for answer in row[1:]] for row in ours["lengths"]]
    out |= {"whole_lengths": whole, "first_whole": whole[: len(theirs.get("first_whole", ()))]}
    single = len(ours["lengths"][0]) == 2
    out["first_lengths"] = (ours["lengths"] if single else lengths)[: len(theirs.get("first_lengths", ()))]
    return out


def checked_as(side: str) -> str:
    """The side whose numbers stand for this one's: how the reference is kept changes no number."""
    return {"swiftlike live": "swiftlike cache", "trl precomputed": "trl"}.get(side, side)
