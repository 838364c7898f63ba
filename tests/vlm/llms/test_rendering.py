"""vlm.llms.rendering: what a template may do, and what it may cost."""

import threading

import pytest
from tiny.llms import LLAMA3, QWEN2, QWEN3
from transformers.utils import chat_template_utils

from vlm.llms import rendering
from vlm.llms.rendering import BadTemplate, render

TALK = [{"role": "user", "content": "Red?\n<b> é \ud83d"}, {"role": "assistant", "content": "yes"}]
GENERATION = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% continue %}x{% endfor %}"


@pytest.mark.parametrize("template", [LLAMA3, QWEN2, QWEN3, GENERATION, "{{ messages | tojson(indent=1) }}"])
def test_texts_are_those_of_transformers(template):
    variables = {"messages": TALK, "bos_token": "<s>", "add_generation_prompt": True}
    stock = rendering._compile(template).render(**variables)
    assert render(template, variables) == stock and stock
    (text,), _ = chat_template_utils.render_jinja_template([TALK], chat_template=template, bos_token="<s>")
    assert text == rendering._compile(template).render(messages=TALK, bos_token="<s>", add_generation_prompt=False)


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * 10 ** 11 }}", "it takes more than 1 GiB of memory"),
        ("{{ 'a' | center(10 ** 11) }}", "it takes more than 1 GiB of memory"),
        ("{% for i in range(99999) %}{{ 'a' * 200 }}{% endfor %}", "it makes 19,999,800 characters"),
        ("{{ raise_exception('not so') }}", "TemplateError: not so"),
        ("{% for %}", "TemplateSyntaxError: Expected an expression"),
        ("{{ ''.__class__.__mro__[1] }}", "SecurityError: access to attribute '__class__'"),
        ("{{ cycler.__init__.__globals__.os.system('id') }}", "SecurityError: access to attribute '__init__'"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "it is nested too deeply"),
        ("{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}", "it is nested too deeply"),
        ("a" * 200_001, "it has 200,001 characters, of which at most 200,000 are read"),
        ("{% include '/etc/passwd' %}", "TypeError: no loader"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line(template, said):
    for attempt in (render, chat_template_utils.render_jinja_template):
        with pytest.raises(BadTemplate) as told:
            attempt(template, {}) if attempt is render else attempt([TALK], chat_template=template)
        assert str(told.value).startswith(f"the chat template cannot be used ({said}")
        assert str(told.value).endswith("): give a model with another one") and "\n" not in str(told.value)


def test_a_loop_without_end_is_killed_and_the_next_template_renders():
    with pytest.raises(BadTemplate, match=r"it takes more than 2 s of processor time or 1 GiB for a conversation"):
        render(LOOP, {})
    assert render("{{ a }}", {"a": 1}) == "1"


def test_jinja_computes_nothing_when_transformers_looks_at_a_template():
    heavy = "{{ tools }}{{ 'a' | center(10 ** 11) }}{% set x = 10 ** 10 ** 10 %}{{ x }}"
    assert chat_template_utils._get_template_variables(heavy) == {"tools"}


def test_threads_get_their_own_answers():
    wrong = []

    def ask(number):
        wrong.extend(n for n in range(20) if render("{{ a }}", {"a": [number, n]}) != f"[{number}, {n}]")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
