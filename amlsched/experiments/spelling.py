"""Misspellings: whether a key was probably meant to be one that is known."""

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["closest", "did_you_mean", "distance", "is_misspelling", "meant", "meant_file", "misspellings", "offered"]

_SHORT = 4
_SHOWN = 20
_LONG = 8


def meant(word: str, known: Iterable[str]) -> str | None:
    """The known word that this one is a misspelling of; `None` if it is none of them.

    Args:
        word: A word that is not known.
        known: The known ones; of several that fit, the nearest counts.
    """
    near = [(distance(_plain(word), _plain(one)), one) for one in known if is_misspelling(word, one)]
    return min(near, key=lambda found: found[0])[1] if near else None


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that comes nearest to this one, where a wrong guess does no harm; `None` if none comes near."""
    from difflib import get_close_matches  # only where something is wrong

    names = list(known)
    if guess := meant(word, names):
        return guess
    if found := get_close_matches(word, names, n=1, cutoff=0.65):
        return found[0]
    in_lower_case = {name.lower(): name for name in names}
    found = get_close_matches(word.lower(), in_lower_case, n=1, cutoff=0.65)
    return in_lower_case[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known word as a question, with a blank after it; empty if none is near."""
    guess = closest(word, known)
    return f"did you mean {guess}? " if guess else ""


def offered(word: str, known: Iterable[str], there: str = "there are") -> str:
    """What to say of a word that is not among the known ones: which was probably meant, and those there are.

    Args:
        word: The word.
        known: The known ones.
        there: How the list of them begins.
    """
    names = list(known)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{did_you_mean(word, names)}{there}: {', '.join(names[:_SHOWN]) or 'none'}{more}"


def meant_file(path: Path, *suffixes: str) -> str:
    """Which file beside one that is not there was probably meant, as a question; empty if none comes near.

    Args:
        path: The file that is not there.
        suffixes: What the name of the other ends with; none for a folder.
    """
    try:
        others = [one.name for one in path.parent.iterdir() if (one.suffix in suffixes if suffixes else one.is_dir())]
    except (OSError, ValueError):
        return ""
    guess = closest(path.name, [name for name in others if name != path.name])
    return f"did you mean {path.with_name(guess)}?" if guess else ""


def is_misspelling(word: str, known: str) -> bool:
    """Whether one word is so near to the other that it is taken for a misspelling of it.

    That is a word that differs in case, in dashes and underscores or in a plural s alone, or by one letter that is
    wrong, missing, added or swapped with its neighbour; in words of eight letters and more, by two. Words that differ
    in their digits are different words, and so are short ones that begin with different letters.
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
    """How many letters are wrong, missing, added or swapped with their neighbour.

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
    """A regular expression, also of JavaScript, for most of what `meant` takes for misspellings of these words."""
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
