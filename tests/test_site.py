"""The pages: what they weigh and fetch, whether they fit four widths in light and dark, what screen readers and keyboards get."""

import json
import re
import sys
import threading
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from nvs_book import book

ROOT = Path(__file__).parent.parent
AXE = ROOT / "tests" / "vendor" / "axe-core" / "axe.min.js"
WIDTHS = (390, 768, 1300, 1600)
LIGHT, DARK = "light", "dark"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    "The site of the outputs that nbs/ holds: nothing is run."
    folder = tmp_path_factory.mktemp("site")
    assert book.make_book(root=ROOT, run=False, site=folder / "site", scratch=folder / "scratch") == 0
    return folder / "site"


@pytest.fixture(scope="session")
def address(site):
    "The site, served."

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def pages(site: Path) -> dict[str, str]:
    "Every page by its place, but for those that repeat the package's source."
    names = (path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html")))
    return {name: (site / name).read_text(encoding="utf-8") for name in names if not name.startswith("_static")}


# --- without a browser


class Marks(HTMLParser):
    "The tags of a page, with their attributes."

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def of(self, *names: str) -> list[dict]:
        return [attrs for tag, attrs in self.tags if tag in names]


def test_every_link_and_every_anchor_is_there(site):
    marks = {name: Marks(text) for name, text in pages(site).items()}

    @cache
    def anchors(name: str) -> set[str]:
        return {attrs[key] for _, attrs in marks[name].tags for key in ("id", "name") if key in attrs}

    lost = []
    for name, page in marks.items():
        used = [attrs.get(key) for _, attrs in page.tags for key in ("href", "src", "data-figure", "poster") if attrs.get(key)]
        for link in used:
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            place, anchor = urldefrag(link)
            target = (site / name).parent.joinpath(unquote(urlsplit(place).path)).resolve() if place else site / name
            there = target.is_file() and target.is_relative_to(site)
            page_in = target.relative_to(site).as_posix() if there and target.suffix == ".html" else None
            known = there and (not anchor or page_in is None or unquote(anchor) in anchors(page_in))
            if not known:
                lost.append((name, link))
    assert lost == []


def test_previous_and_next_lead_through_the_book_and_back(site):
    texts, name, way = pages(site), "index.html", ["index.html"]
    while following := re.search(r'class="right-next"\s+href="([^"]+)"', texts[name]):
        after = (site / name).parent.joinpath(following[1]).resolve().relative_to(site).as_posix()
        back = re.search(r'class="left-prev"\s+href="([^"]+)"', texts[after])
        assert (site / after).parent.joinpath(back[1]).resolve() == site / name
        name = after
        way.append(name)
        assert len(way) <= len(texts)
    chapters = [path.relative_to(ROOT / "nbs").with_suffix(".html").as_posix() for path in book.find_chapters(ROOT / "nbs")]
    assert [name for name in way if name in chapters] == chapters


def test_page_weighs_at_most_a_megabyte_and_a_half(site):
    "With its pictures, films and interactive figures; style sheet and scripts are shared by all pages and kept by the browser."
    heavy = {}
    for name, text in pages(site).items():
        tags, folder = Marks(text), (site / name).parent
        parts = {attrs.get("src") for attrs in tags.of("img", "video", "source")} | {a.get("data-figure") for a in tags.of("div")}
        files = {folder.joinpath(part).resolve() for part in parts if part and not part.startswith("data:")}
        weight = len(text.encode()) + sum(file.stat().st_size for file in files if "_static" not in file.parts)
        if weight > 1_500_000:
            heavy[name] = weight
    assert heavy == {}


def test_nothing_holds_up_the_first_paint(site):
    "One style sheet, which is small; scripts that do not wait for each other; the search index only where one searches."
    for name, text in pages(site).items():
        head = Marks(text[: text.index("</head>")])
        assert [a["src"] for a in head.of("script") if "src" in a and not {"defer", "async"} & a.keys()] == [], name
        sheets = [a["href"] for a in head.of("link") if a.get("rel") == "stylesheet"]
        assert len(sheets) == 1, name
        assert (site / name).parent.joinpath(sheets[0]).resolve().stat().st_size < 200_000
        sources = " ".join(a.get("src", "") for a in head.of("script"))
        assert "fontawesome" not in sources
        assert ("searchindex" in sources) == (name == "search.html"), name
        assert ("mathjax" in sources) <= ('class="math' in text), name


def test_pictures_have_a_text_a_size_and_come_when_needed(site):
    for name, text in pages(site).items():
        pictures = [a for a in Marks(text).of("img") if "logo__image" not in a.get("class", "")]
        for place, picture in enumerate(pictures):
            assert len(picture.get("alt", "").split()) >= 3, (name, picture)
            assert not re.search(r"\.(png|webp|svg|gif)\b|[0-9a-f]{20}", picture["alt"]), (name, picture)
            assert int(picture["width"]) > 0 and int(picture["height"]) > 0, (name, picture)
            assert not picture["src"].startswith("data:"), name
            assert place < 2 or picture.get("loading") == "lazy", (name, picture)
        for figure in re.findall(r'<div class="plotly-figure"[^>]*>', text):
            assert 'role="img"' in figure, name
            assert re.search(r'aria-label="[^"]+ [^"]+"', figure), name


def test_headings_rise_by_one(site):
    for name, text in pages(site).items():
        if "<article" not in text:  # the search
            continue
        levels = [int(level) for level in re.findall(r"<h([1-6])\b", text[text.index("<article") : text.index("</article")])]
        assert levels[:1] == [1], name
        assert levels.count(1) == 1, name
        assert [pair for pair in zip(levels, levels[1:]) if pair[1] > pair[0] + 1] == [], name


# --- what finish.py does


@pytest.fixture(scope="module")
def finish():
    sys.path.insert(0, str(ROOT / "site"))
    try:
        import finish
    finally:
        sys.path.remove(str(ROOT / "site"))
    return finish


def test_only_rules_that_cannot_hold_are_left_out(finish):
    css = """.a{x:1}.b{x:2} .a .b, .a>p{x:3}@media (min-width: 2px){.b{x:4}.a{x:"}"}}@font-face{x:url(a;b)}p:not(.b){x:5}
             @media print{.b{x:6}} [class*=".b"]{x:7} #b{x:8} .a:has(.c){x:9}"""
    kept = re.sub(r"\s+", " ", finish.needed_rules(css, {"a"})).strip()
    head = '.a{x:1} .a>p{x:3}@media (min-width: 2px){.a{x:"}"}}@font-face{x:url(a;b)}p:not(.b){x:5}'
    assert kept == head + '[class*=".b"]{x:7}.a:has(.c){x:9}'


def test_drawings_stay_exact_as_webp(finish):
    from io import BytesIO

    from PIL import Image, ImageDraw

    drawing = Image.new("RGBA", (200, 120), "white")
    ImageDraw.Draw(drawing).line([(0, 0), (199, 119)], fill="#d55e00")
    stream = BytesIO()
    drawing.save(stream, "PNG")
    made, width, height = finish.webp(stream.getvalue())
    assert (width, height) == (200, 120)
    assert len(made) < len(stream.getvalue())
    assert Image.open(BytesIO(made)).convert("RGB").tobytes() == drawing.convert("RGB").tobytes()
    assert finish.webp(stream.getvalue())[0] == made


def test_figures_that_were_in_the_page_are_scripts(finish, tmp_path):
    text = '<p>a</p><div class="plotly-figure" role="img"><img alt="b"><script type="application/json">{"x": "<\\/p>"}</script>'
    made = finish.take_figures_out(f"{text}</div>", tmp_path, "../")
    (script,) = (tmp_path / "_figures").iterdir()
    assert made == f'<p>a</p><div class="plotly-figure" role="img" data-figure="../_figures/{script.name}"><img alt="b"></div>'
    assert script.read_text() == f'(window.bookFigures ??= {{}})["{script.stem}"] = {{"x": "<\\/p>"}};\n'


# --- in a browser

WIDE = """const inside = e => { for (let p = e.parentElement; p; p = p.parentElement)
    if (getComputedStyle(p).overflowX != 'visible' && p != document.body) return true; return false; };
return [...document.querySelectorAll('.bd-article *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !inside(e))
    .map(e => e.tagName + '.' + e.className).concat(document.documentElement.scrollWidth > innerWidth ? ['the page'] : [])"""
FAULTS = """const [rules, beside, done] = arguments;
const options = {resultTypes: ['violations'], ...(rules ? {runOnly: {type: 'rule', values: rules}} : {})};
axe.run({exclude: beside}, options).then(r => done(
    r.violations.map(v => [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 120), v.nodes[0].failureSummary])),
    problem => done([String(problem)]))"""
DRAWN = [".highlight pre", "mjx-container"]  # colours of code have a test of their own
AROUND = ["#pst-primary-sidebar", ".bd-footer-content"]  # the same on every page
LOADED = """const all = selector => document.querySelectorAll(selector).length;
return document.readyState == 'complete' && 'settled' in document.documentElement.dataset
    && (!all('script[src*=mathjax]') || all('.math') == all('.math mjx-container'))"""
FRAMES = "const [done] = arguments; requestAnimationFrame(() => requestAnimationFrame(done))"


class Reader:
    "Somebody at the browser."

    def __init__(self, browser, home: str):
        self.browser, self.home, self.ask = browser, home, browser.execute_script
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        browser.set_script_timeout(120)

    def command(self, name: str, **values):
        return self.browser.execute_cdp_cmd(name, values)

    def wait(self, condition: str, seconds: float = 30):
        from selenium.webdriver.support.ui import WebDriverWait

        script = condition if re.match(r"const |return ", condition) else f"return {condition}"
        WebDriverWait(self.browser, seconds, 0.05).until(lambda _: self.ask(script), condition)

    def open(self, page: str, width: int = 1300, theme: str | None = None):
        self.width(width)
        self.browser.get(f"{self.home}/{page}")
        self.wait(LOADED)
        if theme:
            self.ask("document.documentElement.dataset.theme = arguments[0]", theme)

    def width(self, width: int):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.browser.execute_async_script(FRAMES)

    def faults(self, *rules: str, beside: list[str] = DRAWN) -> list:
        "What axe finds: impact, rule, how often, where, why."
        if not self.ask("return !!window.axe"):
            self.ask(AXE.read_text(encoding="utf-8"))
        return self.browser.execute_async_script(FAULTS, list(rules) or None, [[selector] for selector in beside])

    def press(self, *keys: str):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser, duration=0).send_keys(*keys).perform()

    def press_with_control(self, key: str):
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.browser, duration=0).key_down(Keys.CONTROL).send_keys(key).key_up(Keys.CONTROL).perform()

    def fetched(self) -> list[str]:
        "What was asked for since the last call."
        events = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "blob:", "chrome:"))]

    def complaints(self) -> list[str]:
        "What the console said since the last call."
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def reader(chromium, address) -> Reader:
    chromium.get("about:blank")
    made = Reader(chromium, address)
    made.fetched(), made.complaints()
    return made


@pytest.fixture
def folder_reader(chromium, site) -> Reader:
    "The same, of the files themselves: a page opened by a double click."
    chromium.get("about:blank")
    made = Reader(chromium, site.as_uri())
    made.fetched(), made.complaints()
    return made


def shown(site: Path) -> list[str]:
    "Pages to open; of those that list source code, or tests, one."
    listing = re.compile(r"(_modules/nvs_book|tests)/(?!checks|test_checks)")
    return [name for name in pages(site) if not listing.match(name)]


def test_pages_hold_their_width_and_accessibility_rules(reader, site):
    "Nothing is wider than the window, axe finds no fault in light or dark, nothing is fetched from elsewhere."
    wide, faults, unset = {}, {}, {}
    for name in shown(site):
        reader.open(name, theme=LIGHT)
        for width in WIDTHS:
            reader.width(width)
            if found := reader.ask(WIDE):
                wide[name, width] = found
        reader.width(1300)
        reader.wait(LOADED)
        for theme, rules in ((LIGHT, ()), (DARK, ("color-contrast",))):
            reader.ask("document.documentElement.dataset.theme = arguments[0]", theme)
            if found := reader.faults(*rules, beside=DRAWN if name == "index.html" else DRAWN + AROUND):
                faults[name, theme] = found
        if errors := reader.ask("return document.querySelectorAll('[data-mjx-error]').length"):
            unset[name] = errors
    assert wide == {}
    assert faults == {}
    assert unset == {}
    assert [url for url in reader.fetched() if not url.startswith(reader.home)] == []
    assert reader.complaints() == []


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_code_can_be_read_in_every_colour_it_has(reader, site, theme):
    text = "".join(pages(site).values())
    code = "".join(re.findall(r"<pre>.*?</pre>", text, re.S))
    kinds = sorted(set(re.findall(r'<span class="(\w+)">', code)))
    sample = "".join(f'<span class="{kind}">{kind}</span> ' for kind in kinds)
    reader.open("index.html", theme=theme)
    reader.ask(f"document.querySelector('article').innerHTML = '<div class=\"highlight\"><pre>{sample}</pre></div>'")
    assert reader.faults("color-contrast", beside=["mjx-container"]) == []


KINDS = ("index.html", "foundations/01_cameras.html", "foundations/04_viewers.html", "methods/10_synsin.html", "api/cameras.html",
         "bibliography.html", "search.html")  # fmt: skip


@pytest.mark.parametrize("width", [390, 1300])
def test_pages_work_as_files_in_a_folder(folder_reader, width):
    "Formulas are set and figures drawn, with no server and no network."
    reader = folder_reader
    for name in KINDS:
        reader.open(name, width)
        if reader.ask("return !!document.querySelector('.plotly-figure')"):
            reader.ask("document.querySelector('.plotly-figure').scrollIntoView()")
            reader.wait("!!document.querySelector('.plotly-figure[data-drawn] .main-svg')", 60)
    assert [url for url in reader.fetched() if not url.startswith(reader.home)] == []
    assert reader.complaints() == []


def test_interactive_figures_follow_the_theme_and_the_arrow_keys(reader):
    from selenium.webdriver.common.keys import Keys

    reader.open("foundations/04_viewers.html", theme=LIGHT)
    reader.ask("document.querySelector('.plotly-figure').scrollIntoView()")
    reader.wait("!!document.querySelector('.plotly-figure[data-drawn] .main-svg')", 60)
    paper = "document.querySelector('.plotly-figure')._fullLayout.paper_bgcolor"
    reader.wait(f"{paper} == 'white'")
    reader.ask("document.documentElement.dataset.theme = 'dark'")
    reader.wait(f"!['white', '#fff'].includes({paper})")
    eye = "return Object.values(document.querySelector('.plotly-figure')._fullLayout.scene.camera.eye)"
    before = reader.ask(eye)
    reader.ask("document.querySelector('.plotly-figure').focus()")
    reader.press(Keys.ARROW_LEFT, Keys.ARROW_UP)
    reader.wait(f"JSON.stringify((() => {{ {eye} }})()) != '{json.dumps(before, separators=(',', ':'))}'")
    after = reader.ask(eye)
    assert sum(x * x for x in after) == pytest.approx(sum(x * x for x in before), rel=1e-3)  # turned, not moved away


WORDS = {"splat": "synsin", "pose": "cameras", "psnr": "metrics"}


@pytest.mark.parametrize("where", ["reader", "folder_reader"])
def test_search_finds(request, where):
    reader = request.getfixturevalue(where)
    for word, chapter in WORDS.items():
        reader.open(f"search.html?q={word}")
        reader.wait("document.querySelectorAll('#search-results li a').length > 2")
        first = reader.ask("return [...document.querySelectorAll('#search-results li a')].slice(0, 5).map(a => a.href)")
        assert [link for link in first if chapter in link], (word, first)
    assert [url for url in reader.fetched() if not url.startswith(reader.home)] == []
    assert reader.complaints() == []


def test_keyboard_reaches_search_theme_contents_and_article(reader):
    from selenium.webdriver.common.keys import Keys

    reader.open("methods/10_synsin.html")
    active, seen = "const e = document.activeElement; return ", []
    reader.press(Keys.TAB)
    assert reader.ask(active + "e.textContent.trim()") == "Skip to main content"
    assert reader.ask(active + "e.getBoundingClientRect().top >= 0 && e.getBoundingClientRect().height > 10")
    for _ in range(120):
        reader.press(Keys.TAB)
        name = "(e.getAttribute('aria-label') || e.title || e.dataset.bsOriginalTitle || e.textContent).trim()"
        seen.append(reader.ask(active + name))
        outline = reader.ask(active + "getComputedStyle(e).outlineStyle + ' ' + getComputedStyle(e).boxShadow")
        assert not outline.startswith("none none"), seen[-1]
        if seen[-1] == "Color mode":
            break
    for wanted in ("Search", "01 · Cameras", "Bibliography", "Contents of the book", "Source repository", "Color mode"):
        assert any(wanted in name for name in seen), (wanted, seen)
    reader.press(Keys.ENTER)
    reader.wait("!!document.querySelector('.theme-switch-container .dropdown-menu.show')")
    reader.wait("document.activeElement.classList.contains('dropdown-item')")
    reader.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)
    reader.wait("document.documentElement.dataset.theme == 'dark' && document.documentElement.dataset.mode == 'dark'")
    reader.ask("localStorage.clear()")


def test_keyboard_searches_and_opens_solutions(reader):
    from selenium.webdriver.common.keys import Keys

    reader.open("methods/10_synsin.html")
    folds = "[...document.querySelectorAll('#exercises details')]"
    assert reader.ask(f"return {folds}.length") >= 3
    assert reader.ask(f"return {folds}.every(d => !d.open)")
    assert "Show the solution" in reader.ask(f"return {folds}[0].querySelector('summary').innerText")
    reader.ask(f"{folds}[0].querySelector('summary').focus()")
    reader.press(Keys.ENTER)
    reader.wait(f"{folds}[0].open")
    reader.press(Keys.TAB)
    assert reader.ask("return document.activeElement.classList.contains('copybtn') || document.activeElement.tagName == 'PRE'")
    reader.press_with_control("k")
    reader.wait("document.getElementById('pst-search-dialog').open")
    reader.press("splat", Keys.ENTER)
    reader.wait("location.pathname.endsWith('search.html')")
    reader.wait("document.querySelectorAll('#search-results li a').length > 2")


def test_keyboard_moves_the_divider_of_the_front_page(reader):
    from selenium.webdriver.common.keys import Keys

    reader.open("index.html", 390)
    reader.ask("document.querySelector('figure.compare input').focus()")
    split = "document.querySelector('figure.compare').style.getPropertyValue('--split')"
    assert reader.ask(f"return {split}") == "50%"
    reader.press(*[Keys.ARROW_RIGHT] * 5)
    reader.wait(f"{split} == '55%'")
    boxes = "[...document.querySelectorAll('figure.compare > :is(img, input)')].map(e => e.getBoundingClientRect().height)"
    made, real, slider = reader.ask(f"return {boxes}")
    assert made == real == pytest.approx(slider, abs=1)
