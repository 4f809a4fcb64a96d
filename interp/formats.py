"""Confidence formats: levels, their values, their wording, and how a reply is read.

The paper's five are here; other packages register theirs under the entry-point group `GROUP`. The module knows no model
and no tokens."""

import re
from dataclasses import dataclass

from interp.plain import compatible
from interp.registry import Registry


@dataclass(frozen=True)
class ConfidenceFormat:
    """A closed list of levels, each with a value in [0, 1]."""

    name: str
    """Its unique name; the paper's name for the paper's five."""
    levels: tuple[str, ...]
    """What the model may write, in rising order of value."""
    values: tuple[float, ...]
    """The value of each level, strictly rising."""
    wording: str
    """How the instruction describes the scale, completing "state your confidence as ..."."""

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.values) or list(self.values) != sorted(set(self.values)):
            raise ValueError(f"{self.name}: one strictly rising value for each level is needed")

    @property
    def range(self) -> float:
        """Difference between the highest and the lowest value: 0.8 for letters and words, else 1."""
        return self.values[-1] - self.values[0]

    def level_of(self, reply: str) -> int | None:
        """Index of the level that `reply` states, None where it states none.

        The whole reply must be one level. Letter case, surrounding white space, quotes, brackets, a final full stop, a
        blank before the per cent sign and zeros at a decimal's end do not count, nor do words in brackets behind the
        level that name no other: "A (almost certain)". "85 percent" is "85%". "8/10", "between 80 % and 90 %", "0.85"
        in ScoreFloat and "85" in ScorePercent are no levels: they are counted as unparsed, not guessed at."""
        text = _plain(reply)
        if (level := self._named(text)) is not None:
            return level
        gloss = re.fullmatch(r"(.*?) ?\(([^()\d%]*)\)", text)
        # a level of one letter is a word where it is small: "B (a good guess)"
        if not gloss or any(
            re.search(rf"\b{re.escape(level)}\b", gloss[2], 0 if len(level) == 1 else re.IGNORECASE)
            for level in self.levels
        ):
            return None
        return self._named(_plain(gloss[1]))

    def _named(self, text: str) -> int | None:
        """Index of the level that is written so, None where there is none."""
        name = re.sub(r" ?(?:%|per ?cent)$", "%", text.casefold())
        name = re.sub(r"^(\d+\.\d)0+$", r"\1", name)
        return next((i for i, level in enumerate(self.levels) if level.casefold() == name), None)


def _plain(reply: str) -> str:
    """A reply in NFKC and in one line, without quotes, one pair of brackets and a final full stop around it."""
    around = " \"'*`"
    text = re.sub(r"\s+", " ", compatible(reply)).strip(around).removesuffix(".").rstrip(around)
    bracketed = re.fullmatch(r"[(\[]([^()\[\]]*)[)\]]", text)
    return bracketed[1].strip(around) if bracketed else text


def _evenly(count: int) -> tuple[float, ...]:
    """`count` values at equal distances, from 0 to 1."""
    return tuple(i / (count - 1) for i in range(count))


FIFTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""The middles of five equal parts of [0, 1]."""

GROUP = "advice.formats"
FORMATS = Registry(
    GROUP,
    ConfidenceFormat,
    lambda: (
        ConfidenceFormat(
            "ScoreLetter", tuple("EDCBA"), FIFTHS, "one letter from E (very unlikely to be right) to A (almost certain)"
        ),
        ConfidenceFormat(
            "ScoreNumber", tuple("0123456789"), _evenly(10), "one digit from 0 (surely wrong) to 9 (surely right)"
        ),
        ConfidenceFormat(
            "ScoreText",
            ("very low", "low", "medium", "high", "very high"),
            FIFTHS,
            "one of: very low, low, medium, high, very high",
        ),
        ConfidenceFormat(
            "ScorePercent",
            tuple(f"{p}%" for p in range(101)),
            _evenly(101),
            "a percentage from 0% (surely wrong) to 100% (surely right)",
        ),
        ConfidenceFormat(
            "ScoreFloat",
            tuple(f"{i / 10:.1f}" for i in range(11)),
            _evenly(11),
            "a number with one decimal from 0.0 (surely wrong) to 1.0 (surely right)",
        ),
    ),
)
