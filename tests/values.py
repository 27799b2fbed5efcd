"""Any value that can be logged or set as a parameter, for tests with hypothesis; and what it is compared by."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_ASKED = int(os.environ.get("AMLSCHED_EXAMPLES", "0"))


def examples(number: int) -> settings:
    """So many examples, always the same ones; or as many as AMLSCHED_EXAMPLES says, others each time."""
    return settings(
        max_examples=_ASKED or number,
        derandomize=not _ASKED,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


TEXTS = [
    *(
        "NA",
        "None",
        "null",
        "NaN",
        "nan",
        "inf",
        "-inf",
        "Infinity",
        "true",
        "True",
        "no",
        "007",
        "1e5",
        "1_000",
        "0x10",
    ),
    *(
        "",
        " ",
        " 1",
        "1 ",
        "+1",
        ".5",
        "5.",
        "-",
        "2024-01-01",
        "12:30",
        "1,5",
        'say "x"',
        '"x"',
        '"',
        "a\nb",
        "a\r\nb",
    ),
    *(
        "\r",
        "\t",
        "[1, 2]",
        "[1]",
        "[",
        "{}",
        '{"$float": "nan"}',
        "\0",
        "\ud800",
        "é",
        "\u2028",
        "\x85",
        "'1'",
        "#",
        "=1+1",
    ),
    *("<NA>", "n/a", "1e400", "1" * 5000, "🙂"),
]
texts = st.text() | st.text(st.characters(exclude_categories=())) | st.sampled_from(TEXTS)
scalars = st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats() | texts
keys = texts | st.integers() | st.booleans() | st.floats(allow_nan=False)
plains = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
NUMPY = [
    "bool",
    *(f"{sign}int{8 * size}" for sign in ("", "u") for size in (1, 2, 4, 8)),
    "float16",
    "float32",
    "float64",
]
NUMPY += ["longdouble", "U5"]


@st.composite
def of_numpy(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(NUMPY))
    shape = draw(st.sampled_from([(), (0,), (3,), (2, 2), (1500,)]))
    with np.errstate(all="ignore"):
        array = np.frombuffer(draw(st.binary(min_size=64, max_size=64)), dtype=np.uint8)[: max(1, math.prod(shape))]
        array = (
            np.resize(array, shape).astype(kind)
            if draw(st.booleans())
            else np.full(shape, draw(st.floats(-1, 1))).astype(kind)
        )
    return array[()] if shape == () else array


values = plains | of_numpy()


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal and of the same type, all the way down."""
    if isinstance(one, float) and isinstance(other, float):
        return repr(one) == repr(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(key, key_2) and same(one[key], other[key_2])
            for key, key_2 in zip(sorted(one, key=repr), sorted(other, key=repr), strict=True)
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def same_in_pandas(one: Any, other: Any) -> bool:
    """Likewise, but for what columns of pandas cannot tell apart: what is missing, and 1 and 1.0."""
    one = one.item() if isinstance(one, np.generic) else one
    if other is None or (isinstance(other, float) and math.isnan(other)):
        return one is None or (isinstance(one, float) and math.isnan(one))
    if type(one) is float and type(other) is int:
        return int(one) == other
    return same(one, other)
