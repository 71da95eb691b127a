"""The house: the package is what the notebooks export, the notebooks are clean, the metadata holds, importing stays light."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE, WEIGHTS = ROOT / "nvs_book", ROOT / "nvs_book" / "weights"
NOTEBOOKS = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("_"))
HEAVY = set("kornia matplotlib plotly skimage torchmetrics transformers numba scipy ipywidgets accelerate".split())
CITATION = re.compile(r"\[(@[\w:.+-]+[^\[\]]*)\]")
NO_HEADLINE = {"00_checks"}
LOCAL_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)|(?:src|href)=\"(?!https?:)([^\"]+)")
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def run(*command, **options) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "IN_TEST"}
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=environment, **options)


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git clone")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    "The sources alone: what a packager or nbdev starts from."
    folder = tmp_path_factory.mktemp("copy") / "nvs_book"
    built = (".*", "_site", "_build", "build", "dist", "runs", "*.egg-info", "__pycache__", "vendor")
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*built))
    return folder


# --- notebooks and package


def test_package_is_what_the_notebooks_export(copy):
    exported = copy / "nvs_book"
    for path in exported.glob("*.py"):
        path.unlink()
    (exported / "__init__.py").write_text((ROOT / "nvs_book" / "__init__.py").read_text())
    done = run("-c", "from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()", cwd=copy)
    assert done.returncode == 0, done.stderr
    ours = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "nvs_book").glob("*.py")}
    fresh = {path.name: path.read_text(encoding="utf-8") for path in exported.glob("*.py")}
    assert sorted(ours) == sorted(fresh), "run `make export`"
    assert [name for name in ours if ours[name] != fresh[name]] == [], "run `make export`"


def test_version_is_the_same_everywhere():
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini")
    version = settings["DEFAULT"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "nvs_book" / "__init__.py").read_text()
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()


@by_name
def test_notebook_is_clean(path):
    from nbdev.clean import clean_nb

    raw = json.loads(path.read_text(encoding="utf-8"))
    cleaned = json.loads(json.dumps(raw))
    clean_nb(cleaned, allowed_metadata_keys=["nvs_book"], allowed_cell_metadata_keys=["tags"])
    assert raw == cleaned, "run `make export`"
    nbformat.validate(nbformat.from_dict(raw))
    ids = [cell["id"] for cell in raw["cells"]]
    assert len(ids) == len(set(ids))


@by_name
def test_notebook_reads_whole_and_light(path):
    assert path.stat().st_size < 2e6
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output.ename for output in outputs if output.output_type == "error"]
    assert "widgets" not in notebook.metadata
    assert not any("widget-view" in kind for output in outputs for kind in output.get("data", {}))
    assert outputs, "run `make save`"


@by_name
def test_no_picture_is_hidden_from_the_reader(path):
    from nvs_book.book import directives

    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    hidden = [cell for cell in cells if "hide" in directives(cell.source)[0]]
    assert not [cell.id for cell in hidden for output in cell.outputs if "image/png" in output.get("data", {})]


@by_name
def test_chapter_has_a_title_and_a_headline(path):
    from nvs_book.book import read_run

    run = read_run(path)
    assert run.notebook.cells[0].source.startswith("# ")
    if path.stem != "index":
        assert run.summary
        assert run.headlines or path.stem in NO_HEADLINE or path.parent.name == "exercises"
        assert {head["chapter"] for head in run.headlines} <= {path.stem}
        assert run.seconds is not None


def exported_functions(path: Path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and re.match(r"#\s*\|\s*export", cell.source):
            yield from (node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.FunctionDef))


@by_name
def test_exported_functions_are_short(path):
    length = {node.name: node.end_lineno - node.body[0].lineno + 1 for node in exported_functions(path)}
    assert {name: lines for name, lines in length.items() if lines > 30} == {}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_borrows_no_private_name_of_another(module):
    nodes = ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8")))
    borrowed = (node for node in nodes if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("nvs_book")))
    assert [alias.name for node in borrowed for alias in node.names if alias.name.startswith("_")] == []


def test_ruff():
    done = run("-m", "ruff", "check", "--no-cache", ROOT)
    assert done.returncode == 0, done.stdout


def test_no_path_of_one_machine():
    # the pattern is split so that this file does not find itself
    pattern = re.compile("/(?:ho" + "me|ro" + "ot|Us" + "ers|tm" + "p|wo" + r"rk)/[\w.]+")
    found = {}
    for path in tracked():
        if path.suffix in (".npz", ".safetensors", ".png", ".gif", ".mp4") or "vendor" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":  # pictures are base64, where anything may be found
            text = re.sub(r'"(image/[a-z+]+|bdata)": *"[^"]*"|base64,[^"\\]*', "", text)
        if match := pattern.search(text):
            found[path.relative_to(ROOT).as_posix()] = match[0]
    assert found == {}


def test_citations_are_in_the_bibliography():
    keys = set(re.findall(r"^@\w+\{([^,\s]+),", (ROOT / "references.bib").read_text(encoding="utf-8"), re.M))
    cited = set()
    for path in NOTEBOOKS:
        text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")
        groups = CITATION.findall(re.sub(r"`[^`\n]+`", "", text))
        cited |= {key for group in groups for key in re.findall(r"@([\w:.+-]*\w)", group)}
    assert cited - keys == set()


def test_readme_holds_the_results_of_the_notebooks():
    from nvs_book.book import readme_text

    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme_text(ROOT), "run `make readme`"


def test_readme_picture_is_the_front_page_s():
    from nvs_book.book import front_picture

    assert (ROOT / "site" / "static" / "front.png").read_bytes() == front_picture(ROOT), "run `make readme`"


def test_readme_code_runs():
    scope = {}
    exec(re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)[1], scope)
    assert scope["image"].shape == (3, *scope["left"].image.shape[1:])
    assert scope["image"].isfinite().all()


def test_readme_and_contributing_links_lead_somewhere():
    for page in ("README.md", "CONTRIBUTING.md"):
        links = LOCAL_LINK.findall((ROOT / page).read_text(encoding="utf-8"))
        assert [link for pair in links for link in pair if link and not (ROOT / link).exists()] == []


# --- importing


@pytest.mark.parametrize("module", ["nvs_book", "nvs_book.cameras"])
def test_import_is_light(module):
    "At most half a second beyond torch: everything that takes longer is imported where it is used."
    code = f"import sys, torch; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    new = {name.split(".")[0] for name in done.stdout.split()}
    assert new.isdisjoint(HEAVY)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_on_its_own(module):
    "With the library's own requirements: what belongs to an extra is imported where it is used."
    extras = ("transformers", "numba", "accelerate", "hypothesis", "beartype", "pytorch3d", "torchvision")
    block = f"import sys; sys.modules.update(dict.fromkeys({extras!r}))"
    done = run("-c", f"{block}; import nvs_book.{module}")
    assert done.returncode == 0, done.stderr


# --- metadata


def test_every_extra_is_in_the_tried_set():
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini")
    keys = (key for key in settings["DEFAULT"] if key.endswith("requirements"))
    wanted = [requirement for key in keys for requirement in shlex.split(settings["DEFAULT"][key])]
    names = {re.split(r"[<>=!~;]", requirement)[0] for requirement in wanted}
    tried = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.M))
    assert names - tried == set()


@pytest.mark.slow
def test_wheel_holds_weights_types_and_the_chapters(copy, tmp_path):
    done = run("-m", "build", "--no-isolation", "--outdir", tmp_path, copy)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert list(tmp_path.glob("*.tar.gz"))
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(next(name for name in names if name.endswith("METADATA"))).decode()
    weights = {f"nvs_book/weights/{path.name}" for path in WEIGHTS.glob("*") if path.suffix in (".safetensors", ".json")}
    assert {"nvs_book/py.typed", *(f"nvs_book/{module}.py" for module in MODULES), *weights} <= names
    assert not [name for name in names if name.startswith(("tests", "nbs", "site"))]
    parts = [path for path in (ROOT / "nbs").glob("*/*.ipynb") if path.parent.name not in ("exercises", "workbench")]
    chapters = {f"nvs_book/nbs/{path.parent.name}/{path.name}" for path in parts}
    assert {name for name in names if name.startswith("nvs_book/nbs/")} == {*chapters, "nvs_book/nbs/index.ipynb"}
    assert {f"nvs_book/golden/{path.name}" for path in (ROOT / "tests" / "golden").glob("*.npz")} <= names
    assert "License-Expression: Apache-2.0" in metadata
    for extra in ("book", "dev", "pretrained", "fast", "all"):
        assert f"Provides-Extra: {extra}" in metadata
