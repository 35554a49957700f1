"""The model's own byte-level BPE, trained on the grammar's text.

Chinese is cut into single characters and numbers into single digits before merging: modifiers
touch each other without spaces, and a merge across two of them would hide both; digits must be
copied one by one. Every character of the lexicon becomes one token, and most of its English words
do: a rare word in three fragments takes the model several times as long to learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from catalog.seed.listing_translator_mini import chat
from catalog.seed.listing_translator_mini.grammar import TRAINING
from catalog.seed.listing_translator_mini.lexicon import load
from catalog.seed.listing_translator_mini.splits import titles

VOCABULARY = 3072
TITLES = 40_000
SEED = 11
CHARACTER_WEIGHT = 5000
WORD_WEIGHT = 100
# Plain ranges, not \p{Han}: JavaScript's regular expressions read these too.
PIECES = r"[一-鿿]|[0-9]| ?[A-Za-z']+|[^一-鿿0-9A-Za-z' ]| "


def _texts() -> Iterator[str]:
    for title in islice(titles(SEED, "train", TRAINING), TITLES):
        yield title.zh
        yield title.en
    for word in load().words():
        yield (" " + word.en) * WORD_WEIGHT
        yield "".join(word.zh) * CHARACTER_WEIGHT
    for _ in range(TITLES // 10):
        yield "system\nuser\nassistant\n"
        yield from chat.SYSTEM_MESSAGES


def train() -> Tokenizer:
    """A tokenizer of ``VOCABULARY`` entries; the same every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[chat.PAD, chat.START, chat.END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def example(
    tokenizer: Tokenizer, zh: str, en: str, system: str | None = None
) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the answer, encoded apart as they are in serving."""
    return (
        tokenizer.encode(chat.prompt(zh, system)).ids,
        tokenizer.encode(chat.answer(en)).ids,
    )
