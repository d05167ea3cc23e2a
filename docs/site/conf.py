"""Configuration of Sphinx. Everything is strict, and nothing comes from the network."""

import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]

project = "Self-play fine-tuning"
author = "the contributors"
release = version = _PROJECT["version"]
root_doc = "index"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_copybutton",
    "docs.site.shown",
]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 6  # links to headings, as forges make them
myst_links_external_new_tab = False
suppress_warnings = ["myst.header", "config.cache"]  # pages of notebooks begin where cells begin

nitpicky = True
# Names of other packages have no page here, and no inventory is fetched.
nitpick_ignore_regex = [("py:.*", r"(?!spin_theory|spin_train).*")]
autodoc_typehints = "none"  # the sections of the docstrings say it with shapes and units
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "set"}  # matplotlib writes it for each subclass
numpydoc_show_class_members = False
numpydoc_validation_checks: set[str] = set()  # `make lint` checks them

html_theme = "furo"
html_title = "Self-play fine-tuning"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
pygments_style = "friendly"
pygments_dark_style = "github-dark"
