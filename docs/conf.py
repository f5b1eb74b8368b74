"""How `make docs` builds the site: README, docs/, results/*.md and the docstrings of the library's face."""

from pathlib import Path

from docutils.nodes import document
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent

project = "localsl"
copyright = "the localsl authors"
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "results/*.md"]
exclude_patterns = [".*", "outputs", "data", "build", "site", "results/runs"]  # not looked into

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
myst_ref_domains = ["std"]
default_role = "literal"  # docstrings are Markdown: `name` is code
highlight_language = "text"
autodoc_typehints = "none"
napoleon_use_ivar = True

html_theme = "furo"  # brings its own styles, scripts and icons: pages ask nothing of the network
html_title = "localsl"
html_copy_source = False
html_show_sphinx = False

SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:")


def mark_code_blocks(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Make the indented blocks of a Markdown docstring code blocks of reStructuredText."""
    found, heading = [], ""
    for line in lines:
        if line and not line.startswith(" "):
            heading = line
        starts = line.startswith("    ") and found and not found[-1]
        if starts and heading not in SECTIONS and not heading.endswith("::"):
            found += ["::", ""]
            heading = "::"
        found.append(line)
    lines[:] = found


def unlink_folders(app: Sphinx, doctree: document) -> None:
    """Leave the text of links to folders of the repository, which have no page here."""
    here = ROOT / Path(app.env.docname).parent
    for link in list(doctree.findall(pending_xref)):
        if link.get("reftype") == "myst" and (here / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def redirect_to_index(app: Sphinx, error: Exception | None) -> None:
    """Let the site's own address lead to its first page."""
    page = '<!doctype html><meta http-equiv="refresh" content="0; url=docs/index.html">\n'
    (Path(app.outdir) / "index.html").write_text(page)


def setup(app: Sphinx) -> None:
    """Connect the above; the priority is before napoleon's."""
    app.connect("autodoc-process-docstring", mark_code_blocks, priority=400)
    app.connect("doctree-read", unlink_folders)
    app.connect("build-finished", redirect_to_index)
