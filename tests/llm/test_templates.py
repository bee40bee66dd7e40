"""Chat templates: what real ones use, and hostile ones that are refused in bounded time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pytest

from tilus.errors import TilusError, TilusTypeError, TilusValueError
from tilus.llm.templates import ChatTemplate, Limits

MESSAGES = [
    {"role": "user", "content": "Grüße 😀"},
    {"role": "assistant", "content": "<b>"},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message.content | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def render(source: str, *, answer: bool = True, limits: Limits | None = None) -> str:
    return ChatTemplate(source, TOKENS, limits or Limits()).render(MESSAGES, answer)


def refusal(source: str, limits: Limits | None = None) -> str:
    """The one line that an error says."""
    with pytest.raises(TilusValueError, match="chat template") as caught:
        render(source, limits=limits)
    first = str(caught.value.first.message)
    assert "\n" not in first and len(first) < 300
    return first


def test_a_usual_template() -> None:
    turns = "<s><|im_start|>user\nGrüße 😀<|im_end|>\n<|im_start|>assistant\n<b><|im_end|>\n"
    assert render(CHATML, answer=False) == turns
    assert render(CHATML) == turns + "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages | tojson }}", json.dumps(MESSAGES, ensure_ascii=False)),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}"
         "{% if i == 3 %}{% break %}{% endif %}{% endfor %}", "023"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
         "{% endfor %}{{ ns.n }}", "2"),
        ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}!", "<b>!"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ tools is none and documents is none and tool_calls is not defined }}", "True"),
        ("{{ dict(a=1).items() | list | first | last }}", "1"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages[0]['role']) }}", "[user]"),
        ("{{ messages[0].content[:3] + messages[-1].content.replace('b', 'i') }}", "Grü<i>"),
    ],
)  # fmt: skip
def test_what_templates_use(source: str, text: str) -> None:
    assert render(source) == text


def test_the_template_says_why_it_refuses() -> None:
    line = refusal("{{ raise_exception('roles must\nalternate ' + messages[0].role) }}")
    assert line.endswith("cannot be rendered: roles must alternate user")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a\n{% for %}", "line 2: "),
        ("{{ messages.x.y }}", "no attribute 'x'|has no|undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("{% include 'x' %}", "loader"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|undefined"),
        ("{{ messages.append(1) }}", "unsafe|safely"),
        ("{{ raise_exception.__globals__ }}", "unsafe"),
        ("{{ ''.join.__self__ }}", "unsafe"),
        ("{{ '{0.__class__.__init__.__globals__}'.format(namespace) }}", "unsafe"),
        ("{{ [''] | map(attribute='__class__') | map(attribute='__mro__') | list }}", "unsafe"),
        ("{{ ('' | attr('__class__')).__mro__ }}", "unsafe|undefined"),
        ("{{ namespace(__class__=1) }}", "namespace"),
        ("{% set n = namespace() %}{% set n.__class__ = 1 %}", "namespace"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "unsafe"),
        ("{{ self.__init__ }}", "unsafe"),
        ("{{ range(10 ** 6) | length }}", "too big|100000"),
    ],
)
def test_errors_and_escapes_are_one_line(source: str, reason: str) -> None:
    assert re.search(reason, refusal(source)), refusal(source)


BOMBS = {
    "loop": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "powers": "{{ (2 ** (2 ** 27)) % 7 }}{{ (3 ** (3 ** 17)) % 7 }}",
    "repeat": "{{ 'a' * 10 ** 9 }}",
    "digits": "{{ (10 ** 100000) | string }}",
    "list": "{{ ([0] * 10 ** 9) | length }}",
    "doubling": "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}"
    "{% endfor %}",
    "output": "{% for a in range(99999) %}{% for b in range(999) %}0123456789{% endfor %}"
    "{% endfor %}",
    "width": "{{ '%999999999d' | format(1) }}",
    "center": "{{ 'a' | center(999999999) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nesting": "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
    "blocks": "{% if 1 %}" * 20_000 + "{% endif %}" * 20_000,
    "long": "a" * ((1 << 20) + 1),
}


RENDERED_BY_A_SMALL_PROCESS = """\
import json, resource, sys
from tilus.errors import TilusValueError
from tilus.llm.templates import ChatTemplate, Limits
try:
    template = ChatTemplate(sys.stdin.read(), {}, Limits(seconds=0.3))
    template.render([{"role": "user", "content": ""}])
except TilusValueError as error:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps([error.first.message, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_soon(name: str) -> None:
    # A child's greatest memory includes that of the process it was forked from: begin with a
    # process that is small.
    start = time.perf_counter()
    command = [sys.executable, "-c", RENDERED_BY_A_SMALL_PROCESS]
    done = subprocess.run(command, input=BOMBS[name], capture_output=True, text=True, check=True)
    message, seconds, kibibytes = json.loads(done.stdout)
    assert "\n" not in message
    assert seconds < 2
    assert kibibytes < 400 << 10
    assert time.perf_counter() - start < 32


def test_limits_are_what_they_say() -> None:
    assert "0.1 s" in refusal(BOMBS["loop"], Limits(seconds=0.1))
    assert "256 MiB" in refusal(BOMBS["repeat"])
    assert "more than 10 characters" in refusal("{{ 'a' * 11 }}", Limits(characters=10))
    assert render("{{ 'a' * 10 }}", limits=Limits(characters=10)) == "a" * 10
    long = "{{ '\\u2581' * 1000000 }}"
    assert render(long, limits=Limits(characters=1_000_000)) == "\u2581" * 1_000_000


@pytest.mark.parametrize(
    "messages",
    ["hello", {"role": "user"}, [{"content": "no role"}], ["user"], [{"role": 1}], None],
)
def test_messages_of_a_wrong_kind(messages: object) -> None:
    with pytest.raises(TilusTypeError, match="`messages`"):
        ChatTemplate(CHATML, TOKENS).render(messages)  # type: ignore[arg-type]


def test_messages_that_are_no_json() -> None:
    nested: list[object] = []
    nested.append(nested)
    for content in object(), float("nan"), nested, b"":
        with pytest.raises(TilusError, match="`messages` cannot be written as JSON"):
            ChatTemplate(CHATML, TOKENS).render([{"role": "user", "content": content}])
    with pytest.raises(TilusValueError, match="at most 100 are rendered"):
        few = ChatTemplate(CHATML, TOKENS, Limits(messages=100))
        few.render([{"role": "user", "content": "a" * 100}])


def test_surrogates_come_through() -> None:
    # They are refused where the text is encoded, with their place.
    assert ChatTemplate("{{ messages[0].role }}", {}).render([{"role": "\ud800"}]) == "\ud800"
