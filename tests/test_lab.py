"""The student's way in a real browser: `nvs-book lab`, a chapter run, a slider moved, an exercise answered, wrongly at first."""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("jupyterlab", reason="needs jupyterlab: pip install 'nvs_book[book]'")
pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'nvs_book[dev]'")
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHAPTER = "foundations/01_cameras.ipynb"
SHOTS = os.environ.get("NVS_BOOK_SCREENSHOTS")  # a folder to keep pictures of each step in

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "Address and folder of a student's copy in JupyterLab, as `nvs-book lab` opens it."
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("course") / "mine"
    places = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "RUNTIME", "DATA")}
    places |= {f"JUPYTERLAB_{name}_DIR": str(home / name) for name in ("SETTINGS", "WORKSPACES")}
    news = home / "SETTINGS" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # the first start's question
    command = [sys.executable, "-m", "nvs_book.cli", "lab", folder, "--no-browser", "--", "--LabApp.expose_app_in_browser=True"]
    log = home / "lab.log"
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=home,
                                  env={**os.environ, **places, "IPYTHONDIR": str(home / "ipython")})
    try:
        for _ in range(600):
            if found := re.search(r"http://\S+?/lab\S*\?token=\w+", log.read_text()):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            pytest.fail(f"no address within a minute:\n{log.read_text()}")
        yield found[0], folder
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def browser(chromium):
    chromium.set_window_size(1300, 900)
    chromium.set_script_timeout(300)  # running a chapter is one call
    return chromium


class Notebook:
    "A notebook open in the browser's JupyterLab."

    PANEL = "const panel = window.jupyterapp.shell.currentWidget, cells = panel.content.widgets; "

    def __init__(self, browser, address: str, path: str):
        self.browser, self.name = browser, Path(path).stem
        place = urlsplit(address)
        browser.get(f"{place.scheme}://{place.netloc}/lab/tree/{path}?reset&{place.query}")
        self.wait("!!window.jupyterapp && !!document.querySelector('.jp-Notebook .jp-CodeCell')", 120)
        self.idle()

    def ask(self, script: str, *arguments):
        return self.browser.execute_script(self.PANEL + script, *arguments)

    def wait(self, condition: str, seconds: float = 60, *arguments):
        waiting = WebDriverWait(self.browser, seconds)
        waiting.until(lambda _: self.browser.execute_script(f"return {condition}", *arguments), condition)

    def command(self, name: str, **arguments):
        script = "const [name, options, done] = arguments; window.jupyterapp.commands.execute(name, options).then(() => done())"
        self.browser.execute_async_script(script, name, arguments)

    def idle(self, seconds: float = 120):
        "Wait until the kernel has nothing to do."
        waiting = WebDriverWait(self.browser, seconds)
        waiting.until(lambda _: self.ask("return panel.sessionContext?.session?.kernel?.status") == "idle")

    def find(self, text: str) -> int:
        "The first cell whose source holds a text."
        index = self.ask("return cells.findIndex(cell => cell.model.sharedModel.getSource().includes(arguments[0]))", text)
        assert index >= 0, f"no cell holds {text!r}"
        return index

    def show(self, index: int):
        "Bring a cell into the window."
        self.ask("panel.content.activeCellIndex = arguments[0]; panel.content.scrollToItem(arguments[0], 'center')", index)
        self.wait("!!document.querySelector('.jp-Notebook .jp-mod-active')")
        time.sleep(0.5)  # the lab scrolls softly

    def run(self, index: int, source: str | None = None) -> str:
        "Write a cell, run it as Shift-Enter does, and read what it says."
        self.show(index)
        if source is not None:
            self.ask("cells[arguments[0]].model.sharedModel.setSource(arguments[1])", index, source)
        self.command("notebook:run-cell")
        self.idle()
        self.show(index)
        return self.output(index)

    def output(self, index: int) -> str:
        return self.ask("return cells[arguments[0]].outputArea?.node.innerText ?? ''", index)

    def errors(self) -> list[str]:
        "Tracebacks anywhere in the notebook."
        return self.ask("""return cells.flatMap(cell => cell.model.type == 'code' ? cell.model.outputs.toJSON() : [])
            .filter(output => output.output_type == 'error').map(output => output.ename + ': ' + output.evalue)""")

    def shot(self, step: str):
        if SHOTS:
            self.browser.save_screenshot(str(Path(SHOTS) / f"{step}.png"))


def status(address: str) -> int:
    try:
        return urllib.request.urlopen(address, timeout=10).status
    except urllib.error.HTTPError as refused:
        return refused.code


def test_lab_is_on_loopback_and_wants_its_token(lab):
    address = urlsplit(lab[0])
    assert address.hostname in ("127.0.0.1", "localhost") and len(address.query.removeprefix("token=")) >= 32
    assert status(f"{address.scheme}://{address.netloc}/api/contents") == 403
    assert status(f"{address.scheme}://{address.netloc}/api/contents?{address.query}") == 200


@pytest.fixture(scope="module")
def chapter(lab, browser) -> Notebook:
    "A chapter of the student's copy, run from top to bottom."
    opened = Notebook(browser, lab[0], CHAPTER)
    opened.command("notebook:run-all-cells")
    opened.idle(240)
    return opened


def test_chapter_runs_with_its_stubs_empty(chapter):
    assert chapter.errors() == []
    chapter.shot("chapter")


def test_slider_moves_the_figure(chapter):
    index = chapter.find("scrub(")
    chapter.show(index)
    cell = "window.jupyterapp.shell.currentWidget.content.widgets[arguments[0]]"
    image = f"{cell}.node.querySelector('.widget-image, .jupyter-widgets img')?.src"
    chapter.wait(image, 60, index)
    before = chapter.browser.execute_script(f"return {image}", index)
    chapter.shot("slider-before")
    handle = chapter.ask("return cells[arguments[0]].node.querySelector('.noUi-handle')", index)
    handle.click()
    for _ in range(5):
        handle.send_keys(Keys.ARROW_RIGHT)
    chapter.wait(f"{image} != arguments[1]", 60, index, before)
    chapter.shot("slider-after")


STILL_DISTANCE = """def depth_from_distance(t, K):
    return t.clone()
"""
DEPTH = """def depth_from_distance(t, K):
    height, width = t.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y = (x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]
    return t / (x**2 + y**2 + 1).sqrt()
"""


def test_exercise_names_the_idea_then_progress_moves(chapter, lab):
    stub, check = chapter.find("def depth_from_distance"), chapter.find('check("cameras.1"')
    assert "empty" in chapter.run(check)  # the stub, as it is handed out
    chapter.run(stub, STILL_DISTANCE)
    assert "These are the distances still" in chapter.run(check)
    assert "Hint 1" in chapter.run(check)  # one more at each further try; the empty stub was none
    chapter.shot("wrong")
    chapter.run(stub, DEPTH)
    assert "Right." in chapter.run(check)
    chapter.shot("right")
    front = Notebook(chapter.browser, lab[0], "index.ipynb")
    said = front.run(front.find("progress("))
    front.shot("progress")
    done, of = re.search(r"(\d+) of (\d+)", said).groups()
    assert (int(done), int(of) >= 15) == (1, True), said
