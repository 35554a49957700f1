"""English plurals of product names, for titles that begin "Set of 6 ...".

Regular rules first fail on a dozen nouns of our catalogue, so those are listed; nouns that are
plural already (Jeans, Scissors) are counted in pairs where English does so.
"""

from __future__ import annotations

IRREGULAR = {
    "Knife": "Knives",
    "Shelf": "Shelves",
    "Bookshelf": "Bookshelves",
    "Scarf": "Scarves",
    "Leaf": "Leaves",
    "Wolf": "Wolves",
    "Goose": "Geese",
    "Mouse": "Mice",
    "Sheep": "Sheep",
    "Hanfu": "Hanfu",
    "Chest of Drawers": "Chests of Drawers",
}
SINGULAR_IN_S = {"Lens", "Canvas", "Bus", "Atlas"}
PAIRED = {
    "Chopsticks", "Cufflinks", "Earrings", "Ear Studs", "Scissors", "Pliers", "Tongs", "Shears",
    "Tweezers", "Sunglasses", "Goggles", "Gloves", "Earmuffs", "Compasses", "Curtains",
}  # fmt: skip
_HISS = ("s", "x", "z", "ch", "sh")


def plural(noun: str) -> str:
    """The plural of a product name; only its last word changes."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    head, space, last = noun.rpartition(" ")
    return head + space + _plural_word(last)


def _plural_word(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("s") and not word.endswith("ss") and word not in SINGULAR_IN_S:
        return word
    if word.endswith(_HISS):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def counted(number: int, noun: str) -> tuple[str, str]:
    """What stands before and after the modifiers: ("Set of 3 Pairs of", "Kitchen Scissors")."""
    if noun in PAIRED or noun.rpartition(" ")[2] in PAIRED:
        return f"Set of {number} Pairs of", noun
    return f"Set of {number}", plural(noun)
