"""Pages made of templates: self-contained HTML in which every text stays text."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from spin_train.printable import segments

__all__ = ["fill"]

_FOLDER = Path(__file__).parent / "assets"


def fill(template: str, *, script: str = "", **values: Any) -> str:
    """Fill a template in; it gets `styles`, and `script` with the hash that lets it run."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["segments"] = segments
    code = (_FOLDER / script).read_text("utf-8") if script else ""
    return environment.get_template(template).render(
        styles=(_FOLDER / "report.css").read_text("utf-8"),
        script=code,
        script_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        **values,
    )
