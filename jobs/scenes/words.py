"""Scenes, their captions, and whether a caption is correct.

A scene has one group of shapes, or two with the first above or left of the second; a group is a number, a colour and a
shape. Every caption names all groups and, for two, their relation.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "star")
NUMBERS = ("one", "two", "three")
ABOVE, LEFT = "above", "left of"
MIRRORED = {ABOVE: "below", LEFT: "right of"}
SAID = {
    "above": ("above", "over"),
    "below": ("below", "under"),
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
}
OPENINGS = ("", "", "a picture of ", "there {is} ", "we see ")


@dataclass(frozen=True)
class Group:
    """``number`` (1 to 3) shapes of one colour."""

    number: int
    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """``first`` alone, or ``first`` above or left of ``second``."""

    first: Group
    relation: str = ""
    second: Group | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        groups = [group for group in (self.first, self.second) if group]
        return {"groups": [vars(group) for group in groups], "relation": self.relation}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Scene:
        """Returns the scene that ``to_dict`` wrote."""
        return cls(
            Group(**content["groups"][0]), content["relation"], *(Group(**g) for g in content["groups"][1:])
        )

    @property
    def facts(self) -> tuple[Any, ...]:
        """Every true statement as (groups, relation), in the form of ``understand``."""
        if self.second is None:
            return (((self.first,), ""),)
        forth = ((self.first, self.second), self.relation)
        return (forth, ((self.second, self.first), MIRRORED[self.relation]))


def describe(scene: Scene, rng: random.Random) -> str:
    """Returns one correct caption in random words."""
    groups, relation = rng.choice(scene.facts)
    opening = rng.choice(OPENINGS).format(**{"is": "is" if groups[0].number == 1 else "are"})
    phrases = [_phrase(group, rng) for group in groups]
    return opening + (
        phrases[0] if len(phrases) == 1 else f"{phrases[0]} {rng.choice(SAID[relation])} {phrases[1]}"
    )


def describe_often(scene: Scene, rng: random.Random, times: int = 5) -> list[str]:
    """Returns ``times`` different captions."""
    captions: dict[str, None] = {}
    while len(captions) < times:
        captions[describe(scene, rng)] = None
    return list(captions)


def is_right(caption: str, scene: Scene) -> bool:
    """Whether ``caption`` names every group with its number, colour and shape, and their relation."""
    return understand(caption) in scene.facts


def understand(caption: str) -> tuple[tuple[Group, ...], str] | None:
    """Returns the groups of ``caption`` and the first one's relation to the second; None if it cannot be parsed."""
    text = " ".join(caption.lower().rstrip(" .").split())
    matched = _SENTENCE.fullmatch(text)
    if matched is None:
        return None
    groups = [_group(matched["first"])] + ([_group(matched["second"])] if matched["second"] else [])
    if any(group is None for group in groups):
        return None
    return tuple(group for group in groups if group), _MEANING.get(matched["relation"], "")


def _phrase(group: Group, rng: random.Random) -> str:
    shape = group.shape + ("s" if group.number > 1 else "")
    if rng.random() < 0.75:
        return f"{_number(group.number, group.colour, rng)} {group.colour} {shape}"
    return f"{_number(group.number, shape, rng)} {shape} in {group.colour}"


def _number(number: int, following: str, rng: random.Random) -> str:
    if number > 1 or rng.random() < 0.2:
        return NUMBERS[number - 1]
    return "an" if following[0] in "aeiou" else "a"


def _group(phrase: str) -> Group | None:
    """Returns the group of a noun phrase; None if number and plural disagree."""
    matched = _NOUN.fullmatch(phrase)
    if matched is None:
        return None
    number = NUMBERS.index(matched["number"]) + 1 if matched["number"] in NUMBERS else 1
    if (number > 1) != (matched["plural"] == "s"):
        return None
    return Group(number, matched["before"] or matched["after"], matched["shape"])


_MEANING = {phrase: relation for relation, several in SAID.items() for phrase in several}
_COLOUR = "|".join(COLOURS)
_NOUN = re.compile(
    rf"(?P<number>an?|{'|'.join(NUMBERS)}) (?:(?P<before>{_COLOUR}) )?"
    rf"(?P<shape>{'|'.join(SHAPES)})(?P<plural>s?)(?(before)| in (?P<after>{_COLOUR}))"
)
_OPENING = "|".join(sorted({text.replace("{is}", "(?:is|are)").strip() for text in OPENINGS if text}))
_RELATION = "|".join(sorted(_MEANING, key=len, reverse=True))
_SENTENCE = re.compile(rf"(?:(?:{_OPENING}) )?(?P<first>.+?)(?: (?P<relation>{_RELATION}) (?P<second>.+))?")
