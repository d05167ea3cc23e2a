"""Prompt templates by name: the two that the papers' code was published with."""

from collections.abc import Mapping
from typing import Any

__all__ = ["CHAT_TEMPLATES", "PLAIN_TEMPLATES", "arguments_problem", "template_problem"]

# What `apply_chat_template` itself takes.
_TAKEN = {
    *("messages", "conversation", "tools", "documents", "chat_template", "tokenize", "padding"),
    *("add_generation_prompt", "continue_final_message", "truncation", "max_length"),
    *("return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
    *("sanitize_control_tokens", "strftime_now"),
}


PLAIN_TEMPLATES = {
    # uclaml/SPIN, spin/generate.py; T-SPIN samples and trains with the same.
    "spin-official": "### Instruction: {prompt}\n\n### Response: ",
    "tspin": "### Instruction: {prompt}\n\n### Response: ",
}
CHAT_TEMPLATES = {
    # uclaml/SPIN, spin/alignment/data.py, with which its models were trained: a chat without a
    # system turn gets an empty one, a turn ends with the tokenizer's end of text, and nothing
    # stands before the first.
    "zephyr": (
        "{% if messages[0]['role'] != 'system' %}"
        "{{ '<|system|>\\n' + eos_token + '\\n' }}"
        "{% endif %}"
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    ),
}


def template_problem(template: str | None) -> str:
    """Say what is wrong with a `template:` key.

    Parameters
    ----------
    template : str or None
        A name, a text with one ``{prompt}``, or None for the tokenizer's chat template.

    Returns
    -------
    str
        Empty if nothing is.

    Examples
    --------
    >>> template_problem("zephyr"), template_problem("Q: {prompt} A: "), template_problem(None)
    ('', '', '')
    >>> template_problem("alpaca")
    'template must be spin-official, tspin, zephyr or text that contains {prompt} exactly once'
    """
    names = {**PLAIN_TEMPLATES, **CHAT_TEMPLATES}
    if template is None or template in names or template.count("{prompt}") == 1:
        return ""
    return f"template must be {', '.join(names)} or text that contains {{prompt}} exactly once"


def arguments_problem(template: str | None, arguments: Mapping[str, Any]) -> str:
    """Say what is wrong with a `template_arguments:` key.

    Parameters
    ----------
    template : str or None
        As for `template_problem`.
    arguments : mapping
        Names and values that the chat template is given.

    Returns
    -------
    str
        Empty if nothing is.

    Examples
    --------
    >>> arguments_problem(None, {"enable_thinking": False})
    ''
    >>> arguments_problem("tspin", {"enable_thinking": False})
    'template_arguments belong to a chat template, and template is a text: remove one of the two'
    """
    if taken := sorted(_TAKEN & arguments.keys()):
        return f"template_arguments: {taken[0]} is set by the run; remove it"
    if arguments and template is not None and template not in CHAT_TEMPLATES:
        return (
            "template_arguments belong to a chat template, and template is a text: "
            "remove one of the two"
        )
    return ""
