"""Sphinx's configuration for the book. `nvs-book book` writes what Sphinx reads, and calls it."""

import re
import shutil
import sys
from configparser import ConfigParser
from pathlib import Path

import plotly
from docutils import nodes
from fastcore.docments import docments

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))  # finish.py
parser = ConfigParser(delimiters=["="])
parser.read(ROOT / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]

project = html_title = settings["title"]
author, version = settings["author"], settings["version"]
copyright = settings["copyright"]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "finish",
]
exclude_patterns = ["**.partial"]

# Notebooks come with their outputs.
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_ipywidgets_js: dict = {}
nb_code_prompt_show = "Show the {type}"
nb_code_prompt_hide = "Hide the {type}"
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = [str(ROOT / "references.bib")]
bibtex_reference_style = "author_year"

# The reference reads signatures and the comments behind parameters (docments) out of the code.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 90
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

# Nothing is fetched from elsewhere: mathematics is vendored, plotly.js comes from the installed wheel, once for all pages.
mathjax_path = "mathjax/tex-svg-full.js"
mathjax_options = {"async": "async", "fetchpriority": "low"}  # nothing waits for it
mathjax3_config = {"options": {"enableMenu": False}}  # its menu would make each formula a stop of the Tab key
html_theme = "sphinx_book_theme"
html_static_path = ["static", "vendor"]
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]
html_favicon = "static/favicon.svg"
html_logo = "static/logo.svg"
html_copy_source = False
html_scaled_image_link = False
html_domain_indices = False  # of modules: the reference lists them
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "repository_url": settings["git_url"],
    "use_repository_button": True,
    "search_bar_text": "Search the book",
    "show_navbar_depth": 1,
    "primary_sidebar_end": [],
}


def literal(text: str) -> str:
    "A docstring as reStructuredText: code stays code, mathematics stays mathematics, and nothing else is markup."
    parts = re.split(r"(`[^`\n]+`|\$[^$\n]+\$)", text)
    for index, part in enumerate(parts):
        if index % 2 == 0:
            parts[index] = re.sub(r"([*|_\\])", r"\\\1", part)
        else:
            parts[index] = f"``{part[1:-1]}``" if part[0] == "`" else f":math:`{part[1:-1]}`"
    return "".join(parts)


def parameters(obj: object) -> list[str]:
    "The comments behind a function's parameters as a field list."
    try:
        comments = docments(obj, full=True, returns=True)
    except (TypeError, ValueError, OSError, AttributeError, SyntaxError):
        return []
    said = {name: about["docment"] for name, about in comments.items() if about.get("docment")}
    found = {name: literal(str(text)).replace("\n", " ") for name, text in said.items()}
    result = found.pop("return", None)
    fields = [f":param {name}: {text}" for name, text in found.items() if name != "self"]
    return fields + ([f":returns: {result}"] if result else [])


def complete_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = [literal(line) for line in lines]
    if what in ("function", "method", "class"):
        lines += ["", *parameters(obj), ""]


def quiet_signature(app, what, name, obj, options, signature, returns):
    "Addresses of objects would make each build differ; the names of modules would bury the shapes."
    noise = re.compile(r" at 0x[0-9a-f]+|\b(?:torch|jaxtyping|typing|pathlib|collections\.abc)\.(?=[A-Z])")
    return tuple(noise.sub("", text) if text else text for text in (signature, returns))


def leave_display_math(app, doctree) -> None:
    "Sphinx puts what has a line break into `split`, where a tag is an error; MathJax needs no such help."
    for node in doctree.findall(nodes.math_block):
        if not node.get("nowrap") and not node.get("no-wrap"):
            node[:] = [nodes.Text(f"\\[{node.astext()}\\]")]
            node["nowrap"] = node["no-wrap"] = True


def add_plotly(app, error) -> None:
    if error is None:
        shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", Path(app.outdir) / "_static")


def setup(app) -> None:
    app.connect("autodoc-process-docstring", complete_docstring)
    app.connect("autodoc-process-signature", quiet_signature)
    app.connect("doctree-read", leave_display_math)
    app.connect("build-finished", add_plotly)
