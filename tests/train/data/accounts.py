"""Rows, and what prepare makes of them: texts, weights and the summary."""

import json

from spin_train.config.sections import DataConfig
from spin_train.data.records import read_records
from spin_train.data.rendering import Renderer
from spin_train.stages.prepare import Limits, prepare_rows
from tests.train.tokenizers import CHATML, byte_level

REASONING = CHATML.replace(
    "{{ m.content }}", "{% if m.thinking %}({{ m.thinking }}){% endif %}{{ m.content }}"
).replace("m.thinking", "m.reasoning_content")
TOOLS = ("{% if tools %}{{ tools | tojson }}\n{% endif %}" + CHATML).replace(
    "{{ m.content }}", "{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls }}{% endif %}"
)
TOKENIZERS = {
    template: byte_level(chat_template=template) for template in (CHATML, REASONING, TOOLS)
}


def user(text="q"):
    return {"role": "user", "content": text}


def answer(text="ANSWER", **fields):
    return {"role": "assistant", "content": text, **fields}


def chat(*turns, **fields):
    return {"messages": [*turns], **fields}


OTHER = chat(user("another"), answer("and another"))


def prepared(folder, rows, *, template=CHATML, pairs=False, **changes):
    """Texts of prompt and responses of the rows but `OTHER`, and the summary."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, OTHER, OTHER]))
    tokenizer = TOKENIZERS.get(template) or byte_level(chat_template=template)
    files = [folder / "data" / f"{name}.parquet" for name in ("train", "held_out")]
    summary = prepare_rows(
        DataConfig(path=str(path), held_out=1, **changes),
        Renderer(tokenizer, template if "{prompt}" in template else None),
        Limits(4096, 4, 300),
        train=files[0],
        held_out=files[1],
        seed=0,
        pairs=pairs,
    )
    texts = [
        (tokenizer.decode(r.prompt_ids), *(tokenizer.decode(p.ids) for p in r.responses), r.weight)
        for r in read_records(*files)
    ]
    return [text for text in texts if "another" not in text[0]], summary
