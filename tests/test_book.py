"""The run of the whole book: every chapter at tiny, the table, the site; and what happens where a chapter fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest
import torch
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from nvs_book import book

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "One run of the whole book, as `make book` does it, into a folder of its own."
    folder = tmp_path_factory.mktemp("book")
    code = book.make_book(root=ROOT, site=folder / "site", scratch=folder / "scratch")
    return code, folder


@pytest.mark.slow
@pytest.mark.xdist_group("book")  # one worker, so that the book runs once
def test_every_chapter_runs_and_has_a_headline(built):
    code, folder = built
    runs = [book.read_run(path) for path in book.find_chapters(folder / "scratch" / "executed")]
    assert [run.name for run in runs] == [path.stem for path in book.find_chapters(ROOT / "nbs")]
    silent = [run.name for run in runs if not run.headlines and run.path.parent.name != "exercises"]
    assert silent == ["00_checks"]
    outputs = [(run.name, output) for run in runs for cell in run.notebook.cells for output in cell.get("outputs", [])]
    assert [(name, output.evalue) for name, output in outputs if output.output_type == "error"] == []
    assert code == 0


class External(HTMLParser):
    "What a browser fetches while it loads the page, from elsewhere."

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        fetching = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
        attrs = dict(attrs)
        address = attrs.get("href" if tag == "link" else fetching.get(tag, ""), "") or ""
        if tag == "link" and attrs.get("rel") not in ("stylesheet", "preload", "icon", "shortcut icon", "modulepreload"):
            return
        if re.match(r"(https?:)?//", address):
            self.found.append(address)


@pytest.mark.slow
@pytest.mark.xdist_group("book")  # one worker, so that the book runs once
def test_site_is_whole_and_fetches_nothing_from_elsewhere(built):
    site = built[1] / "site"
    chapters = [path.relative_to(ROOT / "nbs").with_suffix(".html") for path in book.find_chapters(ROOT / "nbs")]
    assert [str(page) for page in ["index.html", "bibliography.html", *chapters] if not (site / page).is_file()] == []
    for module in (path.stem for path in (ROOT / "nvs_book").glob("[a-z]*.py")):
        assert (site / "api" / f"{module}.html").is_file()
    for page in site.rglob("*.html"):
        parser = External()
        parser.feed(page.read_text(encoding="utf-8"))
        assert parser.found == [], page
    for sheet in site.rglob("*.css"):
        imports = re.findall(r"@import[^;]*https?:[^;]*|url\(['\"]?https?:[^)]*", sheet.read_text(encoding="utf-8"))
        assert imports == [], sheet
    assert (site / "_static" / "plotly.min.js").stat().st_size > 1e6
    assert (site / "_static" / "mathjax" / "tex-svg-full.js").is_file()


@pytest.mark.slow
@pytest.mark.xdist_group("book")  # one worker, so that the book runs once
def test_pages_hide_what_is_hidden_and_resolve_what_is_cited(built):
    site = built[1] / "site"
    for page in site.glob("*/[0-9]*.html"):
        text = page.read_text(encoding="utf-8")
        article = text[text.index("<article") : text.index("</article")]
        plain = re.sub(r"<[^>]+>", "", article)
        assert not re.search(r"^#\| ?(export|hide|default_exp)", plain, re.M), page.name
        assert "[@" not in re.sub(r"<code.*?</code>|<pre.*?</pre>", "", article, flags=re.S), page.name
    cameras = (site / "foundations" / "01_cameras.html").read_text(encoding="utf-8")
    assert re.search(r'href="\.\./api/cameras\.html#nvs_book\.cameras\.Camera"', cameras)


# --- in a browser


@pytest.fixture
def browser():
    "Chromium without a window; the test is skipped where there is none."
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-background-networking", "disable-component-update", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def address(built):
    "The built site, served."

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(built[1] / "site"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def requested(browser) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("data:", "blob:", "chrome:"))]


WIDE = """const inside = e => { for (let p = e.parentElement; p; p = p.parentElement)
    if (getComputedStyle(p).overflowX != 'visible' && p != document.body) return true; return false; };
return [...document.querySelectorAll('.bd-article *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !inside(e))
    .map(e => e.tagName + '.' + e.className)"""


@pytest.mark.slow
@pytest.mark.xdist_group("book")
@pytest.mark.parametrize("width", [390, 1300])
def test_pages_in_a_browser(browser, address, width):
    "Nothing is fetched from elsewhere, nothing is wider than the window, formulas are set, 3D figures drawn when scrolled to."
    ask, size = browser.execute_script, {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}

    def wait(condition):
        WebDriverWait(browser, 60).until(lambda _: ask(f"return {condition}"))

    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for page in ("index", "foundations/01_cameras", "foundations/04_viewers", "methods/10_synsin", "api/cameras"):
        browser.get(f"{address}/{page}.html")
        wait("document.readyState == 'complete'")
        wait("!document.querySelector('.math') || !!document.querySelector('mjx-container')")
        assert ask(WIDE) == [], page
        assert ask("return document.querySelectorAll('[data-mjx-error]').length") == 0, page
        assert ask("return [...document.querySelectorAll('.cell_output img')].filter(i => !i.alt).length") == 0, page
        if ask("return !!document.querySelector('.plotly-figure')"):
            ask("document.querySelector('.plotly-figure').scrollIntoView()")
            wait("!!document.querySelector('.plotly-figure[data-drawn] .main-svg')")
    assert [url for url in requested(browser) if not url.startswith(address)] == []
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


# --- a small book that fails

SHOW = """from IPython.display import display
display({"application/vnd.nvs-book.headline+json": dict(chapter="10_good", label="error", value=0.5, unit="px", baseline=3.25,
         baseline_label="guessing", higher_is_better=False), "text/plain": "error 0.5 px"}, raw=True)"""


def notebook(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_markdown_cell("# A title\n\nIt adds. And no more."), *map(nbformat.v4.new_code_cell, sources)]
    for number, cell in enumerate(cells):
        cell["id"] = f"step-{number}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def small(tmp_path) -> Path:
    settings = (ROOT / "settings.ini").read_text().replace("lib_path = nvs_book", "lib_path = nothing")
    (tmp_path / "settings.ini").write_text(settings)
    notebook(tmp_path / "nbs" / "methods" / "10_good.ipynb", "x = 1", SHOW, "#| gpu\nraise RuntimeError('not here')")
    bad = ("x = 2", "print('seen')", "assert x == 3, f'x is {x}'", "print('never')")
    notebook(tmp_path / "nbs" / "methods" / "11_bad.ipynb", *bad)
    notebook(tmp_path / "nbs" / "workbench" / "90_later.ipynb", "import os; print(os.environ['NVS_BOOK_SCALE'])")
    return tmp_path


def test_failing_chapter_is_named_and_does_not_stop_the_others(small, capsys, monkeypatch):
    monkeypatch.delenv("NVS_BOOK_SCALE", raising=False)
    code = book.make_book(root=small, site=False, jobs=2)
    table = capsys.readouterr().out
    assert code == 1
    assert re.search(r"10_good +error 0\.500 px +guessing 3\.25 px +\d", table)
    assert re.search(r"11_bad +FAILED cell 3 \(step-3\): AssertionError: x is 2", table)
    executed = {path.stem: book.read_run(path) for path in book.find_chapters(small / "_build" / "book" / "executed")}
    assert list(executed) == ["10_good", "11_bad", "90_later"]
    assert executed["90_later"].notebook.cells[1].outputs[0].text == "tiny\n"
    assert executed["11_bad"].notebook.cells[4].outputs == []


def test_cell_that_takes_too_long_is_named(tmp_path):
    slow = notebook(tmp_path / "10_slow.ipynb", "import time; time.sleep(60)")
    assert book.run_notebook(slow, timeout=1).error == "cell 1 (step-1): ran past 1 s"


def test_check_that_is_not_passed_fails_the_chapter(tmp_path):
    record = {"name": "synsin.2", "passed": False, "message": "the mean\nwas expected"}
    bundle = {"application/vnd.nvs-book.check+json": record, "text/plain": "no"}
    missed = notebook(tmp_path / "10_missed.ipynb", f"from IPython.display import display\ndisplay({bundle!r}, raw=True)")
    assert book.run_notebook(missed, timeout=20).error == "check synsin.2: the mean was expected"
    right = {"application/vnd.nvs-book.check+json": {**record, "passed": True}, "text/plain": "yes"}
    put = "from IPython.display import display\n"
    both = notebook(tmp_path / "10_both.ipynb", f"{put}display({bundle!r}, raw=True)", f"{put}display({right!r}, raw=True)")
    assert book.run_notebook(both, timeout=20).error is None  # a wrong answer shown before the right one


def test_kernel_that_dies_is_named(tmp_path):
    dead = notebook(tmp_path / "10_dead.ipynb", "import os; os._exit(1)")
    assert book.run_notebook(dead, timeout=20).error.startswith("cell 1 (step-1): DeadKernelError")


def test_cells_not_for_this_machine_keep_their_outputs(tmp_path):
    cells = ("x = 1\nprint(x)", "#| gpu\nprint('on a GPU')", "#| eval: false\nraise ValueError")
    path = notebook(tmp_path / "10_gpu.ipynb", *cells)
    stored = nbformat.read(path, 4)
    stored.cells[2].outputs = [nbformat.v4.new_output("stream", text="on a GPU, once\n")]
    nbformat.write(stored, path)
    run = book.run_notebook(path, timeout=20)
    assert run.error is None
    printed = [cell.outputs[0].text if cell.outputs else None for cell in run.notebook.cells[1:]]
    assert printed == ["1\n", "on a GPU, once\n", None]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"root": "."}, "no settings.ini beside an nbs/ folder"),
        ({"chapters": ["42"]}, "no chapter begins with 42; there are 10_good, 11_bad, 90_later"),
        ({"chapters": ["10"], "run": False}, "run=False writes the site of all stored outputs"),
        ({"readme": True}, "README.md"),
        ({"scale": "huge"}, "scale"),
        ({"device": "tpu"}, "device: expected cpu, cuda, cuda:1 or mps, got 'tpu'"),
        ({"device": "cuda:99"}, "has no cuda:99"),
        ({"jobs": 0}, "jobs"),
        ({"timeout": 0}, "timeout"),
        ({"site": "FULL"}, "holds something else than an older site"),
        ({"site": "FILE"}, "is a file"),
    ],
)
def test_wrong_use_is_one_line_before_any_work(small, tmp_path_factory, monkeypatch, order, message):
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "thesis.txt").write_text("three years of work")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(book, "run_book", lambda *_: pytest.fail("ran"))
    order = {"root": small, **order, "site": {"FULL": folder, "FILE": folder / "thesis.txt"}.get(order.get("site"), True)}
    with pytest.raises((ValueError, OSError)) as problem:
        book.make_book(**order)
    said = str(problem.value)
    assert message in said
    assert "\n" not in said
    assert (folder / "thesis.txt").read_text() == "three years of work"


def test_interrupted_run_ends_its_kernels_at_once(small):
    tell = "pathlib.Path('pid').write_text(str(os.getpid()))"
    notebook(small / "nbs" / "methods" / "12_long.ipynb", "import os, pathlib, time", tell, "time.sleep(600)")
    order = f"from nvs_book.book import make_book; make_book(['12'], root={str(small)!r}, site=False)"
    program = subprocess.Popen([sys.executable, "-c", order], stderr=subprocess.PIPE, text=True, start_new_session=True)
    seen = small / "nbs" / "methods" / "pid"
    until = time.monotonic() + 60
    while not (seen.exists() and seen.read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    kernel = int(seen.read_text())
    program.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in program.communicate(timeout=30)[1]
    with pytest.raises(ProcessLookupError):
        os.kill(kernel, 0)


def test_scale_and_device_reach_the_kernel_and_the_record(small):
    say = "import os; print(os.environ['NVS_BOOK_SCALE'], os.environ['NVS_BOOK_DEVICE'], os.environ['CUDA_VISIBLE_DEVICES'])"
    notebook(small / "nbs" / "methods" / "12_says.ipynb", say, "import torch")
    assert book.make_book(["12"], root=small, site=False, scale="small", device="cpu") == 0
    run = book.read_run(small / "_build" / "book" / "executed" / "methods" / "12_says.ipynb")
    assert run.notebook.cells[1].outputs[0].text == "small cpu \n"
    assert {"scale": "small", "torch": torch.__version__}.items() <= run.about.items()
    assert run.about["device"].startswith("cpu (")
    assert run.about["commit"]
    if sys.platform == "linux":
        assert 5e7 < run.about["peak_memory_bytes"] < 1e10


def test_saving_keeps_what_lasts(small):
    (small / "README.md").write_text("# Small\n{}\n{}\nend\n".format(*book.README_MARKS))
    widget = """from IPython.display import display
display({"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "image/png": "aGk=", "text/plain": "Scrub"}, raw=True)"""
    progress = "import sys; _ = sys.stderr.write('\\r50%')"
    path = notebook(small / "nbs" / "methods" / "12_widget.ipynb", widget, progress)
    assert book.make_book(["12", "10"], root=small, site=False, save=True) == 0
    saved = nbformat.read(path, 4)
    assert set(saved.cells[1].outputs[0].data) == {"image/png", "text/plain"}
    assert saved.cells[2].outputs == []
    assert saved.metadata["nvs_book"]["scale"] == "tiny"
    row = "| [10 · A title](nbs/methods/10_good.ipynb)<br>It adds. | **0.500 px** error | 3.25 px guessing |"
    assert row in (small / "README.md").read_text()
    assert book.readme_text(small) == (small / "README.md").read_text()


def test_saving_never_overwrites_an_edit(small, capsys):
    path = small / "nbs" / "methods" / "10_good.ipynb"
    run = book.run_notebook(path, timeout=20)
    (small / "README.md").write_text("{}\n{}\n".format(*book.README_MARKS))
    edited = notebook(path, "x = 3  # newer").read_text()
    book.store_outputs([run], small)
    assert path.read_text() == edited
    assert "10_good.ipynb was edited while it ran" in capsys.readouterr().err


# --- from notebook to page


def test_directives_stand_at_the_head_of_a_cell():
    assert book.directives("#| export\n\n#|eval: false\nx = 1\n#| hide") == ({"export": "", "eval": "false"}, "x = 1\n#| hide")
    assert book.directives("x = 1") == ({}, "x = 1")
    assert book.directives("") == ({}, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see [@a2020b] there", "see {cite:p}`a2020b` there"),
        ("[@a; @b]", "{cite:p}`a,b`"),
        ("[@a;\n@b, ch.\n2]", "{cite:p}`a,b{ch. 2}`"),
        ("~~~python\nx = [@a]\n~~~\n[@b]", "~~~python\nx = [@a]\n~~~\n{cite:p}`b`"),
        ("`[@a]` [@b]", "`[@a]` {cite:p}`b`"),
        ("[@a, ch. 6; @b.c, fig. 2, left]", "{cite:p}`a{ch. 6},b.c{fig. 2, left}`"),
        ("`look_at(eye, target)`", "{py:obj}`look_at(eye, target) <lib.cameras.look_at>`"),
        ("`unknown` and {math}`look_at`", "`unknown` and {math}`look_at`"),
        ("[`look_at`](https://example.org)", "[`look_at`](https://example.org)"),
        ("# about `look_at`", "# about `look_at`"),
        ("```\n[@a] `look_at`\n```", "```\n[@a] `look_at`\n```"),
        ("[x](../../README.md#top)", "[x](https://host/blob/main/README.md#top)"),
        ("[x](../other/11_b.ipynb)", "[x](../other/11_b.ipynb)"),
        ("[x](#here) [y](mailto:a@b.c)", "[x](#here) [y](mailto:a@b.c)"),
    ],
)
def test_prose(text, expected):
    pages = book.Pages(Path("/clone"), {"look_at": "lib.cameras.look_at"}, "https://host")
    assert pages.prose(text, Path("/clone/nbs/methods")) == expected


def test_page_cell_hides_folds_and_describes():
    def cell(source, **data):
        outputs = [nbformat.v4.new_output("display_data", data)] if data else []
        return nbformat.v4.new_code_cell(source, outputs=outputs, id="c")

    assert book.page_cell(cell("#| hide\nx = 1"), "H") == []
    assert book.page_cell(cell("#| default_exp name"), "H") == []
    assert book.page_cell(cell("import math\n\nfrom torch import nn"), "H")[0].metadata["tags"] == ["hide-input"]
    solved = book.page_cell(cell("def f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION"), "H")[0]
    assert solved.metadata["tags"] == ["hide-input"]
    assert book.page_cell(cell("#| hide_input\nx"), "H")[0].metadata["tags"] == ["remove-input"]
    drawn = book.page_cell(cell("#| fig-cap: A *ring*\nplot()", **{"image/png": "aGk="}), "H")[0]
    assert drawn.metadata["mystnb"] == {"image": {"alt": "A ring"}, "figure": {"caption": "A *ring*"}}
    assert drawn.source == "plot()"
    badge, shown = book.page_cell(cell("#| gpu\ntrain()"), "H")
    assert "needs a GPU" in badge.source
    assert shown.source == "train()"


def test_page_output_makes_figures_lazy_and_widgets_still():
    figure = {"data": [{"type": "scatter", "x": [1], "text": "</script>"}], "layout": {"height": 300}}
    made = book.page_output(nbformat.v4.new_output("display_data", {book.PLOTLY: figure, "text/html": "<script>5 MB</script>"}))
    assert list(made.data) == ["text/html"]
    assert "height:300px" in made.data["text/html"]
    assert made.data["text/html"].count("</script>") == 1
    still = book.page_output(nbformat.v4.new_output("display_data", {book.WIDGET: {}, "image/png": "aGk="}))
    assert "JupyterLab" in still.data["text/html"]
    assert "base64,aGk=" in still.data["text/html"]


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(27.003, "dB", "27.0 dB"), (1.1444e-5, "px", "1.14e-05 px"), (4817.2, "kB", "4,817 kB"), (12.0, "", "12")],
)
def test_quantity(value, unit, expected):
    assert book.quantity(value, unit) == expected
