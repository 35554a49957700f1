"""How a title is put to the model: ChatML, the same text in training and in serving.

``prompt`` is what ``chat_template.jinja`` renders; a test holds the two together, so training
needs no template engine.
"""

from __future__ import annotations

from pathlib import Path

TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

SYSTEM_MESSAGES = (
    "把商品标题翻译成英文。",
    "Translate the product title into English.",
    "You are a helpful assistant.",
)
"""Some training examples begin with one of these, so that a caller may send one."""


def prompt(zh: str, system: str | None = None) -> str:
    """The text before the answer."""
    before = f"{START}system\n{system}{END}\n" if system else ""
    return f"{before}{START}user\n{zh}{END}\n{START}assistant\n"


def answer(en: str) -> str:
    """The text the model must produce, its stop token included."""
    return en + END
