"""The template that serving renders is the text that training used."""

import jinja2.sandbox
import pytest

from catalog.seed.listing_translator_mini import chat


@pytest.mark.parametrize("trimmed", [False, True])
@pytest.mark.parametrize("system", [None, "把商品标题翻译成英文。"])
def test_template_equals_prompt(trimmed: bool, system: str | None) -> None:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=trimmed, lstrip_blocks=trimmed
    )
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": "夏季女士纯棉T恤 白色"})
    template = environment.from_string(chat.TEMPLATE)
    rendered = template.render(messages=messages, add_generation_prompt=True)
    assert rendered == chat.prompt("夏季女士纯棉T恤 白色", system)


def test_template_of_a_whole_conversation() -> None:
    messages = [{"role": "user", "content": "帽子"}, {"role": "assistant", "content": "Hat"}]
    rendered = (
        jinja2.sandbox.SandboxedEnvironment().from_string(chat.TEMPLATE).render(messages=messages)
    )
    assert rendered == "<|im_start|>user\n帽子<|im_end|>\n<|im_start|>assistant\nHat<|im_end|>\n"
