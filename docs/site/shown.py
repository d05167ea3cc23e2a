"""What pages show without help from elsewhere: formulas as MathML, citations by their number.

Browsers draw MathML themselves, so no script and no font is loaded for a formula.
"""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

__all__ = ["setup"]

_LOGGER = logging.getLogger(__name__)
_CITATION = re.compile(r"(\[?)R[0-9a-f]{12}-(\w+)(\]?)")  # numpydoc makes labels unique like this


def _formula(self: Any, node: nodes.math | nodes.math_block, *, block: bool) -> str:
    try:
        return str(latex2mathml.tex2mathml(node.astext(), as_block=block))
    except (MathError, AttributeError) as error:  # AttributeError: its answer to some mistakes
        _LOGGER.warning("formula %r: %s", node.astext(), error, location=node)
        return f"<code>{self.encode(node.astext())}</code>"


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(_formula(self, node, block=False))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(_formula(self, node, block=True) + "</div>\n")
    raise nodes.SkipNode


def _shorten_citations(app: Sphinx, doctree: nodes.document, name: str) -> None:
    for text in list(doctree.findall(nodes.Text)):
        label = _CITATION.fullmatch(text.astext())
        if label:
            text.parent.replace(text, nodes.Text("".join(label.groups())))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer under the name `mathml`, and shorten citations."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("doctree-resolved", _shorten_citations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
