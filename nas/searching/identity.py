"""The identity of a search: everything that decides what it proposes, as JSON data that a study records."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.searching.domain import C, Domain
from nas.searching.measurement import Measurement, Objective

WHERE_GIVEN = "recorded where given"
"""Marks a setting that earlier versions did not have: left at its default, it is no part of a study's identity."""


@dataclass(frozen=True)
class SearchIdentity:
    """The part of a search's identity that comes from its algorithm; a stored study with another one is refused.

    Args:
        algorithm: name of the algorithm.
        config: its settings, a frozen dataclass or None.
        seed: seed of all random draws, at least 0.
        lag: proposal i depends on results 0 .. i - lag only.
    """

    algorithm: str
    config: Any
    seed: int
    lag: int


def identity_of(
    domain: Domain[C],
    objectives: Sequence[Objective],
    search_identity: SearchIdentity,
    known: Sequence[Measurement[C]],
) -> dict[str, Any]:
    """The whole identity of a search, as JSON data.

    Args:
        domain: the candidates.
        objectives: the objectives.
        search_identity: the part that comes from the algorithm.
        known: earlier results that the search learns from.
    """
    return {
        # Named for the first kind of domain that there was.
        "space": domain.identity(),
        "objectives": [_described(objective) for objective in objectives],
        "algorithm": search_identity.algorithm,
        "config": _plain(search_identity.config),
        "seed": int(search_identity.seed),
        "lag": int(search_identity.lag),
        "known": _fingerprint(domain, known),
    }


def _described(objective: Objective) -> dict[str, Any]:
    described = {"name": objective.name, "direction": objective.direction, "limit": objective.limit}
    # Without the key where there is no source, so that studies of earlier versions have the same identity.
    source = {} if objective.source is None else {"source": objective.source}
    return {**described, "exact": objective.exact is not None, **source}


def _fingerprint(domain: Domain[C], known: Sequence[Measurement[C]]) -> str | None:
    """Fingerprint of known results; a search that starts from other results proposes other candidates."""
    if not known:
        return None
    results = [[domain.to_json(m.candidate), dict(m.values)] for m in known]
    return f"{len(known)} results, {hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]}"


def _plain(value: Any) -> Any:
    """Convert settings to JSON data; functions and classes become `module:name`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default or not field.metadata.get(WHERE_GIVEN)
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    # A partial would be named by its class alone, whatever it calls with whatever arguments.
    if isinstance(value, functools.partial):
        return [_plain(value.func), _plain(value.args), {name: _plain(each) for name, each in value.keywords.items()}]
    if isinstance(value, np.generic):
        return value.item()
    if callable(value):
        kind = value if hasattr(value, "__qualname__") else type(value)
        return f"{kind.__module__}:{kind.__qualname__}"
    return value
