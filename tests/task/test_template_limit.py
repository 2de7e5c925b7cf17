"""Chat templates that do not end are found in a process of their own."""

from __future__ import annotations

import pytest

from gepa_loop.errors import ModelError
from gepa_loop.task.template_limit import check_template_ends

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "template",
    [
        LOOP,
        "{% generation %}" + LOOP + "{% endgeneration %}",
        "{% if messages[1] and messages[1].role == 'assistant' %}" + LOOP + "{% endif %}",
        "{% if not add_generation_prompt %}" + LOOP + "{% endif %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_templates_without_an_end(template: str) -> None:
    with pytest.raises(ModelError, match=r"model\.name = 'm': its chat template did not end in 2 seconds"):
        check_template_ends("m", template, 2.0)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * 10 ** 10 }}", "takes more than 2 GB"),
        ("{{ 'a' * 10 ** 7 }}", "makes 10,000,000 characters"),
    ],
)
def test_templates_that_make_too_much(template: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        check_template_ends("m", template)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}",
        "{{ raise_exception('only tools') }}",
        "{% generation %}x{% endgeneration %}{{ strftime_now('%Y') }}{{ messages | tojson }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% broken",
        "{{ nothing.of.this }}",
    ],
)
def test_other_templates_are_left_to_the_renderer(template: str) -> None:
    check_template_ends("m", template)
