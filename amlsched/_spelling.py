"""Misspellings: find the known word that was probably meant."""

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "as_question",
    "closest",
    "did_you_mean",
    "distance",
    "is_misspelling",
    "listed",
    "meant",
    "meant_file",
    "misspellings",
    "most_similar",
    "suggestion",
]

_SHORT = 4
_SHOWN = 20
_LONG = 8


def meant(word: str, known: Iterable[str]) -> str | None:
    """The known word that a word is a misspelling of; `None` if there is none.

    Args:
        word: An unknown word.
        known: The known words; of several matches, the closest one is returned.
    """
    near = [(distance(_plain(word), _plain(one)), one) for one in known if is_misspelling(word, one)]
    return min(near, key=lambda found: found[0])[1] if near else None


def closest(word: str, known: Iterable[str]) -> str | None:
    """The closest known word, for hints where a wrong guess does no harm; `None` if none is close."""
    names = list(known)
    if guess := meant(word, names) or most_similar(word, names, 0.65):
        return guess
    longer = [name for name in names if len(word) > 2 and name.lower().startswith(word.lower())]
    if len(longer) == 1:
        return longer[0]
    in_lower_case = {name.lower(): name for name in names}
    found = most_similar(word.lower(), in_lower_case, 0.65)
    return in_lower_case[found] if found else None


def most_similar(word: str, known: Iterable[str], least: float) -> str | None:
    """The known word with the highest ratio of difflib; `None` if none has at least this one."""
    from difflib import get_close_matches  # only needed for errors

    return next(iter(get_close_matches(word, [*known], 1, least)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The closest known word as a question, followed by a space; empty if none is close."""
    return as_question(closest(word, known))


def as_question(guess: str | None) -> str:
    """A guess as a question, followed by a space; empty if there is none."""
    return f"did you mean {guess}? " if guess else ""


def suggestion(word: str, known: Iterable[str], there: str = "there are") -> str:
    """The hint for an unknown word: which word was probably meant, and the list of known words.

    Args:
        word: The word.
        known: The known words.
        there: The text before the list.
    """
    names = list(known)
    return did_you_mean(word, names) + listed(names, there)


def listed(known: Iterable[str], there: str = "there are") -> str:
    """The first of the known words, after a text."""
    names = list(known)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{there}: {', '.join(names[:_SHOWN]) or 'none'}{more}"


def meant_file(path: Path, *suffixes: str) -> str:
    """The file next to a missing one that was probably meant, as a question; empty if none is close.

    Args:
        path: The missing file.
        suffixes: Suffixes of the files to consider; none for folders.
    """
    try:
        others = [one.name for one in path.parent.iterdir() if (one.suffix in suffixes if suffixes else one.is_dir())]
    except (OSError, ValueError):
        return ""
    guess = closest(path.name, [name for name in others if name != path.name])
    return f"did you mean {path.with_name(guess)}?" if guess else ""


def is_misspelling(word: str, known: str) -> bool:
    """Whether a word is close enough to a known one to count as a misspelling of it.

    It is if they only differ in case, in dashes and underscores, in a plural s, or in one letter that is wrong,
    missing, added or swapped with its neighbour; for words of eight or more letters, in two. Words with different
    digits are different words, and so are short words with different first letters.
    """
    one, other = _plain(word), _plain(known)
    if one == other:
        return True
    shortest, longest = sorted((len(one), len(other)))
    if re.findall("[0-9]+", one) != re.findall("[0-9]+", other) or shortest < 3:
        return False
    steps = distance(one, other)
    same_start = one[0] == other[0] or sorted(one[:2]) == sorted(other[:2])
    if len(other) <= _SHORT or steps == 2:
        return same_start and steps <= (2 if longest >= _LONG and shortest > _SHORT else 1)
    return steps == 1


def distance(one: str, other: str) -> int:
    """The number of letters that are wrong, missing, added or swapped with their neighbour.

    Sources:
        The optimal string alignment distance, a form of that of Damerau and Levenshtein.
    """
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, against in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != against))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == against:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]


def misspellings(words: Iterable[str]) -> str:
    """A regular expression, valid in JavaScript too, for most words that `meant` considers misspellings of these."""
    known = sorted(set(words))
    found: set[str] = set()
    for word in known:
        starts = range(len(word) + 1)
        for i in starts[1:] if len(word) <= _SHORT else starts:
            head, tail = re.escape(word[:i]), word[i:]
            found.add(f"{head}.{re.escape(tail)}")  # added
            if tail:
                found |= {f"{head}{re.escape(tail[1:])}", f"{head}.{re.escape(tail[1:])}"}  # missing, wrong
        found |= {re.escape(word[:i] + word[i + 1] + word[i] + word[i + 2 :]) for i in starts[:-2]}  # swapped
        found |= {re.escape(one) for one in (word.upper(), word.capitalize(), word.replace("-", "_"))}
    return f"^(?!(?:{'|'.join(map(re.escape, known))})$)(?:{'|'.join(sorted(found))})$"


def _plain(word: str) -> str:
    plain = re.sub(r"[-_ ]", "", word.casefold())
    return plain[:-1] if len(plain) > _SHORT and plain.endswith("s") else plain
