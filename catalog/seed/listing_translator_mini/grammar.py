"""One product title in Chinese and English, drawn from a seeded random source.

In Chinese the modifiers come in any order, with or without spaces, as sellers write them; in
English they take one natural order: audience, style, property, pattern, material, cut, product,
"with ...", "for ...", then colour, sizes and quantity after commas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from catalog.seed.listing_translator_mini import measures
from catalog.seed.listing_translator_mini.lexicon import SLOTS, Category, Lexicon, Word
from catalog.seed.listing_translator_mini.plural import counted

REPEATABLE = ("property", "extra")
"""Slots that may hold two words."""


@dataclass(frozen=True)
class Shape:
    """What kind of titles to draw.

    ``modifiers`` is the range of modifier counts, ``rarity`` the weight of a word by rank:
    1/(1+rank)^(1-rarity), so 1.0 is uniform and above 1 prefers rare words. ``sizes`` are the
    counts of sizes to choose from.
    """

    modifiers: tuple[int, int]
    rarity: float
    sizes: tuple[int, ...]


# Training sees common and rare words alike; numbers are long and learnt early, so titles have few.
TRAINING = Shape(modifiers=(0, 9), rarity=1.0, sizes=(0, 0, 1, 1, 2, 3))
ORDINARY = Shape(modifiers=(2, 6), rarity=0.6, sizes=(0, 1, 2))
HARD = Shape(modifiers=(6, 9), rarity=1.5, sizes=(2, 3))


@dataclass
class Title:
    """A title pair and the words it was made of (what the split looks at)."""

    zh: str
    en: str
    product: str
    words: frozenset[str]


@dataclass
class _Draft:
    """A title while it is drawn."""

    category: Category
    product: Word
    chosen: dict[str, list[Word]] = field(default_factory=dict)
    color: Word | None = None
    sizes: list[measures.Measure] = field(default_factory=list)
    quantity: measures.Measure | None = None
    set_of: int = 0
    set_zh: str = ""
    year: measures.Measure | None = None


def source(seed: int) -> Random:
    """A source of chance that repeats itself: nothing here needs to be unguessable."""
    return Random(seed)


def draw(lexicon: Lexicon, rng: Random, shape: Shape) -> Title:
    """One title; the same source in the same state gives the same title."""
    draft = _draft(lexicon, rng, shape)
    words = frozenset(f"{slot}:{w.en}" for slot, ws in draft.chosen.items() for w in ws)
    product = f"{draft.category.name}:{draft.product.en}"
    return Title(_chinese(draft, lexicon, rng), _english(draft), product, words)


def _draft(lexicon: Lexicon, rng: Random, shape: Shape) -> _Draft:
    # By products and cuts, the words that belong to one category, so that none is much rarer.
    weights = [len(c.products) + 2 * len(c.modifiers["cut"]) for c in lexicon.categories]
    category = rng.choices(lexicon.categories, weights)[0]
    draft = _Draft(category, _pick(category.products, rng, shape))
    pool = [slot for slot in SLOTS if category.modifiers[slot]]
    pool += [slot for slot in REPEATABLE if slot in pool]
    count = min(rng.randint(*shape.modifiers), len(pool))
    for slot in rng.sample(pool, count):
        word = _pick(category.modifiers[slot], rng, shape)
        held = draft.chosen.setdefault(slot, [])
        if word not in held:
            held.append(word)
    if rng.random() < 0.6:
        draft.color = _pick(lexicon.colors, rng, shape)
    _draw_numbers(draft, rng, shape)
    return draft


def _pick(words: Sequence[Word], rng: Random, shape: Shape) -> Word:
    power = shape.rarity - 1
    return rng.choices(words, [(1 + rank) ** power for rank in range(len(words))])[0]


def _draw_numbers(draft: _Draft, rng: Random, shape: Shape) -> None:
    kinds = sorted(set(draft.category.sizes))
    count = min(rng.choice(shape.sizes), len(kinds))
    draft.sizes = [measures.SIZES[kind](rng) for kind in rng.sample(kinds, count)]
    if rng.random() < 0.45:
        _draw_quantity(draft, rng)
    if rng.random() < 0.08:
        draft.year = measures.year(rng)


def _draw_quantity(draft: _Draft, rng: Random) -> None:
    kind = rng.choice(draft.category.quantities)
    classifier = rng.choice((*draft.category.classifiers, "件"))
    if kind == "set":
        draft.set_of, zh = measures.quantity(rng)
        draft.set_zh = rng.choice((f"{zh}件套", f"{zh}{classifier}套装"))
    elif kind == "pack":
        draft.quantity = measures.pack(rng, classifier)
    elif kind == "pairs":
        draft.quantity = measures.pairs(rng)
    elif kind == "pieces":
        draft.quantity = measures.pieces(rng)
    else:
        draft.quantity = measures.bonus(rng)


def _english(draft: _Draft) -> str:
    noun = draft.product.en
    lead = [draft.year.en] if draft.year else []
    if draft.set_of:
        prefix, noun = counted(draft.set_of, noun)
        lead.append(prefix)
    before = [w.en for slot in SLOTS[:6] for w in draft.chosen.get(slot, [])]
    # A stroller for babies is a Baby Stroller, not a Baby Baby Stroller.
    before = [en for en in before if not noun.startswith(en + " ")]
    head = " ".join([*lead, *before, noun, *_tail_phrases(draft)])
    specs = [draft.color.en] if draft.color else []
    specs += [size.en for size in draft.sizes]
    if draft.quantity:
        specs.append(draft.quantity.en)
    return ", ".join([head, *specs])


def _tail_phrases(draft: _Draft) -> list[str]:
    phrases = []
    if extras := draft.chosen.get("extra"):
        phrases.append("with " + " and ".join(w.en for w in extras))
    season = "".join(w.en for w in draft.chosen.get("season", []))
    scene = "".join(w.en for w in draft.chosen.get("scene", []))
    if season or scene:
        phrases.append("for " + (f"{scene} in {season}" if season and scene else season + scene))
    return phrases


def _spelling(word: Word, rng: Random) -> str:
    return word.zh[0] if rng.random() < 0.6 else rng.choice(word.zh)


def _chinese(draft: _Draft, lexicon: Lexicon, rng: Random) -> str:
    front, after = _modifier_order(draft, rng)
    specs = [size.zh for size in draft.sizes]
    if draft.quantity:
        specs.insert(rng.randint(0, len(specs)), draft.quantity.zh)
    if draft.color:
        color = _spelling(draft.color, rng)
        if rng.random() < 0.25:
            front.insert(rng.randint(0, len(front)), color)
        else:
            specs.insert(rng.randint(0, len(specs)), color)
    if draft.set_zh:
        specs.insert(rng.randint(0, len(specs)), draft.set_zh)
    if rng.random() < 0.2:
        specs.insert(rng.randint(0, len(specs)), rng.choice(lexicon.dropped))
    lead = [draft.year.zh] if draft.year else []
    if rng.random() < 0.08:
        lead.insert(0, rng.choice(lexicon.dropped))
    gap = rng.choices(("", " "), (85, 15))[0]
    core = gap.join([*front, _spelling(draft.product, rng)])
    mark = rng.choices((" ", "，", "/"), (80, 12, 8))[0]
    return " ".join([*lead, mark.join([core, *after, *specs])])


def _modifier_order(draft: _Draft, rng: Random) -> tuple[list[str], list[str]]:
    """Chinese modifiers before and after the product, shuffled.

    Two words of one slot keep their order in both languages: nothing else could tell it.
    """
    slots = [slot for slot, words in draft.chosen.items() for _ in words]
    rng.shuffle(slots)
    queues = {slot: iter(words) for slot, words in draft.chosen.items()}
    spelled = []
    for slot in slots:
        zh = _spelling(next(queues[slot]), rng)
        spelled.append("适合" + zh if slot == "scene" and rng.random() < 0.2 else zh)
    moved = rng.choice((1, 1, 2)) if rng.random() < 0.25 else 0
    cut = max(len(spelled) - moved, 0)
    return spelled[:cut], spelled[cut:]
