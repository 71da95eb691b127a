"""The run of the whole book: every chapter at tiny, the table, the site; and what happens where a chapter fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import torch

from nvs_book import book

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "One run of the whole book, as `make book` does it, into a folder of its own."
    folder = tmp_path_factory.mktemp("book")
    code = book.make_book(root=ROOT, site=folder / "site", scratch=folder / "scratch")
    return code, folder


@pytest.mark.slow
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


@pytest.mark.slow
def test_search_knows_titles_and_names(built):
    text = (built[1] / "site" / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    titles = {re.sub(r"^\d\d · ", "", title.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) for title in index["alltitles"]}
    chapters = [path for path in book.find_chapters(ROOT / "nbs") if path.parent.name != "exercises"]
    assert {book.read_run(path).title.replace("`", "") for path in chapters} <= titles
    names = {entry[4] for entries in index["objects"].values() for entry in entries}
    assert {"look_at", "psnr", "splat", "plot_scene", "Camera"} <= names


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


def test_printed_pieces_are_joined(tmp_path):
    code = "import time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.3)"
    pieces = notebook(tmp_path / "10_pieces.ipynb", code)
    (output,) = book.keep(book.run_notebook(pieces, timeout=20)).cells[1].outputs
    assert output.text == "0\n1\n2\n"


@pytest.mark.parametrize(
    ("last", "about"),
    [
        ("import time\nprint('{\"device\": \"x\"', flush=True)\ntime.sleep(0.3)\nprint('}')", {"device": "x"}),
        ("import sys\nprint('{\"device\": \"x\"}', flush=True)\nprint('a warning', file=sys.stderr)", {"device": "x"}),
        ("print('a thread talks\\n{}')", {}),
    ],
)
def test_what_a_kernel_says_of_itself_may_come_in_pieces_or_not_at_all(tmp_path, monkeypatch, last, about):
    monkeypatch.setattr(book, "LAST_CELL", last)
    run = book.run_notebook(notebook(tmp_path / "10_said.ipynb", "x = 1"), timeout=60)
    assert run.error is None and run.about.get("device") == about.get("device")


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
        ({"readme": True, "chapters": ["10"]}, "readme=True only writes README.md"),
        ({"readme": True, "save": True}, "readme=True only writes README.md"),
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


LOCKED = "import sys, time\nfrom pathlib import Path\nfrom nvs_book.book import only_writer\n"
LOCKED += "with only_writer(Path(sys.argv[1])):\n    print('has it', flush=True)\n    time.sleep(60)"


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
@pytest.mark.parametrize("folder", ["site", "scratch"])
def test_two_runs_never_write_one_folder(small, tmp_path_factory, monkeypatch, folder):
    monkeypatch.setattr(book, "run_book", lambda *_: pytest.fail("ran"))
    shared = tmp_path_factory.mktemp("shared") / "pages"
    other = subprocess.Popen([sys.executable, "-c", LOCKED, shared], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "has it\n"
        with pytest.raises(BlockingIOError) as problem:
            book.make_book(["10"], root=small, **{"site": False, folder: shared})
    finally:
        other.kill()  # it cannot tidy up any more
        other.wait()
    assert str(problem.value).startswith(f"another run is writing {shared} (pid {other.pid}); ")
    assert [path.name for path in shared.parent.iterdir()] == [".pages.lock"]
    with book.only_writer(shared, None):  # what the dead process left does not count
        pass
    assert list(shared.parent.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_a_lock_that_was_removed_before_it_was_got_is_none(tmp_path, monkeypatch):
    import fcntl

    def got_too_late(file, flags):
        (tmp_path / ".pages.lock").unlink()  # by the run that had it; a third one may make it anew

    monkeypatch.setattr(fcntl, "flock", got_too_late)
    with pytest.raises(BlockingIOError, match="another run is writing"), book.only_writer(tmp_path / "pages"):
        pytest.fail("it is not ours")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
@pytest.mark.parametrize("folder", ["site", "scratch"])
def test_folder_that_cannot_be_written_is_found_before_any_work(small, monkeypatch, folder):
    monkeypatch.setattr(book, "run_book", lambda *_: pytest.fail("ran"))
    with pytest.raises(OSError, match="cannot write here") as problem:
        book.make_book(["10"], root=small, **{"site": False, folder: Path("/proc/pages")})
    assert problem.value.filename == "/proc/pages"


def test_sphinx_that_breaks_off_is_one_line_and_a_log(small, capsys):
    notebook(small / "nbs" / "index.ipynb", "x = 1")
    (small / "site").mkdir()
    (small / "site" / "conf.py").write_text("extensions = ['no_such_extension']")
    (small / "_site").mkdir()
    (small / "_site" / "index.html").write_text("the pages of before")
    assert book.make_book(root=small, run=False) == 1
    said, log = capsys.readouterr().err, small / "_build" / "book" / "sphinx.log"
    assert re.fullmatch(rf"error: the site was not built: .*no_such_extension.* \(log: {re.escape(str(log))}\)\n", said)
    assert "no_such_extension" in log.read_text()
    assert (small / "_site" / "index.html").read_text() == "the pages of before"


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
    assert book.page_cell(cell("#| student\nprogress()"), "H") == []
    stub, solved = book.page_cell(cell("def f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION"), "H")
    assert "NotImplementedError" in stub.source
    assert "return 1" not in stub.source
    assert stub.metadata.get("tags", []) == []
    assert solved.source == "def f():\n    return 1\n"
    assert solved.metadata["tags"] == ["hide-input"]
    assert solved.metadata["mystnb"]["code_prompt_show"] == "Show the solution"
    assert book.page_cell(cell("#| hide_input\nx"), "H")[0].metadata["tags"] == ["remove-input"]
    drawn = book.page_cell(cell("#| fig-cap: A *ring*\nplot()", **{"image/png": "aGk="}), "H")[0]
    assert drawn.metadata["mystnb"] == {"image": {"alt": "A ring"}, "figure": {"caption": "A *ring*"}}
    assert drawn.source == "plot()"
    badge, shown = book.page_cell(cell("#| gpu\ntrain()"), "H")
    assert "needs a GPU" in badge.source
    assert shown.source == "train()"


def test_page_output_makes_figures_lazy_and_widgets_still():
    figure = {"data": [{"type": "scatter", "x": [1], "text": "</script>"}], "layout": {"height": 300}}
    output = nbformat.v4.new_output("display_data", {book.PLOTLY: figure, "text/html": "<script>5 MB</script>"})
    made = book.page_output(output, 'A "ring"')
    assert list(made.data) == ["text/html"]
    assert "height:300px" in made.data["text/html"]
    assert 'role="img" aria-label="A &quot;ring&quot;"' in made.data["text/html"]
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is long. The curve shows how it *falls* with $n$.\n\n$$a = b$$", "H: The curve shows how it falls with n."),
        ("Old.\n\nA sum, by its [definition](a.ipynb) [@key]. And more.", "H: A sum, by its definition ."),
        ("## Only a heading", "Figure to: H"),
        ("", "Figure to: H"),
    ],
)
def test_alternative_text_is_the_sentence_above_that_speaks_of_the_picture(text, expected):
    assert book.alternative(text, "H") == expected


def test_equations_get_anchors_and_are_linked():
    pages = book.Pages(Path("/clone"), {})
    assert pages.prose("[@a, eq. 1]", Path("/clone/nbs"), ["1"]) == "{cite:p}`a{eq. 1}`"  # the paper's own
    text = pages.prose("By eq. 1 and eqs. 2 and 7, `eq. 1`:\n\n$$a = b \\tag{1}$$\n", Path("/clone/nbs"), ["1", "2"])
    assert '<a class="eq-ref" href="#eq-1">eq. 1</a> and <a class="eq-ref" href="#eq-2">eqs. 2</a> and 7, `eq. 1`' in text
    assert re.search(r'\n\n<div class="anchor" id="eq-1"></div>\n\n\$\$a', text)


def test_page_links_cells_equations_and_tests(small):
    (small / "lib").mkdir()
    source = '#| export\ndef double(x):\n    "Twice (eq. 1)."\n    return 2 * x\n\n\ndef _own(x):\n    return x'
    path = notebook(
        small / "nbs" / "methods" / "13_equal.ipynb", "#| default_exp twice", source, "assert double(1) == 2  # eq. 1"
    )
    stored = nbformat.read(path, 4)
    stored.cells.insert(1, nbformat.v4.new_markdown_cell("$$y = 2x \\tag{1}$$", id="formula"))
    nbformat.write(stored, path)
    (small / "lib" / "twice.py").write_text(source)
    (small / "tests").mkdir()
    test = '"Twice."\nfrom lib.twice import double\n\n\ndef test_it():\n    assert double(2) == 4\n'
    (small / "tests" / "test_twice.py").write_text(test)
    (small / "settings.ini").write_text("[DEFAULT]\nlib_path = lib\n")
    run = book.read_run(path)
    pages = book.read_pages(small, [run])
    page = "\n".join(cell.source for cell in book.page_notebook(run, pages).cells)
    assert '<div class="anchor" id="cell-step-2"></div>\n' in page
    assert '<a href="../api/twice.html#lib.twice.double"><code>double</code></a>' in page
    assert '| <a href="#eq-1">(1)</a> |' in page
    assert '<a href="#cell-step-3">a check</a>' in page
    assert '<a href="../tests/test_twice.html#test_it">it</a>' in page
    assert "_own" not in page.replace(source.split("\n", 1)[1], "")
    entry = book.reference_page(run, "methods/13_equal", pages)
    assert ".. autofunction:: lib.twice.double" in entry
    made = '<a href="../methods/13_equal.html#cell-step-2">13 · A title</a>'
    assert f'{made}. Tested by <a href="../tests/test_twice.html#test_it">' in entry
    assert '<div class="anchor" id="test_it"></div>' in book.tests_page(small / "tests" / "test_twice.py")


def test_cards_know_what_comes_before(small):
    notebook(small / "nbs" / "foundations" / "01_first.ipynb", "#| default_exp first")
    follows = "#| export\nfrom nvs_book.first import y"
    notebook(small / "nbs" / "foundations" / "02_next.ipynb", "#| default_exp next\nfrom nvs_book.late import x", follows)
    late = "#| export\nfrom nvs_book.next import z\n"
    notebook(small / "nbs" / "methods" / "12_late.ipynb", "#| default_exp late", late, "a = 1\n" * 400)
    shown = book.chapter_cards(small / "nbs")._repr_mimebundle_()
    facts = {fact["number"]: fact for fact in shown[book.CHAPTERS]}
    assert facts["01"]["needs"] == []
    assert facts["02"]["needs"] == ["01"]  # what a check imports from later chapters does not count
    assert facts["12"]["needs"] == ["02"]
    assert facts["12"]["minutes"] == 15
    facts["01"]["summary"] = "It *adds* to `x`."
    card = book.page_output(nbformat.v4.new_output("display_data", shown)).data["text/html"]
    assert "<span>It adds to x.</span>" in card
    said = "<b>12 · A title</b><span>It adds.</span><i>15 min to read · needs 02 A title</i>"
    assert f'<a href="methods/12_late.html">{said}</a>' in card
    assert "(methods/12_late.ipynb)" in shown["text/markdown"]
    assert "runs in" not in card  # nobody ran it


def test_divider_has_a_control_with_a_name_and_a_still_picture():
    import matplotlib.pyplot as plt

    image = torch.rand(3, 8, 10)
    shown = book.divider(image, image.flip(2), ("made", "the real one"), plt.figure())._repr_mimebundle_()
    assert shown["image/png"].startswith("iVBOR")
    text = book.page_output(nbformat.v4.new_output("display_data", shown)).data["text/html"]
    assert re.search(r'<input type="range" [^>]*aria-label="[^"]*made[^"]*the real one"', text)
    assert text.count('width="10" height="8" src="data:image/webp;base64,') == 2


# --- results


def test_results_page_has_only_what_was_measured(small):
    weights = small / "lib" / "weights"
    weights.mkdir(parents=True)
    (small / "lib" / "__init__.py").touch()
    record = {"scale": "small", "seed": 3, "device": "cpu (x)", "commit": "c" * 40, "seconds": 61.4, "metrics": {"loss": 0.25}}
    (weights / "net_3.json").write_text(json.dumps({**record, "config": {"steps": 2500}}))
    assert book.make_book(["10"], root=small, site=False, save=False, scale="small") == 0
    run = book.read_run(small / "_build" / "book" / "executed" / "methods" / "10_good.ipynb")
    run.path = small / "nbs" / "methods" / "10_good.ipynb"
    page = book.results_page([run, book.read_run(small / "nbs" / "methods" / "11_bad.ipynb")], small)
    assert "| [10 · A title](methods/10_good.ipynb) | small | **0.500 px** error | 3.25 px guessing |" in page
    assert "11" not in page.split("## Trained weights")[0]
    assert "| `net_3` | small | 3 | 2,500 | loss 0.25 | 61 | cpu (x) | `cccccccccc` |" in page
    columns = page.split("## Trained weights")[1].splitlines()[4]
    assert "memory" not in columns
    assert "torch" not in columns


def test_numbers_of_other_scales_are_kept(small):
    (small / "README.md").write_text("{}\n{}\n".format(*book.README_MARKS))
    for scale in ("small", "tiny"):
        assert book.make_book(["10"], root=small, site=False, save=True, scale=scale) == 0
    run = book.read_run(small / "nbs" / "methods" / "10_good.ipynb")
    assert run.about["scale"] == "tiny"
    assert list(run.about["other_scales"]) == ["small"]
    page = book.results_page([run], small)
    assert [line.split(" | ")[1] for line in page.splitlines() if "methods/10_good" in line] == ["tiny", "small"]
    assert book.make_book(["10"], root=small, site=False, save=True, scale="tiny") == 0
    assert list(book.read_run(run.path).about["other_scales"]) == ["small"]


# --- twice


def contents_of(site: Path) -> dict[str, bytes]:
    dates = re.compile(rb"\b\d{4}-\d\d-\d\d\b|\b[A-Z][a-z]+ \d{1,2}, \d{4}\b")
    files = (path for path in sorted(site.rglob("*")) if path.is_file())
    return {path.relative_to(site).as_posix(): dates.sub(b"DATE", path.read_bytes()) for path in files}


@pytest.mark.slow
def test_site_built_twice_is_equal(tmp_path):
    "In two copies of the clone, in two folders, with other hash seeds, at other times."
    clones, sites = [tmp_path / "one", tmp_path / "other-place"], []
    for clone in clones:
        clone.mkdir()
        for name in ("nbs", "nvs_book", "site", "tests", "benchmarks", "settings.ini", "references.bib", "README.md"):
            skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.npz")
            shutil.copytree(ROOT / name, clone / name, ignore=skip) if (ROOT / name).is_dir() else shutil.copy(ROOT / name, clone)
    for seed, clone in enumerate(clones, 1):
        order = "import sys; from nvs_book.book import make_book; sys.exit(make_book(run=False))"
        command, env = [sys.executable, "-c", order], {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        sites.append(contents_of(clone / "_site"))
    first, second = sites
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []
    assert not [name for name in first if str(tmp_path).encode() in first[name]]
