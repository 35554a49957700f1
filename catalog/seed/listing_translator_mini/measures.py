"""Numbers in titles: sizes, quantities, offers. Every function draws one and says it twice.

A number must reach the English title digit by digit; only Chinese numerals (两件装) are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

CHINESE_NUMERALS = {
    2: "两", 3: "三", 4: "四", 5: "五", 6: "六", 7: "七", 8: "八", 9: "九", 10: "十", 12: "十二",
}  # fmt: skip
LETTERS = ("S", "M", "L", "XL", "XXL", "XS", "3XL", "4XL", "5XL", "6XL")
ROUND_NUMBERS = (5, 10, 12, 15, 20, 25, 30, 35, 40, 45, 50, 60, 75, 80, 90, 100, 120, 150, 180, 200)


@dataclass(frozen=True)
class Measure:
    """One number phrase in both languages."""

    zh: str
    en: str


Draw = Callable[[Random], Measure]


def _whole(rng: Random, low: int, high: int) -> str:
    """Half of the numbers are round ones, as in real titles; the rest are anything."""
    if rng.random() < 0.5:
        fitting = [number for number in ROUND_NUMBERS if low <= number <= high]
        if fitting:
            return str(rng.choice(fitting))
    return str(rng.randint(low, high))


def _decimal(rng: Random, low: int, high: int) -> str:
    """Whole in two cases of three, otherwise with one decimal."""
    if rng.random() < 2 / 3:
        return str(rng.randint(low, high))
    return f"{rng.randint(low, high - 1)}.{rng.randint(1, 9)}"


def _unit(zh: tuple[str, ...], en: str, low: int, high: int, decimal: bool = False) -> Draw:
    """A number and its unit; ``zh`` and ``en`` hold the number's place as ``#``."""
    number_of = _decimal if decimal else _whole

    def draw(rng: Random) -> Measure:
        number = number_of(rng, low, high)
        return Measure(rng.choice(zh).replace("#", number), en.replace("#", number))

    return draw


def _either(*draws: Draw) -> Draw:
    return lambda rng: rng.choice(draws)(rng)


def _letter(rng: Random) -> Measure:
    if rng.random() < 0.08:
        return Measure("均码", "One Size")
    letter = rng.choice(LETTERS)
    return Measure(letter + rng.choice(("码", "号")), f"Size {letter}")


def _shoe(rng: Random) -> Measure:
    number = str(rng.randint(22, 48)) + (".5" if rng.random() < 0.15 else "")
    return Measure(f"{number}码", f"Size {number}")


def _age(rng: Random) -> Measure:
    low = rng.randint(0, 12)
    high = low + rng.randint(1, 8)
    if rng.random() < 0.3:
        return Measure(f"{low}-{high}个月", f"{low}-{high} Months")
    if rng.random() < 0.25:
        return Measure(f"{low + 1}岁以上", f"Ages {low + 1}+")
    return Measure(f"{low}-{high}岁", f"Ages {low}-{high}")


def _dimensions(count: int) -> Draw:
    def draw(rng: Random) -> Measure:
        numbers = [_whole(rng, 5, 300) for _ in range(count)]
        cross = rng.choice(("x", "×", "*"))
        unit = rng.choice(("厘米", "cm", "CM"))
        return Measure(cross.join(numbers) + unit, " x ".join(numbers) + " cm")

    return draw


def _storage(rng: Random) -> Measure:
    if rng.random() < 0.25:
        number = rng.choice((1, 2, 4, 8))
        return Measure(f"{number}TB", f"{number} TB")
    number = rng.choice((8, 16, 32, 64, 128, 256, 512))
    return Measure(f"{number}{rng.choice(('GB', 'G'))}", f"{number} GB")


def _battery(rng: Random) -> Measure:
    number = rng.randint(3, 600) * (100 if rng.random() < 0.5 else 50)
    return Measure(f"{number}{rng.choice(('毫安', 'mAh'))}", f"{number} mAh")


def _paper(rng: Random) -> Measure:
    name = rng.choice("AB") + str(rng.randint(3, 7))
    return Measure(name, name)


SIZES: dict[str, Draw] = {
    "letter": _letter,
    "shoe": _shoe,
    "age": _age,
    "dims2": _dimensions(2),
    "dims3": _dimensions(3),
    "storage": _storage,
    "battery": _battery,
    "paper": _paper,
    "height": _unit(("身高#厘米", "身高#cm"), "Height # cm", 60, 190),
    "waist": _either(
        _unit(("腰围#寸",), "Waist # Inch", 24, 44), _unit(("#码",), "Size #", 25, 44)
    ),
    "foot": _unit(("脚长#厘米", "脚长#cm"), "Foot Length # cm", 11, 29, decimal=True),
    "head": _unit(("头围#厘米", "头围#cm"), "Head Size # cm", 44, 62),
    "length": _either(
        _unit(("长#米", "#米长"), "# m Long", 1, 20, decimal=True),
        _unit(("长#厘米", "长#cm"), "# cm Long", 5, 250),
    ),
    "height_cm": _unit(("高#厘米", "高#cm"), "# cm High", 5, 240),
    "litre": _unit(("#升", "#L"), "# L", 1, 120, decimal=True),
    "inch": _unit(("#寸",), "# Inch", 4, 32),
    "screen": _unit(("#英寸", "#寸"), "# Inch", 4, 34, decimal=True),
    "diameter": _unit(("直径#厘米", "直径#cm"), "Diameter # cm", 6, 60, decimal=True),
    "diameter_mm": _unit(("直径#毫米", "直径#mm"), "Diameter # mm", 2, 60, decimal=True),
    "ring": _unit(("戒围#号",), "Ring Size #", 5, 25),
    "volume": _unit(("#毫升", "#ml", "#ML"), "# ml", 30, 2000),
    "ml": _unit(("#毫升", "#ml"), "# ml", 2, 500),
    "weight": _either(
        _unit(("#克", "#g"), "# g", 3, 950), _unit(("#公斤", "#kg"), "# kg", 1, 60, decimal=True)
    ),
    "sheets": _unit(("#张",), "# Sheets", 10, 500),
    "pieces": _unit(("#片",), "# Pieces", 10, 2000),
    "power": _unit(("#瓦", "#W"), "# W", 3, 2400),
    "voltage": _unit(("#伏", "#V"), "# V", 3, 240),
    "lumen": _unit(("#流明",), "# lm", 50, 6000),
    "thickness": _unit(("厚#毫米", "厚#mm"), "# mm Thick", 2, 30),
}


def quantity(rng: Random) -> tuple[int, str]:
    """How many, and how Chinese writes it: digits, or a numeral in three cases of ten."""
    number = rng.choice((2, 2, 3, 3, 4, 5, 6, 8, 10, 12, rng.randint(2, 60)))
    if number in CHINESE_NUMERALS and rng.random() < 0.3:
        return number, CHINESE_NUMERALS[number]
    return number, str(number)


def pack(rng: Random, classifier: str) -> Measure:
    """2件装 -> Pack of 2."""
    number, zh = quantity(rng)
    return Measure(f"{zh}{classifier}装", f"Pack of {number}")


def pairs(rng: Random) -> Measure:
    """3双装 -> 3 Pairs."""
    number, zh = quantity(rng)
    return Measure(f"{zh}双装", f"{number} Pairs")


def pieces(rng: Random) -> Measure:
    """50个入 -> 50 Pieces."""
    number = _whole(rng, 5, 500)
    return Measure(f"{number}个入", f"{number} Pieces")


def bonus(rng: Random) -> Measure:
    """买2送1 -> Buy 2 Get 1 Free."""
    bought, free = rng.randint(1, 5), rng.randint(1, 3)
    return Measure(f"买{bought}送{free}", f"Buy {bought} Get {free} Free")


def year(rng: Random) -> Measure:
    """2026新款 -> 2026 New."""
    number = rng.randint(2024, 2029)
    return Measure(rng.choice(("{}新款", "{}年新款", "【{}新款】")).format(number), f"{number} New")
