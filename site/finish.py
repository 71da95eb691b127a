"""What is done to the pages once Sphinx has written them, so that they are light, quick to show, and fit for every reader.

Pictures become WebP files that are fetched when scrolled to, interactive figures scripts of their own; icons are drawn by the
page instead of by a script of 1.5 MB; the style sheets become one, without the rules that no page needs; what the theme's
templates say to a screen reader is put right. A Sphinx extension: conf.py names it.
"""

import base64
import hashlib
import io
import posixpath
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

from PIL import Image

OTHERS = ("plotly.min.js", "fontawesome.js")  # scripts that style what they make themselves
FIRST = 'fetchpriority="high"'
LATER = 'loading="lazy" decoding="async"'


# --- pictures


def webp(picture: bytes) -> tuple[bytes, int, int]:
    "A picture as WebP, with its width and height: exact, unless that takes a quarter more than nearly exact."
    image = Image.open(io.BytesIO(picture))
    image.load()
    opaque = image.mode in ("RGB", "L") or image.convert("RGBA").getchannel("A").getextrema()[0] == 255
    image = image.convert("RGB" if opaque else "RGBA")

    def encoded(**options) -> bytes:
        stream = io.BytesIO()
        image.save(stream, "WEBP", method=4, **options)
        return stream.getvalue()

    exact, near = encoded(lossless=True, quality=80), encoded(quality=90)
    return (exact if len(exact) < 1.25 * len(near) else near), *image.size


def convert(path: Path) -> tuple[str, int, int]:
    "Put a WebP in a PNG's place: its name, width, height."
    data, width, height = webp(path.read_bytes())
    path.with_suffix(".webp").write_bytes(data)
    path.unlink()
    return path.with_suffix(".webp").name, width, height


class Pictures:
    "The pictures of the site, by the name they had."

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        paths = sorted(folder.glob("*.png"))
        with ThreadPoolExecutor(2) as pool:
            self.made = {path.name: made for path, made in zip(paths, pool.map(convert, paths))}
        self.made |= {path.name: (path.name, *Image.open(path).size) for path in folder.glob("*.gif")}

    def embedded(self, kind: str, data: str) -> tuple[str, int, int]:
        "A picture that stood in the page itself, as base64."
        picture = base64.b64decode(data)
        path = self.folder / f"{hashlib.sha256(picture).hexdigest()}.{kind}"
        if path.name not in self.made:
            path.write_bytes(picture)
            self.made[path.name] = convert(path) if kind == "png" else (path.name, *Image.open(path).size)
        return self.made[path.name]

    def tag(self, found: re.Match, home: str, seen: list[str]) -> str:
        "An <img> with its size, so that nothing jumps when it comes; all but the page's first two are fetched when near."
        tag, source = found[0], re.search(r'\ssrc="([^"]*)"', found[0])
        if not source or "logo__image" in tag:
            return tag
        if match := re.match(r"data:image/(png|webp|jpeg|gif);base64,(.+)", source[1], re.S):
            name, width, height = self.embedded(*match.groups())
        elif posixpath.basename(source[1]) in self.made:
            name, width, height = self.made[posixpath.basename(source[1])]
        else:
            return tag
        tag = tag.replace(source[0], f' src="{home}_images/{name}"')
        tag = re.sub(r'\s(?:loading|decoding|width|height)="[^"]*"', "", tag)
        seen.append(name)
        return f'{tag.rstrip("/> ")} width="{width}" height="{height}" {FIRST if len(seen) < 3 else LATER}>'


# --- interactive figures


def take_figures_out(text: str, site: Path, home: str) -> str:
    "What plotly is to draw goes into scripts, fetched when scrolled to: unlike fetch(), a script loads from a folder too."

    def moved(found: re.Match) -> str:
        name = hashlib.sha256(found[3].encode()).hexdigest()[:20]
        (site / "_figures").mkdir(exist_ok=True)
        script = f'(window.bookFigures ??= {{}})["{name}"] = {found[3]};\n'
        (site / "_figures" / f"{name}.js").write_text(script, encoding="utf-8")
        return f'{found[1]} data-figure="{home}_figures/{name}.js">{found[2]}'

    pattern = r'(<div class="plotly-figure"[^>]*)>((?:(?!</div>).)*?)<script type="application/json">(.*?)</script>'
    return re.sub(pattern, moved, text, flags=re.S)


# --- icons


@cache
def shape(name: str, script: Path) -> tuple[str, str, str]:
    "Width, height and path of an icon."
    pattern = rf'[{{,]"?{name}"?:\[(\d+),(\d+),\[[^\]]*\],"\w+","([^"]+)"'
    return re.findall(pattern, script.read_text(encoding="utf-8"))[-1]  # solid ones stand last


def icons(text: str, script: Path) -> str:
    "Font Awesome's icons as drawings in the page."

    def drawn(found: re.Match) -> str:
        classes, rest = found[2].split(), found[3]
        names = [name[3:] for name in classes if name.startswith("fa-") and name not in ("fa-solid", "fa-lg", "fa-fw")]
        width, height, path = shape(names[0], script)
        kept = " ".join(["icon", *(name for name in classes if name not in ("fa", "fab", "fas", "fa-brands", "fa-solid"))])
        return f'<svg class="{kept}"{rest} aria-hidden="true" viewBox="0 0 {width} {height}"><path d="{path}"/></svg>'

    return re.sub(r'<(i|span) class="((?:[^"]* )?(?:fa|fab|fas|fa-solid|fa-brands) [^"]*)"([^>]*)></\1>', drawn, text)


# --- scripts


def scripts(text: str, searching: bool, options: str) -> str:
    "Nothing in the head holds the page up, and what only a search needs is fetched by the search page."
    text = re.sub(r'\s*<script[^>]*src="[^"]*fontawesome\.js[^"]*"></script>', "", text)
    text = re.sub(r'\s*<link rel="preload" as="script"[^>]*>', "", text)
    text = re.sub(r'<script src="[^"]*documentation_options\.js[^"]*"></script>', lambda _: f"<script>{options}</script>", text)
    needed = r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>'
    text = text if searching else re.sub(needed, "", text)
    return re.sub(r"<script (?![^>]*\b(?:defer|async)\b)([^>]*\bsrc=)", r"<script defer \1", text)


# --- what is said to those who cannot see the page, or have no mouse


def plain_code(text: str) -> str:
    "Spans around names, punctuation and blanks are half of a page's weight and have the colour of the rest."

    def lighter(block: re.Match) -> str:
        code = re.sub(r'<span class="(?:n|p|w)">([^<]*)</span>', r"\1", block[0])
        return re.sub(r'<span class="o">\.</span>', ".", code)

    return re.sub(r"<pre>.*?</pre>", lighter, text, flags=re.S)


DIALOGS = {"primary-sidebar-modal": "The book", "secondary-sidebar-modal": "This page", "search-dialog": "Search"}


def roles(text: str) -> str:
    "What the templates of Sphinx and of the theme get wrong."
    text = re.sub(r'(<summary) aria-label="Toggle hidden content"', r"\1", text)
    text = re.sub(r'<summary>(?=<span class="toctree-toggle)', '<summary aria-label="Pages below">', text)
    text = re.sub(r'(<button class="btn search-button-field[^>]*) aria-label="Search"', r"\1", text)
    text = re.sub(r'<div role="list" class="citation-list">', '<div class="citation-list">', text)
    text = re.sub(r'(<div class="citation"[^>]*) role="doc-biblioentry"', r"\1", text)
    text = text.replace('<div id="pst-primary-sidebar"', '<div id="pst-primary-sidebar" role="region" aria-label="The book"')
    for name, label in DIALOGS.items():
        text = text.replace(f'<dialog id="pst-{name}"', f'<dialog id="pst-{name}" aria-label="{label}"')
    text = re.sub(r'<button class="sidebar-toggle (primary|secondary)-toggle btn btn-sm" title="([^"]*)"', _toggle, text)
    return re.sub(r'<dt class="sig.*?</dt>', _signature, text, flags=re.S)


def _toggle(found: re.Match) -> str:
    label = "Contents of the book" if found[1] == "primary" else "Contents of this page"
    return f'<button class="sidebar-toggle {found[1]}-toggle btn btn-sm" title="{label}" aria-label="{label}"'


def _signature(found: re.Match) -> str:
    "A parameter a line, without the list of definitions that Sphinx puts inside a term."
    lines = re.sub(r"<dl>", '<span class="sig-lines">', found[0]).replace("</dl>", "</span>")
    return re.sub(r"<dd>", '<span class="sig-line">', lines).replace("</dd>", "</span>")


# --- style sheets


def blocks(css: str) -> list[tuple[str, str | None]]:
    "A style sheet as (selector or at-rule, what stands in its braces or None)."
    found, start, depth, head = [], 0, 0, ""
    for match in re.finditer(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|url\([^"')]*\)|[{};]""", css):
        if match[0] == "{":
            if depth == 0:
                head, start = css[start : match.start()].strip(), match.end()
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                found.append((head, css[start : match.start()].strip()))
                start = match.end()
        elif match[0] == ";" and depth == 0:
            found.append((css[start : match.start()].strip(), None))
            start = match.end()
    return found


def needed_rules(css: str, words: set[str]) -> str:
    "The rules that could hold for a page, or for what its scripts make of it."

    def possible(selector: str) -> bool:
        bare = selector
        while (shorter := re.sub(r":(?:not|is|where|has)\([^()]*\)", "", bare)) != bare:
            bare = shorter
        return all(name in words for name in re.findall(r"[.#](-?[A-Za-z_][\w-]*)", re.sub(r"\[[^\]]*\]|\\.", "", bare)))

    kept = []
    for head, body in blocks(css):
        if body is None:  # @charset
            continue
        if re.match(r"@(media|supports|layer|container)", head):
            inner = needed_rules(body, words)
            kept += [f"{head}{{{inner}}}"] if inner else []
        elif head.startswith("@"):
            kept.append(f"{head}{{{body}}}")
        else:
            selectors = [part for part in re.split(r",(?![^(]*\))", head) if possible(part)]
            kept += [f"{','.join(selectors)}{{{body}}}"] if selectors else []
    return "".join(kept)


def one_sheet(static: Path, names: list[str], words: set[str]) -> str:
    "The theme's style sheets and ours in one, in the order of the page."

    def read(name: str) -> str:
        folder = posixpath.dirname(name)
        css = re.sub(r"/\*.*?\*/", "", (static / name).read_text(encoding="utf-8"), flags=re.S)
        css = re.sub(r"@import [\"']([^\"']+)[\"'];", lambda found: read(posixpath.normpath(f"{folder}/{found[1]}")), css)

        def moved(found: re.Match) -> str:
            return f"url({found[1]}{posixpath.normpath(posixpath.join(folder, found[2]))}"

        return re.sub(r'url\((["\']?)(?!data:|#|/|\w+:)([^)"\']+)', moved, css)

    css = needed_rules("".join(map(read, names)), words)
    return re.sub(r"\s*\n\s*", " ", css).replace("} ", "}\n")


def sheets(pages: dict[Path, str], static: Path) -> None:
    "One style sheet for all pages, under a name that changes with it."
    link = re.compile(r'\s*<link(?=[^>]*rel="stylesheet")[^>]*href="[^"]*?_static/([^"?]+)[^"]*"[^>]*>')
    names = list(dict.fromkeys(name for text in pages.values() for name in link.findall(text)))
    marks = (re.findall(r'\b(?:class|id)="([^"]*)"', text) for text in pages.values())
    words = {word for found in marks for mark in found for word in mark.split()}
    code = [path for path in (*static.glob("*.js"), *static.glob("scripts/*.js")) if path.name not in OTHERS]
    words |= {word for path in code for word in re.findall(r"[A-Za-z_][\w-]*", path.read_text(encoding="utf-8"))}
    css = one_sheet(static, names, words)
    name = f"site.{hashlib.sha256(css.encode()).hexdigest()[:12]}.css"
    (static / name).write_text(css, encoding="utf-8")
    for page, text in pages.items():
        ours = f'<link rel="stylesheet" href="{home_of(text)}_static/{name}">'
        pages[page] = link.sub("", text).replace("</title>", f"</title>\n    {ours}", 1)


# --- all of it


def home_of(text: str) -> str:
    "How a page's links to the top of the site begin."
    return re.search(r'data-content_root="([^"]*)"', text)[1]


def finish_page(text: str, name: str, site: Path, pictures: Pictures) -> str:
    home = home_of(text)
    options = (site / "_static" / "documentation_options.js").read_text(encoding="utf-8").strip()
    text = take_figures_out(text, site, home)
    text = re.sub(r"<img\b[^>]*>", partial(pictures.tag, home=home, seen=[]), text)
    text = scripts(text, name == "search.html", options)
    return roles(plain_code(icons(text, site / "_static" / "scripts" / "fontawesome.js")))


def finish(app, error) -> None:
    if error is not None or app.builder.name != "html":
        return
    site = Path(app.outdir)
    pictures = Pictures(site / "_images")
    pages = {}
    for path in sorted(site.rglob("*.html")):
        text = path.read_text(encoding="utf-8")
        if "data-content_root" in text:
            pages[path] = finish_page(text, path.relative_to(site).as_posix(), site, pictures)
    sheets(pages, site / "_static")
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")


def setup(app) -> dict:
    app.connect("build-finished", finish, priority=900)  # the theme writes the colours of code at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
