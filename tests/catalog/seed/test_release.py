"""The committed release is complete, small, and its two tokenizers are one."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from catalog.seed.listing_translator_mini import bpe, chat, splits
from catalog.seed.listing_translator_mini.lexicon import load

RELEASE = splits.FOLDER / "release"
ONNX = splits.FOLDER / "onnx"
BUILDS = [folder for folder in (RELEASE, ONNX) if (folder / "tokenizer.json").is_file()]
LIMIT_BYTES = 12_000_000


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(RELEASE / "tokenizer.json"))


@pytest.mark.parametrize("folder", BUILDS, ids=lambda folder: folder.name)
def test_every_build_carries_the_same_tokenizer_and_template(folder: Path) -> None:
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for name in names:
        assert (folder / name).read_bytes() == (RELEASE / name).read_bytes()
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == chat.TEMPLATE


def test_every_lexicon_word_comes_back(tokenizer: Tokenizer) -> None:
    for word in load().words():
        for text in (word.en, *word.zh):
            assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_digits_stand_alone(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode("205 cm 2件装").ids]
    assert pieces == ["2", "0", "5", " cm", " ", "2", "件", "装"]


def test_titles_come_back_and_fit(tokenizer: Tokenizer) -> None:
    for path in splits.SEEDS:
        for zh, en in splits.read_rows(path):
            prompt, answer = bpe.example(tokenizer, zh, en)
            assert tokenizer.decode(answer[:-1]) == en
            assert len(prompt) + len(answer) < 256


def test_the_configuration_names_the_stop_token(tokenizer: Tokenizer) -> None:
    config = json.loads((RELEASE / "config.json").read_text(encoding="utf-8"))
    generation = json.loads((RELEASE / "generation_config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == tokenizer.token_to_id(chat.END)
    assert generation["eos_token_id"] == tokenizer.token_to_id(chat.END)
    assert config["pad_token_id"] == tokenizer.token_to_id(chat.PAD)
    assert config["vocab_size"] == tokenizer.get_vocab_size()


def test_all_builds_together_are_small() -> None:
    files = [path for folder in (RELEASE, ONNX) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES
