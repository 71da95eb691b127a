"""The student's copy: stubs that run, no solutions, and nothing of the student's ever lost."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest

from nvs_book import exercises
from nvs_book.book import run_notebook
from nvs_book.exercises import load_exercises, stub, student_copy, student_notebook

BEGIN, END = (f"### {word} SOLUTION" for word in ("BEGIN", "END"))


def code(source, outputs=(), **metadata):
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)


def printed(text):
    return nbformat.v4.new_output("stream", text=text)


def chapter(*cells):
    cells = [cell if isinstance(cell, dict) else nbformat.v4.new_markdown_cell(cell) for cell in cells]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


@pytest.fixture
def book(tmp_path):
    "A small book."
    root = tmp_path / "book"
    for name, cells in {
        "index": ["# Front", "[one](foundations/01_one.ipynb), [cli](workbench/90_cli.ipynb), [web](https://example.org)"],
        "foundations/01_one": [
            "# One",
            code("#| export\nx = 1\nx", [printed("1")]),
            code(f"#| export\ndef double(a):\n    {BEGIN}\n    return 2 * a\n    {END}"),
            code("print(double(x))", [printed("the solution's output: 2")]),
            code("x", [printed("1 again")]),
        ],
        "methods/10_two": ["# Two"],
        "workbench/90_cli": ["# Not for students"],
        "exercises/01_one_exercises": ["# The answers"],
    }.items():
        path = root / "nbs" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(chapter(*cells), path)
    return root


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def change(book, name, text):
    "A newer edition of a chapter."
    path = book / "nbs" / name
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_markdown_cell(text, id=f"cell-{len(notebook.cells)}"))
    nbformat.write(notebook, path)


# What a cell becomes.


@pytest.mark.parametrize(
    "source, written",
    [
        (f"def f(a):\n    {BEGIN}\n    return a\n    {END}", 'def f(a):\n    raise NotImplementedError("write this")'),
        (
            f"class A:\n    def f(self):\n        if self:\n            {BEGIN}\n            return 1\n            {END}\n"
            "        return 2",
            'class A:\n    def f(self):\n        if self:\n            raise NotImplementedError("write this")\n        return 2',
        ),
        (
            f"def f(\n    a,  # one\n):  # two\n    'Doc.'\n    {BEGIN}\n    b = a\n\n    return b\n    {END}\n",
            "def f(\n    a,  # one\n):  # two\n    'Doc.'\n    raise NotImplementedError(\"write this\")\n",
        ),
        (f"{BEGIN}\nclass A: pass\nx = 1\n{END}", "...  # write this"),
        (f"import os\n\n{BEGIN}\nx = 1\n{END}\ny = 2", "import os\n\n...  # write this\ny = 2"),
        (f"class A:\n    {BEGIN}\n    x = 1\n    {END}", "class A:\n    ...  # write this"),
        (
            f"def f():\n    {BEGIN}\n    return 1\n    {END}\n\ndef g():\n    {BEGIN}\n    return 2\n    {END}",
            'def f():\n    raise NotImplementedError("write this")\n\ndef g():\n    raise NotImplementedError("write this")',
        ),
        (
            f"if True:\n    def f():\n        {BEGIN}\n        return 1\n        {END}",
            'if True:\n    def f():\n        raise NotImplementedError("write this")',
        ),
        (f"def f():\n\t{BEGIN}\n\treturn 1\n\t{END}", 'def f():\n\traise NotImplementedError("write this")'),
        ("x = 1", "x = 1"),
    ],
)
def test_a_stub_stands_where_the_solution_stood_and_is_python(source, written):
    assert stub(source) == written
    ast.parse(written)


def test_what_a_student_s_notebook_holds():
    notebook = chapter(
        "# A [link](../methods/10_two.ipynb#part), [none](../workbench/90_cli.ipynb), ![kept](../site/a.png), [web](http://a.b)",
        code("#| default_exp one"),
        code("#| hide\nimport torch"),
        code("#| hide_input\n#| fig-cap: A curve.\nshow()", [printed("seen")]),
        code(f"#| export\ndef f():\n    {BEGIN}\n    return 1\n    {END}", [printed("solution")]),
        code("check('one.1', f)", [printed("✓")]),
        code("y = f()", [printed("secret")]),
        code("y + 1", [printed("secret")]),
        code("y = 0\ny", [printed("fine")]),
        code("y", [printed("fine")]),
        code("#| gpu\ntrain()", [printed("an hour")]),
        code("#| student\nprogress()"),
        code("import nbdev\n\nnbdev.nbdev_export()"),
    )
    made = student_notebook(json.loads(nbformat.writes(notebook)), "foundations/01_one.ipynb", {"methods/10_two.ipynb"})
    nbformat.validate(made)
    cells = [("".join(c["source"]), c["metadata"], [o["text"] for o in c.get("outputs", [])]) for c in made["cells"]]
    assert cells[0][0] == ("# A [link](../methods/10_two.ipynb#part), none, ![kept](../site/a.png), [web](http://a.b)")
    tagged = {"tags": ["raises-exception"]}
    assert [(s, m, ["".join(o) for o in outputs]) for s, m, outputs in cells[1:]] == [
        ("import torch", {"jupyter": {"source_hidden": True}}, []),
        ("show()", {"jupyter": {"source_hidden": True}}, ["seen"]),
        ('def f():\n    raise NotImplementedError("write this")', {}, []),
        ("check('one.1', f)", {}, []),
        ("y = f()", tagged, []),
        ("y + 1", tagged, []),
        ("y = 0\ny", {}, ["fine"]),
        ("y", {}, ["fine"]),
        ("*This cell needs a GPU; to run it, make it a code cell.*\n\n```python\ntrain()\n```", {}, []),
        ("progress()", {}, []),
    ]
    assert not re.search("secret|solution|✓", json.dumps(made))


# Writing, and updating.


def test_a_new_copy_holds_the_chapters_and_nothing_else(book, tmp_path):
    folder = tmp_path / "deep" / "student"
    edition = student_copy(folder, book)
    assert (
        set(edition.written)
        == {"index.ipynb", "foundations/01_one.ipynb", "methods/10_two.ipynb"}
        == set(tree(folder)) - {".nvs-book/edition.json"}
    )
    text = (folder / "foundations" / "01_one.ipynb").read_text(encoding="utf-8")
    assert "return 2 * a" not in text and "the solution's output" not in text and "1 again" in text and "#|" not in text
    assert "cli, [web](https://example.org)" in json.loads((folder / "index.ipynb").read_text())["cells"][1]["source"][0]
    assert "written: 3" in repr(edition) and str(folder) in repr(edition)
    before = tree(folder)
    assert student_copy(folder, book).current and tree(folder) == before  # twice is once
    assert "up to date" in repr(student_copy(folder, book))


def test_an_update_writes_what_is_untouched_and_puts_the_rest_beside(book, tmp_path):
    folder, mine = tmp_path / "s", b'{"mine": 1}'
    student_copy(folder, book)
    (folder / ".nvs-book" / "progress.json").write_text('{"one.1": {"tries": 3, "done": true}}')
    (folder / "foundations" / "01_one.ipynb").write_bytes(mine)
    (folder / "notes.txt").write_text("my notes")
    assert student_copy(folder, book).kept == ("foundations/01_one.ipynb",)  # no newer edition: nothing beside
    change(book, "foundations/01_one.ipynb", "more"), change(book, "methods/10_two.ipynb", "more")
    edition = student_copy(folder, book)
    assert edition.updated == ("methods/10_two.ipynb",)
    assert edition.beside == (("foundations/01_one.ipynb", "foundations/01_one-new.ipynb"),)
    assert "newer edition of foundations/01_one.ipynb, which you have edited: foundations/01_one-new.ipynb" in repr(edition)
    assert (folder / "foundations" / "01_one.ipynb").read_bytes() == mine and (folder / "notes.txt").read_text() == "my notes"
    assert "more" in (folder / "foundations" / "01_one-new.ipynb").read_text()
    assert json.loads((folder / ".nvs-book" / "progress.json").read_text())["one.1"]["done"]
    before = tree(folder)
    assert student_copy(folder, book).kept == ("foundations/01_one.ipynb",) and tree(folder) == before  # once beside is enough


def test_what_lies_beside_is_the_student_s_too(book, tmp_path):
    folder = tmp_path / "s"
    student_copy(folder, book)
    one, new = (folder / "foundations" / f"01_one{end}.ipynb" for end in ("", "-new"))
    one.write_text("mine")
    change(book, "foundations/01_one.ipynb", "second"), student_copy(folder, book)
    change(book, "foundations/01_one.ipynb", "third")
    assert student_copy(folder, book).beside == (
        ("foundations/01_one.ipynb", "foundations/01_one-new.ipynb"),
    )  # untouched: replaced
    assert "third" in new.read_text()
    new.write_text("mine as well")
    change(book, "foundations/01_one.ipynb", "fourth")
    assert student_copy(folder, book).beside == (("foundations/01_one.ipynb", "foundations/01_one-new2.ipynb"),)
    assert one.read_text() == "mine" and new.read_text() == "mine as well"
    os.replace(folder / "foundations" / "01_one-new2.ipynb", one)  # the student takes the new one
    assert "foundations/01_one.ipynb" in student_copy(folder, book).current
    change(book, "foundations/01_one.ipynb", "fifth")
    assert "foundations/01_one.ipynb" in student_copy(folder, book).updated


def test_deleted_renamed_and_foreign_files(book, tmp_path):
    folder = tmp_path / "s"
    student_copy(folder, book)
    one, two = folder / "foundations" / "01_one.ipynb", folder / "methods" / "10_two.ipynb"
    one.unlink(), two.rename(two.with_name("my_two.ipynb"))
    assert set(student_copy(folder, book).written) == {"foundations/01_one.ipynb", "methods/10_two.ipynb"}
    assert two.with_name("my_two.ipynb").exists()
    (folder / "methods" / "11_three.ipynb").write_text("a file of the student's own")
    nbformat.write(chapter("# Three"), book / "nbs" / "methods" / "11_three.ipynb")
    assert student_copy(folder, book).beside == (("methods/11_three.ipynb", "methods/11_three-new.ipynb"),)
    assert (folder / "methods" / "11_three.ipynb").read_text() == "a file of the student's own"
    (book / "nbs" / "methods" / "10_two.ipynb").unlink()  # a chapter that is no more stays with the student
    student_copy(folder, book)
    assert two.exists()


def test_new_outputs_alone_are_no_newer_edition(book, tmp_path):
    folder = tmp_path / "s"
    student_copy(folder, book)
    (folder / "foundations" / "01_one.ipynb").write_text("mine")
    notebook = nbformat.read(book / "nbs" / "foundations" / "01_one.ipynb", 4)
    notebook.cells[1].outputs = [printed("2")]
    nbformat.write(notebook, book / "nbs" / "foundations" / "01_one.ipynb")
    assert student_copy(folder, book).beside == ()


@pytest.mark.parametrize("record", ["", "[1]", '{"files": {"index.ipynb": 3}}', "\x00"])
def test_without_a_record_every_file_counts_as_the_student_s(book, tmp_path, record):
    folder = tmp_path / "s"
    student_copy(folder, book)
    (folder / "foundations" / "01_one.ipynb").write_text("mine")
    (folder / ".nvs-book" / "edition.json").write_text(record)
    edition = student_copy(folder, book)
    assert edition.unknown == (("foundations/01_one.ipynb", "foundations/01_one-new.ipynb"),)
    assert not edition.updated and not edition.beside and "newer edition" not in repr(edition)
    assert "01_one.ipynb is kept as it is, and this edition of it is foundations/01_one-new.ipynb" in repr(edition)
    assert (folder / "foundations" / "01_one.ipynb").read_text() == "mine"
    assert student_copy(folder, book).kept == ("foundations/01_one.ipynb",)


def test_without_a_record_what_was_only_run_is_no_other_edition(book, tmp_path):
    folder = tmp_path / "s"
    student_copy(folder, book)
    chapter = folder / "foundations" / "01_one.ipynb"
    notebook = nbformat.read(chapter, 4)
    next(cell for cell in notebook.cells if cell.cell_type == "code").execution_count = 7
    nbformat.write(notebook, chapter)
    shutil.rmtree(folder / ".nvs-book"), (folder / ".nvs-book").mkdir()  # as the message below tells
    mine, edition = chapter.read_bytes(), student_copy(folder, book)
    assert edition.kept == ("foundations/01_one.ipynb",) and edition.unknown == edition.beside == ()
    assert chapter.read_bytes() == mine
    assert student_copy(folder, book).kept == edition.kept


def test_a_record_lost_again_makes_no_second_file_beside(book, tmp_path):
    folder = tmp_path / "s"
    student_copy(folder, book)
    (folder / "foundations" / "01_one.ipynb").write_text("mine")
    for _ in range(2):
        (folder / ".nvs-book" / "edition.json").write_text("{")
        student_copy(folder, book)
    assert [path.name for path in (folder / "foundations").glob("01_one-*")] == ["01_one-new.ipynb"]


def test_a_copy_without_its_record_folder_is_told_the_way_back(book, tmp_path):
    folder = tmp_path / "s"
    student_copy(folder, book)
    shutil.rmtree(folder / ".nvs-book")
    before = tree(folder)
    with pytest.raises(FileExistsError) as problem:
        student_copy(folder, book)
    said = str(problem.value)
    assert said.endswith(f"mkdir {folder / '.nvs-book'}") and tree(folder) == before
    (folder / ".nvs-book").mkdir()
    assert len(student_copy(folder, book).current) == len(before)


# What can go wrong.


def test_folders_that_are_something_else_are_refused(book, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir(), (tmp_path / "full" / "thesis.tex").write_text("x"), (tmp_path / "file").write_text("x")
    (tmp_path / "git").mkdir(), (tmp_path / "git" / ".git").mkdir()
    with pytest.raises(
        FileExistsError, match="folder: expected an empty folder or a student's copy, .*full holds thesis.tex"
    ):
        student_copy(tmp_path / "full", book)
    with pytest.raises(NotADirectoryError, match="folder: expected a folder, .*file is a file"):
        student_copy(tmp_path / "file", book)
    with pytest.raises(NotADirectoryError, match="folder: expected a folder, .*file is a file"):
        student_copy(tmp_path / "file" / "below", book)
    with pytest.raises(ValueError, match="folder: expected a place outside the book's own notebooks"):
        student_copy(book / "nbs" / "student", book)
    with pytest.raises(FileNotFoundError, match="root: expected a folder with nbs/index.ipynb in it, there is none in"):
        student_copy(tmp_path / "s", tmp_path)
    (book / "nbs" / "methods" / "10_two.ipynb").write_text('{"cells": [')
    with pytest.raises(ValueError, match="root: expected notebooks, cannot read .*10_two.ipynb"):
        student_copy(tmp_path / "s", book)
    assert tree(tmp_path / "full") == {"thesis.tex": b"x"} and not (tmp_path / "s").exists()
    (book / "nbs" / "methods" / "10_two.ipynb").unlink()
    assert student_copy(tmp_path / "git", book).written


def test_nothing_is_lost_on_a_full_disk(book, tmp_path, monkeypatch):
    folder = tmp_path / "s"
    student_copy(folder, book)
    (folder / "foundations" / "01_one.ipynb").write_text("mine")
    (
        change(book, "foundations/01_one.ipynb", "more"),
        change(book, "methods/10_two.ipynb", "more"),
        change(book, "index.ipynb", "more"),
    )
    before, room, sync = tree(folder), [2], os.fsync

    def full(descriptor):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device: ") as problem:
        student_copy(folder, book)
    assert problem.value.errno == 28 and problem.value.filename
    assert tree(folder) == before
    monkeypatch.undo()
    edition = student_copy(folder, book)
    assert len(edition.updated) == 2 and len(edition.beside) == 1


def test_an_interrupt_while_files_are_moved_is_made_good_by_the_next_update(book, tmp_path, monkeypatch):
    folder = tmp_path / "s"
    student_copy(folder, book)
    for name in ("foundations/01_one", "methods/10_two", "index"):
        change(book, f"{name}.ipynb", "more")
    replace, moved = os.replace, []

    def interrupted(source, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(replace(source, target))

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        student_copy(folder, book)
    monkeypatch.undo()
    assert not [name for name in tree(folder) if name.endswith(".tmp")]
    edition = student_copy(folder, book)
    assert len(edition.updated) == 2 and len(edition.current) == 1 and edition.beside == () == edition.kept


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_tiny_limit_on_file_size_is_one_clear_line(book, tmp_path):
    script = (
        "import resource, signal, sys; from nvs_book.exercises import student_copy\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "try: student_copy(sys.argv[1], sys.argv[2])\nexcept OSError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "s", book], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\[Errno \d+\] File too large: '.*\.ipynb'\n", done.stdout), done.stdout + done.stderr
    assert not (tmp_path / "s").exists()  # no empty folder is left


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is unwritable to root")
def test_a_folder_that_may_not_be_written(book, tmp_path):
    (tmp_path / "s").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="Permission denied: "):
        student_copy(tmp_path / "s", book)


# The book's own chapters.


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "book"
    student_copy(folder)
    return folder


def chapters(root):
    return [path.relative_to(root / "nbs") for part in exercises.COPIED for path in sorted((root / "nbs" / part).glob("*.ipynb"))]


def test_every_chapter_is_there_without_its_solutions(copy, root):
    for name in chapters(root):
        source, made = nbformat.read(root / "nbs" / name, 4), nbformat.read(copy / name, 4)
        nbformat.validate(made)
        solutions = exercises.SOLUTION.findall("\n".join(cell.source for cell in source.cells))
        stubs = sum(cell.source.count("write this") for cell in made.cells if cell.cell_type == "code")
        assert name.stem == "06_exercises" or stubs == len(solutions), name
        for cell in made.cells:
            if cell.cell_type == "code":
                assert not exercises.SOLUTION.search(cell.source) and not exercises.DIRECTIVE_LINE.match(cell.source), (
                    name,
                    cell.id,
                )
                ast.parse(re.sub(r"^\s*[%!].*", "", cell.source, flags=re.M))


def test_expected_comes_before_the_stub_and_the_check_after(root):
    for name in chapters(root):
        cells = [cell.source for cell in nbformat.read(root / "nbs" / name, 4).cells if cell.cell_type == "code"]
        asked = [
            match[1]
            for source in cells
            for match in re.finditer(r'\bcheck\("([a-z_]+\.\d+)"', source)
            if name.stem[3:] == match[1].split(".")[0]
        ]
        for exercise in asked:
            at = [i for i, source in enumerate(cells) if re.search(rf'\bcheck\("{exercise}"', source)][0]
            shown = [i for i, source in enumerate(cells) if f'expected("{exercise}")' in source]
            assert shown or not load_exercises()[exercise].draw, f"{name}: the picture of {exercise} is not shown before its stub"
            shown = shown or [0]
            assert shown[0] < at, f"{name}: {exercise} shows what is expected after its check"
            between = cells[shown[0] : at]
            assert any(exercises.SOLUTION.search(source) for source in between), f"{name}: {exercise} has its solution elsewhere"


def needed(cells):
    "The cells that stubs and checks need, and these themselves: what they use, and what that uses."
    wanted, keep = set(), []
    for cell in reversed([cell for cell in cells if cell.cell_type == "code"]):
        bound, used = exercises._names(cell.source)
        if "write this" in cell.source or re.search(r"\b(check|expected)\(\"", cell.source) or bound & wanted:
            keep.append(cell)
            wanted = (wanted - bound) | used
    return keep[::-1]


WITH_EXERCISES = ["01_cameras", "02_scenes", "03_metrics", "08_pointmaps", "10_synsin", "11_rotary_attention", "13_dust3r"]
WITH_EXERCISES += ["14_triplane_nerf"]


@pytest.mark.parametrize("name", WITH_EXERCISES)
def test_a_chapter_s_exercises_run_with_the_stubs_in_place(copy, tmp_path, name):
    path = next(copy.rglob(f"{name}.ipynb"))
    notebook = nbformat.read(path, 4)
    notebook.cells = needed(notebook.cells)
    nbformat.write(notebook, path.with_name("part.ipynb"))
    run = run_notebook(path.with_name("part.ipynb"), env={**os.environ, "NVS_BOOK_SCALE": "tiny", "IPYTHONDIR": str(tmp_path)})
    said = [
        output.data["text/plain"]
        for cell in run.notebook.cells
        for output in cell.get("outputs", [])
        if "application/vnd.nvs-book.check+json" in output.get("data", {})
    ]
    assert said and all(line.endswith("The stub is still empty.") for line in said), (said, run.error)
    assert re.search(r"check .*: The stub is still empty", run.error), run.error


@pytest.mark.parametrize("name", ["index", "foundations/00_checks"])
def test_a_copy_outside_the_clone_runs_from_top_to_bottom(copy, tmp_path, name):
    run = run_notebook(copy / f"{name}.ipynb", env={**os.environ, "NVS_BOOK_SCALE": "tiny", "IPYTHONDIR": str(tmp_path)})
    assert run.error is None
