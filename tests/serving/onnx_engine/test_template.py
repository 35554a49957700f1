"""A chat template is data from an upload: it renders, and it can do nothing else."""

from __future__ import annotations

import pytest

from catalog.ground.errors import BadRequest
from serving.onnx_engine.template import ChatTemplate

PLAIN = (
    "{% for message in messages %}\n"
    "<{{ message.role }}>{{ message['content'] }}{{ eos_token }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ASKED = [{"role": "user", "content": "你好 {{ 7*7 }} <b>"}]


def test_messages_are_rendered_and_never_interpreted() -> None:
    template = ChatTemplate(PLAIN, {"eos_token": "</s>"})
    assert template.render(ASKED) == "<user>你好 {{ 7*7 }} <b></s>\n<assistant>"
    assert template.render(ASKED, add_generation_prompt=False) == "<user>你好 {{ 7*7 }} <b></s>\n"


def test_what_a_template_refuses_is_told_in_its_own_words() -> None:
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system role.') }}{% endif %}"
    )
    with pytest.raises(BadRequest, match="No system role") as caught:
        ChatTemplate(source, {}).render([{"role": "system", "content": ""}])
    assert caught.value.code == "messages_refused"


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ messages.undefined.deeper }}",
        "{% include '/etc/passwd' %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 'a' * 10000000 }}",
        "{{ 9 ** 99999999 }}",
        "{% for i in range(99999) %}{{ 'a' * 60000 }}{% endfor %}",
        "{% for i in range(999999999) %}{% endfor %}",
    ],
)
def test_a_bad_template_is_refused_when_it_is_loaded(source: str) -> None:
    with pytest.raises(BadRequest):
        ChatTemplate(source, {})


def test_a_template_that_fails_later_gives_nothing_away() -> None:
    template = ChatTemplate("{% if messages[0].x %}{{ messages[0].x + 1 }}{% endif %}", {})
    with pytest.raises(BadRequest, match="cannot render these messages") as caught:
        template.render([{"role": "user", "content": "", "x": "secret"}])
    assert "secret" not in str(caught.value)


def test_tools_are_json_without_html_escapes() -> None:
    template = ChatTemplate("{{ tools | tojson }}", {})
    assert template.render(ASKED, tools=[{"name": "名<>"}]) == '[{"name": "名<>"}]'
