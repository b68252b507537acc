"""Templates in the manner of model families that take tools: their marks, in few words."""

from __future__ import annotations

HERMES = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}Answer in <tool_call>"
    "</tool_call>.<|im_end|>\n{% endif %}{% for m in messages %}"
    "<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'tool' %}<tool_response>{{ m.content }}</tool_response>{% else %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3_CODER = HERMES.replace(
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}',
    "<function={{ c.function.name }}>\n{% for k, v in c.function.arguments | items %}<parameter={{ k }}>\n"
    "{{ v if v is string else v | tojson }}\n</parameter>\n{% endfor %}</function>",
)
TEXT_ARGUMENTS = HERMES.replace("{{ c.function.arguments | tojson }}", "{{ c.function.arguments }}")
LLAMA3 = (
    "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}"
    "<|start_header_id|>"
    "{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>\n\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}{% endfor %}'
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% elif m.role == 'tool' %}"
    "{% if m.tool_call_id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
    "[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]{% else %}{{ m.content }}CALLS{% endif %}{% endfor %}"
)
MISTRAL = _MISTRAL.replace(
    "CALLS",
    '{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}{"name": "{{ c.function.name }}", "arguments": '
    '{{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    '{{ "" if loop.last else ", " }}{% endfor %}]{% endif %}</s>',
)
MISTRAL_ARGS = _MISTRAL.replace(
    "CALLS",
    "{% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}"
    "{% endfor %}</s>",
)
_GEMMA = (
    "{% for t in tools or [] %}declaration:{{ t.function.name }}{% endfor %}{% for m in messages %}TURN{{ m.role }}\n"
    "{{ m.content }}{% for c in m.tool_calls or [] %}OPENcall:{{ c.function.name ~ '{' }}"
    "{% for k, v in c.function.arguments | dictsort %}{{ k }}:{{ 'Q' ~ v ~ 'Q' if v is string else v | tojson }}"
    "{{ '' if loop.last else ',' }}{% endfor %}{{ '}' }}CLOSE{% endfor %}\n{% endfor %}"
)
FUNCTION_GEMMA = (
    _GEMMA.replace("OPEN", "<start_function_call>").replace("CLOSE", "<end_function_call>").replace("'Q'", "'<escape>'")
    .replace("TURN", "<start_of_turn>")
)  # fmt: skip
GEMMA4 = (
    _GEMMA.replace("OPEN", "<|tool_call>").replace("CLOSE", "<tool_call|>").replace("'Q'", "'<|\"|>'")
    .replace("TURN", "<|turn>")
)  # fmt: skip

TEMPLATES = {
    "hermes": HERMES,
    "qwen3_coder": QWEN3_CODER,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "mistral_args": MISTRAL_ARGS,
    "functiongemma": FUNCTION_GEMMA,
    "gemma4": GEMMA4,
}
