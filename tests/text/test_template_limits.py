"""Hostile templates: a TemplateError that names the cause, within two seconds, in little memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from pellucid.errors import TemplateError
from pellucid.text.chat_template import MAX_TEMPLATE_CHARS, ChatTemplate

USER = [{"role": "user", "content": "hi"}]
BIG = "{% set a = 'x' * 4000000 %}"
DOUBLE = "{% set a = 'x' * 1000 %}"

TOO_MUCH = {
    "a long range": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops without output": "{% for i in range(10**5) %}{% for j in range(10**5) %}{% endfor %}{% endfor %}",
    "loops in a filter": "{% set l = range(99999)|list %}{% for i in l if i in l %}{% endfor %}",
    "loops in map": "{% for i in range(99999) %}{{ range(99999)|map('string')|join|length }}{% endfor %}",
    "a loop over characters": "{% for x in 'a' * 4000000 %}{% for y in 'a' * 4000000 %}{% endfor %}{% endfor %}",
    "a loop without variables": "{% for x in range(99999) %}{% set y = range(99999)|list %}{% endfor %}",
    "recursive loops": "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "string repetition": "{{ 'a' * 10**10 }}",
    "repetition from the right": "{{ 10**10 * 'a' }}",
    "list repetition": "{{ [0] * 10**10 }}",
    "strings doubled by ~": DOUBLE + "{% set a = a ~ a %}" * 60,
    "strings doubled by +": DOUBLE + "{% set a = a + a %}" * 60,
    "strings doubled by set blocks": DOUBLE + "{% set a %}{{ a }}{{ a }}{% endset %}" * 60,
    "strings doubled by join": DOUBLE + "{% set a = [a, a]|join %}" * 60,
    "strings doubled by format": DOUBLE + "{% set a = '%s%s' % (a, a) %}" * 60,
    "strings doubled by macros": "{% macro m(a) %}{{ a }}{{ a }}{% endmacro %}" + DOUBLE + "{% set a = m(a) %}" * 60,
    "lists doubled": "{% set a = [1] %}" + "{% set a = a + a %}" * 60,
    "lists of themselves": "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
    "tuples of themselves": "{% set a = (1,) %}" + "{% set a = (a, a) %}" * 60 + "{{ {a: 1} }}",
    "dicts of themselves": "{% set a = {} %}" + "{% set a = {'x': a, 'y': a} %}" * 60 + "{{ a|tojson }}",
    "dicts made by calls": "{% set a = {} %}" + "{% set a = dict(x=a, y=a) %}" * 60 + "{{ a == a }}",
    "powers": "{{ 10 ** (10 ** 10) }}",
    "a large power": "{{ 2 ** (10 ** 9) }}",
    "products": "{% set a = 2**4000 %}" + "{% set a = a * a %}" * 40,
    "wide %": "{{ '%1000000000d' % 1 }}",
    "wide % by argument": "{{ '%*d' % (10**9, 1) }}",
    "wide format filter": "{{ '%1000000000d'|format(1) }}",
    "replace method": "{{ ('a' * 1000000).replace('a', 'a' * 1000000) }}",
    "replace filter": "{{ ('a' * 1000000)|replace('a', 'a' * 1000000) }}",
    "replace nothing": "{{ ('a' * 1000000).replace('', 'a' * 1000000) }}",
    "join method": "{{ ('a' * 1000000).join(range(99999)|map('string')) }}",
    "join filter": "{{ range(99999)|join('a' * 1000000) }}",
    "indent": "{{ 'x'|indent(10**9) }}",
    "indent many lines": "{{ ('\n' * 1000000)|indent(1000, blank=true) }}",
    "batch": "{{ [1]|batch(10**9, 0)|list }}",
    "round": "{{ 1|round(10**9, 'ceil') }}",
    "tojson indent": "{{ [1]|tojson(indent=10**9) }}",
    "tojson separators": "{{ range(99999)|list|tojson(separators=('a' * 4000000, '')) }}",
    "sum of lists": "{{ ([[1]] * 99999)|sum(start=[]) }}",
    "copies kept": BIG + "".join(f"{{% set a{i} = a|upper %}}" for i in range(500)),
    "slices kept": BIG + "".join(f"{{% set a{i} = a[1:] %}}" for i in range(500)),
    "output kept in a macro": "{% macro f() %}{% for i in range(9999) %}{{ 'x' * 99999 ~ i }}{% endfor %}"
    "{% endmacro %}{{ f() }}",
    "output": "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "plain output": "{% for i in range(99999) %}" + "x" * 1000 + "{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "branching recursion": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion by call": "{% macro f(n) %}{{ f(n-1) if n else caller() }}{% endmacro %}"
    "{% call f(9000) %}{% endcall %}",
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "lists": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "sums": "{{ 1" + "+1" * 20000 + " }}",
    "attributes": "{{ x" + ".a" * 20000 + " }}",
    "not": "{{ " + "not " * 10000 + "1 }}",
    "ifs": "{% if 1 %}" * 200 + "{% endif %}" * 200,
    "fors": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "10 MB": "a" * 10_000_000,
    "10 MB of tags": "{{ a }}" * (10_000_000 // 7),
}  # fmt: skip

ESCAPES = {
    "mro": "{{ ''.__class__.__mro__ }}",
    "globals": "{{ cycler.__init__.__globals__ }}",
    "subclasses": "{{ {}.__class__.__bases__[0].__subclasses__() }}",
    "self": "{{ self.__init__.__globals__ }}",
    "item": "{{ ''['__class__'].x }}",
    "attr": "{{ (''|attr('__class__')).x }}",
    "format": "{{ '{0.__class__}'.format(1) }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': 1}) }}",
    "lipsum": "{{ lipsum.__globals__ }}",
    "to_bytes": "{{ (1).to_bytes(10**9) }}",
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update({'role': 'x'}) }}",
    "zfill": "{{ 'a'.zfill(10**10) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "expandtabs": "{{ '\t'.expandtabs(10**10) }}",
    "center": "{{ 'a'|center(10**10) }}",
    "include": "{% include 'x' %}",
    "import": "{% import 'x' as y %}",
    "extends": "{% extends 'x' %}",
    "block": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "generator": "{{ (messages|map('upper')).gi_frame.f_back }}",
    "environment": "{{ environment.x }}",
    "tick": "{{ tick() }}",
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_is_stopped(name):
    begin = time.perf_counter()
    with pytest.raises(TemplateError):
        ChatTemplate(TOO_MUCH[name]).render(USER)
    assert time.perf_counter() - begin < 4  # 1 s of rendering, and compiling, on a busy machine


@pytest.mark.parametrize(
    "name", ["copies kept", "slices kept", "output kept in a macro", "strings doubled by ~", "output"]
)
def test_memory_stays_bounded(name):
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError):
            ChatTemplate(TOO_MUCH[name]).render(USER)
        assert tracemalloc.get_traced_memory()[1] < 96 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ESCAPES)
def test_the_sandbox_has_no_way_out(name):
    with pytest.raises(TemplateError):
        ChatTemplate(ESCAPES[name]).render(USER)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n\n{% if %}", r"line 3"),
        ("\n{{ 1 / 0 }}", r"division by zero \(line 2\)"),
        ("{{ foo.bar }}", "'foo' is undefined"),
        ("\n{{ raise_exception('roles must alternate') }}", r"refused the messages: roles must alternate \(line 2\)"),
        ("{{ messages|nofilter }}", "nofilter"),
        ("{{ 'a' + 1 }}", "str"),
        ("{% for i in range(10**9) %}{% endfor %}", "1,000,000,000"),
    ],
)
def test_errors_say_what_and_where(source, message):
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(source).render(USER)


def test_the_longest_template_compiles_in_time():
    begin = time.perf_counter()
    ChatTemplate("{{ a }}" * (MAX_TEMPLATE_CHARS // 7)).render(USER)
    assert time.perf_counter() - begin < 8


def test_a_long_conversation_is_no_attack():
    source = (
        "{% set ns = namespace(all=[], text='') %}{% for m in messages %}{% set ns.all = ns.all + [m] %}"
        "{% set ns.text = m.content[:20] ~ (m.content|trim)[20:] %}"
        "<|im_start|>{{ m.role }}\n{{ ns.text }}<|im_end|>\n{% endfor %}"
    )
    messages = [{"role": "user", "content": "word " * 200}] * 400
    assert len(ChatTemplate(source).render(messages)) > 400_000


def test_what_templates_use_works():
    source = (
        "{{ [3, 1]|sort|tojson }}{{ {'b': 'é'}|tojson }}{{ 'a,b'.split(',')|join('-') }}{{ '%02d' % 5 }}"
        "{{ 'x'|indent(2, true) }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ (1, 2)[-1] }}"
        "{{ 2 ** 10 }}{{ 'ab'|upper|replace('A', 'c') }}{{ namespace(a=1).a }}{{ none }}{{ true }}"
        "{{ {'a': 1}.items()|list }}{{ [1, 2, 3]|batch(2)|list }}{{ missing|default('d') }}"
        "{% for k, v in {'a': 1}|dictsort %}{{ loop.index }}{{ k }}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
    )
    expected = '[1, 3]{"b": "é"}a-b05  x121024cB1NoneTrue[(\'a\', 1)][[1, 2], [3]]d1a'
    assert ChatTemplate(source).render(USER) == expected


def test_strftime_now_is_a_date():
    assert len(ChatTemplate("{{ strftime_now('%Y-%m-%d') }}").render(USER)) == 10
