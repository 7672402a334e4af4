"""HTML of a report: every string from outside passes through `escape`."""

from __future__ import annotations

from html import escape

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: #fff; color: #1a1a1a;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: #174a85; }
nav ul { columns: 15rem; padding-left: 1.2rem; margin: .8rem 0; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; white-space: nowrap; }
th { white-space: normal; max-width: 6.5rem; line-height: 1.25;
  border-bottom: 1px solid #888; font-weight: 600; vertical-align: bottom; }
td { border-bottom: 1px solid #e4e4e4; }
th.text, td.text { text-align: left; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr));
  gap: 1rem; }
figure { margin: 0; break-inside: avoid; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .875rem; overflow-wrap: anywhere; }
pre { font-size: .8rem; line-height: 1.4; background: #f6f6f6; padding: .7rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  .table { overflow: visible; }
  table { font-size: 8pt; }
  .figures { grid-template-columns: repeat(2, 1fr); }
}
"""

# the page asks for nothing: no script, no network, whatever a label may hold
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(title: str, head: str, sections: list[tuple[str, str]]) -> str:
    """A page with a table of contents.

    Parameters
    ----------
    title : str
        Plain text.
    head : str
        HTML below the title.
    sections : list of (str, str)
        Plain title and HTML of each.
    """
    names = [(f"section-{number}", name) for number, (name, _) in enumerate(sections, 1)]
    contents = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name in names)
    body = "".join(
        f'<section><h2 id="{key}">{escape(name)}</h2>\n{html}</section>\n'
        for (key, name), (_, html) in zip(names, sections, strict=True)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{head}<nav><ul>{contents}</ul></nav>\n{body}</body>\n</html>\n"
    )


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>\n"


def heading(text: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(text)}</h3>\n"


def preformatted(text: str) -> str:
    """Text with its line breaks."""
    return f"<pre>{escape(text)}</pre>\n"


def figures(items: list[tuple[str, str]]) -> str:
    """Figures side by side as the width allows: SVG and plain caption of each."""
    inside = "".join(
        f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>\n"
        for svg, caption in items
    )
    return f'<div class="figures">\n{inside}</div>\n' if items else ""


def table(columns: list[str], rows: list[list], text: int = 1) -> str:
    """A table of plain cells.

    Parameters
    ----------
    columns : list of str
    rows : list of list
        None is shown as a dash, a float with four digits.
    text : int
        Columns from the left that hold text.
    """
    shares = ['<th class="text">' if k < text else "<th>" for k in range(len(columns))]
    head = "".join(f"{tag}{escape(name)}</th>" for tag, name in zip(shares, columns, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f"{'<td class=text>' if k < text else '<td>'}{escape(_shown(cell))}</td>"
            for k, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>\n" if any(columns) else ""
    return f'<div class="table"><table>{head}<tbody>{body}</tbody></table></div>\n'


def _shown(cell) -> str:
    if cell is None:
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
