"""The command line: what it starts, what it says to nonsense, what it leaves behind when it is stopped."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import nvs_book
from nvs_book import cli

ROOT = Path(__file__).parent.parent
COMMANDS = list(cli.main.commands)
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")


def invoke(command: str):
    return CliRunner().invoke(cli.main, shlex.split(command))


def run(*program, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, program)], capture_output=True, text=True, **options)


def said(done) -> str:
    "The one line on stderr."
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("nvs-book: ")
    return done.stderr.removeprefix("nvs-book: ").strip()


# --- help


def test_help_and_version():
    done = invoke("")
    assert done.exit_code == 0 and done.stdout == invoke("--help").stdout
    assert all(re.search(rf"^  {name} +[A-Z].*\.$", done.stdout, re.M) for name in COMMANDS)
    assert invoke("--version").stdout == f"nvs-book {nvs_book.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_examples(name):
    done = invoke(f"{name} --help")
    assert done.exit_code == 0
    examples = done.stdout.partition("Examples:\n")[2].strip().splitlines()
    assert examples and all(line.strip().startswith(f"nvs-book {name}") for line in examples)


@pytest.mark.parametrize("example", [example for command in cli.main.commands.values() for example in command.examples])
def test_examples_parse(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "nvs").mkdir()
    for name in re.findall(r"[\w/-]+\.(?:jpg|png|npy|pth)", example):
        (tmp_path / name).touch()
    name, *words = (os.path.expanduser(word) for word in shlex.split(example.partition(" | ")[0]))
    with cli.main.commands[name].make_context(name, words) as context:
        assert context.command.name == name


def test_starting_is_light():
    code = "import sys, nvs_book.cli; print(*{name.split('.')[0] for name in sys.modules})"
    heavy = {"torch", "numpy", "PIL", "tqdm", "nbformat", "IPython", "matplotlib"}
    assert heavy.isdisjoint(run("-c", code).stdout.split())


def test_it_is_a_program_and_a_module():
    assert run("-m", "nvs_book.cli", "--version").stdout == f"nvs-book {nvs_book.__version__}\n"
    program = Path(sys.executable).with_name("nvs-book")
    if not program.exists():
        pytest.skip("the package is not installed here, only importable")
    assert subprocess.run([program, "--version"], capture_output=True, text=True).stdout == f"nvs-book {nvs_book.__version__}\n"


def test_words_can_be_completed():
    env = {**os.environ, "_NVS_BOOK_COMPLETE": "bash_complete", "COMP_WORDS": "nvs-book do", "COMP_CWORD": "1"}
    assert "doctor" in run("-m", "nvs_book.cli", env=env).stdout


# --- errors and exit codes


@pytest.mark.parametrize(
    "error, code, words",
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (click.Abort(), 130, "stopped"),
        (cli.Terminated(), 143, "stopped"),
        (cli.Terminated(1), 129, "stopped"),
        (ValueError("fps: expected more"), 2, "error: fps: expected more"),
        (TypeError("a"), 2, "error: a"),
        (FileNotFoundError("path: expected a file"), 2, "error: path: expected a file"),
        (OSError(errno.ENOENT, "No such file or directory", "x.png"), 2, "error: x.png: No such file or directory"),
        (OSError(errno.EACCES, "", "x.png"), 2, "error: x.png: no permission to write or read here"),
        (OSError(errno.EROFS, "", "x.png"), 2, "error: x.png: this disk can only be read"),
        (OSError(errno.ENOSPC, "", "x.mp4"), 1, "error: x.mp4: the disk is full"),
        (OSError(errno.EFBIG, ""), 1, "error: the file is larger than this system allows (ulimit -f)"),
        (click.UsageError("No such thing."), 2, "error: No such thing (see: nvs-book --help)"),
        (click.FileError("x", "gone"), 2, "error: Could not open file 'x': gone"),
        (cli.Failed("it broke"), 1, "error: it broke"),
        (ModuleNotFoundError("numba is not installed: pip install it"), 1, "error: numba is not installed: pip install it"),
        (ModuleNotFoundError("No module named 'numba'"), 1, "error: No module named 'numba' (see: nvs-book doctor)"),
        (ZeroDivisionError("by zero"), 1, "error: unexpected ZeroDivisionError: by zero (--debug shows where)"),
    ],
)
def test_outcome(error, code, words):
    assert cli.outcome(error) == (code, words)


def test_a_full_memory_is_said_in_words():
    torch = pytest.importorskip("torch")
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB …")):
        code, words = cli.outcome(error)
        assert code == 1 and "memory is full" in words


PROBE = """
import sys, time, warnings
from pathlib import Path
from nvs_book import cli

@cli.main.command()
def fill():
    with cli.whole_file("film.mp4") as beside, open(beside, "wb") as file:
        for _ in range(100):
            file.write(b"x" * 10_000)

@cli.main.command()
def wait():
    with cli.whole_file("film.mp4") as beside:
        beside.write_text("half")
        time.sleep(60)

@cli.main.command()
def talk():
    for number in range(200_000):
        print(number)

@cli.main.command()
def crash():
    raise RuntimeError("two\\nlines")

@cli.main.command()
def warn():
    warnings.warn("look\\nout")
    warnings.warn("old", DeprecationWarning)

@cli.main.command()
def coloured():
    import click
    click.secho("red", fg="red")
    raise ValueError("bad")

cli.main()
"""


@pytest.fixture
def probe(tmp_path):
    "A program with commands that do what goes wrong."
    path = tmp_path / "probe.py"
    path.write_text(PROBE)
    (tmp_path / "work").mkdir()
    return lambda *words, **options: run(path, *words, cwd=tmp_path / "work", **options)


def test_a_bug_is_one_line_and_debug_shows_where(probe):
    done = probe("crash")
    assert done.returncode == 1 and said(done) == "error: unexpected RuntimeError: two lines (--debug shows where)"
    for words, env in ((["crash", "--debug"], {}), (["crash"], {"NVS_BOOK_DEBUG": "1"})):
        done = probe(*words, env={**os.environ, **env})
        assert done.returncode == 1 and "Traceback" in done.stderr and "raise RuntimeError" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("nvs-book: error:")


def test_warnings_are_notes_of_one_line(probe):
    assert said(probe("warn")) == "note: look out"


def test_no_colours_where_nobody_looks(probe):
    done = probe("coloured")
    assert "\x1b" not in done.stdout + done.stderr
    assert done.returncode == 2 and said(done) == "error: bad"


WRONG = ["--nonsense", "nonsense", "doctor --nonsense", "book --scale huge", "book --jobs 0", "lab a b c --x", "student"]


@pytest.mark.parametrize("words", WRONG)
def test_wrong_use_is_one_line_and_2(words):
    done = run("-m", "nvs_book.cli", *words.split())
    assert done.returncode == 2 and not done.stdout
    assert re.fullmatch(r"error: .+ \(see: nvs-book( \w+)? --help\)", said(done))


@POSIX
def test_a_full_disk_is_one_line_and_leaves_the_old_file(probe, tmp_path):
    import resource

    old = tmp_path / "work" / "film.mp4"
    old.write_text("old")
    done = probe("fill", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)))
    assert done.returncode == 1 and said(done) == "error: the file is larger than this system allows (ulimit -f)"
    assert list(old.parent.iterdir()) == [old] and old.read_text() == "old"
    assert probe("fill").returncode == 0 and old.stat().st_size == 1_000_000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout():
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "nvs_book.cli", "book", "--help"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and said(done) == "error: the disk is full"


@POSIX
@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_stopped_leaves_no_half_written_file(tmp_path, name, code):
    (tmp_path / "probe.py").write_text(PROBE)
    work = tmp_path / "work"
    work.mkdir()
    (work / "film.mp4").write_text("old")
    program = subprocess.Popen([sys.executable, tmp_path / "probe.py", "wait"], cwd=work, stderr=subprocess.PIPE, text=True)
    until(lambda: any(path.read_text() == "half" for path in work.glob(".film*")), program)
    program.send_signal(getattr(signal, name))
    assert program.wait(20) == code
    assert program.stderr.read().strip() == "nvs-book: stopped"
    assert [path.name for path in work.iterdir()] == ["film.mp4"] and (work / "film.mp4").read_text() == "old"


def until(true, program: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert program.poll() is None, program.stderr and program.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.02)


@POSIX
def test_a_reader_that_leaves_is_no_error(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    shell = f"{shlex.quote(sys.executable)} probe.py talk | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "141"] and done.stderr == ""


@POSIX
def test_with_nohup_a_closed_terminal_is_no_end(tmp_path):
    (tmp_path / "probe.py").write_text(PROBE)
    words = [sys.executable, tmp_path / "probe.py", "wait"]
    ignore = dict(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    program = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, **ignore)
    until(lambda: any(path.read_text() == "half" for path in tmp_path.glob(".film*")), program)
    program.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert program.poll() is None
    program.terminate()
    assert program.wait(20) == 143 and not list(tmp_path.glob("*film*"))


@POSIX
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(tmp_path, closed):
    (tmp_path / "probe.py").write_text(PROBE)
    for words, code in {"fill": 0, "talk": 0, "warn": 0, "coloured": 2}.items():
        shell = f"{shlex.quote(sys.executable)} probe.py {words} {closed}"
        done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "unexpected" not in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "film.mp4").read_bytes() == b"x" * 1_000_000  # nothing else was written into it


@POSIX
@pytest.mark.parametrize("words", ["render motorcycle -o a.mp4", "student copy", "progress", "lab", "book", "bench", "doctor"])
def test_a_working_folder_that_is_gone_is_one_line(tmp_path, words):
    shell = f"mkdir gone && cd gone && rmdir ../gone && {shlex.quote(sys.executable)} -m nvs_book.cli {words}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and said(done) == "error: the working folder does not exist any more; cd to another one"


# --- whole files


def test_whole_file_takes_its_name_at_the_end(tmp_path):
    target = tmp_path / "a.mp4"
    with cli.whole_file(target) as beside:
        assert beside.parent == tmp_path and beside.suffix == ".mp4" and beside.exists()
        beside.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("trouble", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, OSError(errno.ENOSPC, "full")])
def test_whole_file_leaves_the_old_one(tmp_path, trouble):
    target = tmp_path / "a.mp4"
    target.write_text("old")
    kind = trouble if isinstance(trouble, type) else type(trouble)
    with pytest.raises(kind), cli.whole_file(target) as beside:
        beside.write_text("half")
        raise trouble
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_whole_file_refuses_what_is_no_file(tmp_path):
    refused = {tmp_path: "this is a folder", tmp_path / "no" / "a.mp4": "there is no folder", Path("/dev/null"): "device"}
    for target, words in refused.items():
        if target.exists() or tmp_path in target.parents:
            with pytest.raises((ValueError, OSError), match=words), cli.whole_file(target):
                raise AssertionError("it began to work")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_whole_file_knows_at_once_where_it_may_not_write():
    with pytest.raises(OSError) as caught, cli.whole_file("/proc/a.mp4"):
        raise AssertionError("it began to work")
    assert caught.value.filename == "/proc/a.mp4"


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write everywhere")
def test_whole_file_keeps_a_write_protected_file(tmp_path):
    target = tmp_path / "a.mp4"
    target.write_text("old")
    target.chmod(0o444)
    with pytest.raises(PermissionError), cli.whole_file(target):
        raise AssertionError("it began to work")


@POSIX
def test_whole_file_writes_through_a_link(tmp_path):
    (tmp_path / "real.mp4").write_text("old")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real.mp4")
    with cli.whole_file(tmp_path / "link.mp4") as beside:
        beside.write_text("new")
    assert (tmp_path / "link.mp4").is_symlink() and (tmp_path / "real.mp4").read_text() == "new"


# --- films: what nonsense gets


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    "A folder with good and broken input."
    from nvs_book.cameras import Camera, intrinsics_from_fov, orbit
    from nvs_book.scenes import ProceduralWorld, write_transforms

    folder = tmp_path_factory.mktemp("desk")
    picture = (np.random.default_rng(0).random((48, 64, 3)) * 255).astype(np.uint8)
    Image.fromarray(picture).save(folder / "me.png")
    (folder / "half.png").write_bytes((folder / "me.png").read_bytes()[:4000])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").touch()
    np.save(folder / "depth.npy", np.full((48, 64), 2.0, np.float32))
    np.save(folder / "unknown.npy", np.full((48, 64), np.nan, np.float32))
    (folder / "text.npy").write_text("no numbers")
    views = [ProceduralWorld(0).render(Camera(intrinsics_from_fov(50.0, 24, 32), c2w, 24, 32)) for c2w in orbit(2, 4.0)]
    write_transforms(views, folder / "scan")
    meta = json.loads((folder / "scan" / "transforms.json").read_text())
    del meta["frames"][1]["transform_matrix"]
    shutil.copytree(folder / "scan", folder / "broken")
    (folder / "broken" / "transforms.json").write_text(json.dumps(meta))
    for name in ("void", "folder.mp4"):
        (folder / name).mkdir()
    return folder


NONSENSE = {
    "render motorcycle -o films/a.mp4": "films",
    "render motorcycle -o folder.mp4": "folder.mp4",
    "render motorcycle -o a.avi": ".mp4",
    "render motorcycle": "-o",
    "render motorcycle -o a.mp4 --fps 0": "--fps",
    "render motorcycle -o a.mp4 --size 0": "--size",
    "render motorcycle -o a.mp4 --path roundabout": "--path",
    "render motorcycle -o a.mp4 --zoom": "--zoom",
    "render nowhere -o a.mp4": "nowhere",
    "render void -o a.mp4": "void",
    "render me.png -o a.mp4": "me.png",
    "render world:x -o a.mp4": "world:x",
    "render world:99999999999999999999 -o a.mp4": "SOURCE, the seed: expected a whole number",
    "render broken -o a.mp4": "transform_matrix",
    "render scan -o a.mp4 --from 7": "7",
    "photo you.png -o a.mp4": "you.png",
    "photo scan -o a.mp4": "scan",
    "photo half.png -o a.mp4 --depth depth.npy": "half.png",
    "photo text.png -o a.mp4 --depth depth.npy": "text.png",
    "photo empty.png -o a.mp4 --depth depth.npy": "empty.png",
    "photo me.png -o a.mp4 --depth unknown.npy": "unknown.npy",
    "photo me.png -o a.mp4 --depth text.npy": "text.npy",
    "photo me.png -o a.mp4 --depth scan": "scan",
    "photo me.png -o a.mp4 --model nowhere/to/be/found": "nowhere/to/be/found",
}


@pytest.mark.parametrize("command", NONSENSE)
def test_nonsense_gets_one_line(command, desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = sorted(desk.rglob("*"))
    done = invoke(command)
    assert done.exit_code == 2, (done.output, done.exception)
    assert NONSENSE[command] in said(done)
    assert not done.stdout
    assert sorted(desk.rglob("*")) == before


def test_a_film_of_a_picture(desk, monkeypatch, tmp_path):
    monkeypatch.chdir(desk)
    done = invoke(f"photo me.png --depth depth.npy -o {tmp_path / 'me.gif'} --frames 3 --size 24")
    assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "me.gif").n_frames == 3
    assert [path.name for path in tmp_path.iterdir()] == ["me.gif"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_film_where_nobody_may_write(desk, monkeypatch):
    monkeypatch.chdir(desk)
    done = run("-m", "nvs_book.cli", *"photo me.png --depth depth.npy -o /proc/a.mp4 --frames 2 --size 24".split())
    assert done.returncode == 2 and "/proc/a.mp4" in said(done)


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_film_that_is_stopped_or_does_not_fit(desk, tmp_path, suffix):
    import resource

    film = tmp_path / f"film{suffix}"
    film.write_text("old")
    words = ["-m", "nvs_book.cli", "photo", desk / "me.png", "--depth", desk / "depth.npy", "-o", film, "--size", "96"]
    program = subprocess.Popen([sys.executable, *map(str, words), "--frames", "400"], stderr=subprocess.PIPE, text=True)
    until(lambda: list(tmp_path.glob(".film*")), program)
    program.send_signal(signal.SIGINT)
    assert program.wait(30) == 130
    assert program.stderr.read().splitlines()[-1] == "nvs-book: stopped"
    assert list(tmp_path.iterdir()) == [film] and film.read_text() == "old"
    done = run(*words, "--frames", "4", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)))
    assert done.returncode == 1 and "ulimit" in said(done)
    assert list(tmp_path.iterdir()) == [film] and film.read_text() == "old"


# --- the book


@pytest.fixture
def small_book(tmp_path):
    "A book of two chapters, one of which fails, and one that never ends."
    import nbformat

    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_path = nvs_book\n")
    endless = "import time; open('../started', 'w').close(); time.sleep(600)"
    for name, code in {"01_good": "1 + 1", "02_bad": "1 / 0", "03_endless": endless}.items():
        cells = [nbformat.v4.new_markdown_cell(f"# {name}\n\nA chapter."), nbformat.v4.new_code_cell(code)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "nbs" / f"{name}.ipynb")
    return tmp_path


def test_book_passes_its_options_on(monkeypatch):
    from nvs_book import book

    calls = []
    monkeypatch.setattr(book, "make_book", lambda *words, **options: calls.append((words, options)) or 1)
    done = invoke("book 01 10 --scale small --device cpu --jobs 3 --timeout 9 --save --no-site")
    assert done.exit_code == 1  # what make_book says
    (words, options), asked = calls[0], dict(scale="small", device="cpu", jobs=3, timeout=9, save=True, run=True, site=False)
    assert words == (("01", "10"),) and asked.items() <= options.items()
    assert invoke("book --no-run --site public").exit_code == 1
    assert options["root"] == ROOT  # found
    assert calls[1][1]["site"] == Path("public") and calls[1][1]["run"] is False
    assert invoke("book --no-site --no-run").exit_code == 2 and len(calls) == 2


def test_book_and_bench_find_the_clone_alike(monkeypatch, tmp_path):
    from nvs_book import book

    found = []
    monkeypatch.setattr(book, "make_book", lambda *words, root, **options: found.append(root) or 0)
    monkeypatch.chdir(tmp_path)  # not in a clone: then the one that the package is imported from
    assert invoke("book").exit_code == 0 and found == [ROOT]
    assert cli.find_benchmarks()[0].parent.parent == ROOT
    monkeypatch.setattr(nvs_book, "__file__", str(tmp_path / "nvs_book" / "__init__.py"))  # as a wheel is installed
    for command in ("book", "bench"):
        done = invoke(command)
        assert done.exit_code == 2 and "come with a clone, not with the installed package: git clone" in said(done)


@pytest.mark.slow
def test_a_chapter_that_fails_does_not_stop_the_others(small_book):
    words = ["-m", "nvs_book.cli", "book", "--no-site"]
    done = run(*words, "01", "02", cwd=small_book)
    assert done.returncode == 1
    assert "01_good" in done.stdout and "ZeroDivisionError" in done.stdout + done.stderr
    assert run(*words, "01", cwd=small_book).returncode == 0
    done = run(*words, "99", cwd=small_book)
    assert done.returncode == 2 and "99" in said(done)


@POSIX
@pytest.mark.slow
def test_ctrl_c_stops_the_book(small_book):
    words = [sys.executable, "-m", "nvs_book.cli", "book", "03", "--no-site"]
    piped = dict(stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    program = subprocess.Popen(words, cwd=small_book, **piped)
    before = {path: path.read_bytes() for path in (small_book / "nbs").iterdir()}
    try:
        until((small_book / "started").exists, program)
        os.killpg(program.pid, signal.SIGINT)
        out, err = program.communicate(timeout=60)
    finally:
        program.kill()
    assert program.returncode == 130 and err.rstrip().endswith("nvs-book: stopped")
    assert {path: path.read_bytes() for path in (small_book / "nbs").iterdir()} == before


# --- student and lab


def test_student_and_progress(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("student mine")
    assert done.exit_code == 0, done.output
    chapter = next((tmp_path / "mine").rglob("01_cameras.ipynb"))
    chapter.write_text(chapter.read_text() + "\n")
    mine = chapter.read_bytes()
    assert invoke("student mine").exit_code == 0
    assert chapter.read_bytes() == mine
    done = invoke("progress mine")
    assert done.exit_code == 0 and re.search(r"0 of \d+ done", done.stdout)
    (tmp_path / "mine" / ".nvs-book" / "progress.json").mkdir()  # what may not be read is not nothing
    done = invoke("progress")
    assert done.exit_code == 2 and not done.stdout and said(done).endswith("progress.json: Is a directory")
    monkeypatch.chdir(tmp_path)
    done = invoke("progress")
    assert done.exit_code == 2 and "not a student's copy" in said(done)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    done = invoke("student other")
    assert done.exit_code == 2 and "other" in said(done)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


JUPYTER = """
import http.server, json, os, sys
from pathlib import Path
port = next(word.partition("=")[2] for word in sys.argv if word.startswith("--ServerApp.port="))
Path(os.environ["SEEN"]).write_text(json.dumps({"argv": sys.argv[1:], "token": os.environ["JUPYTER_TOKEN"]}))
http.server.HTTPServer(("127.0.0.1", int(port)), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@POSIX
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_lab_is_local_and_has_a_token(tmp_path, number, code):
    "With a server in JupyterLab's place that tells how it was called."
    (tmp_path / "jupyterlab").mkdir()
    (tmp_path / "jupyterlab" / "__init__.py").touch()
    (tmp_path / "jupyterlab" / "__main__.py").write_text(JUPYTER)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "SEEN": str(tmp_path / "seen.json"), "PYTHONUNBUFFERED": "1"}
    env.pop("JUPYTER_TOKEN", None)
    words = [sys.executable, "-m", "nvs_book.cli", "lab", "--source", "--no-browser", "--", "--extra=1"]
    piped = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    program = subprocess.Popen(words, cwd=ROOT, env=env, **piped)
    lines = [program.stdout.readline() for _ in range(4)]
    address, token = re.search(r"(http://127\.0\.0\.1:\d+)/lab/tree/index\.ipynb\?token=(\w+)", "".join(lines)).groups()
    assert urlopen(address).status == 200
    program.send_signal(number)
    rest = program.communicate(timeout=30)[0]
    assert program.returncode == code
    assert ("the lab is closed" in rest) == (code == 0)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["token"] == token and len(token) >= 32
    assert not any(token in word for word in seen["argv"])  # everyone may read a command line
    assert {"--ServerApp.ip=127.0.0.1", "--no-browser", "--extra=1", f"--ServerApp.root_dir={ROOT / 'nbs'}"} <= set(seen["argv"])
    assert seen["argv"][-1] == "--extra=1"
    with socket.socket() as again:  # it is gone
        assert again.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0


def test_lab_says_what_stands_in_its_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = invoke(f"lab mine --port {taken.getsockname()[1]}")
    assert done.exit_code == 2 and "leave --port out" in said(done)
    assert invoke("lab mine --source").exit_code == 2
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = invoke("lab mine")
    assert done.exit_code == 1 and "pip install" in said(done)


def test_a_lab_that_is_open_is_not_opened_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a second server"))
    (tmp_path / "runtime").mkdir(), (tmp_path / "mine").mkdir()
    record = tmp_path / "runtime" / "jpserver-1.json"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        found = {"url": f"http://127.0.0.1:{port}/", "port": port, "token": "abc", "password": False, "pid": os.getpid()}
        found["root_dir"] = str(tmp_path / "mine")
        record.write_text(json.dumps(found))
        (tmp_path / "runtime" / "jpserver-2.json").write_text("{")
        assert cli.running_lab(Path("mine")) == f"http://127.0.0.1:{port}/lab/tree/index.ipynb?token=abc"
        done = invoke("lab mine --no-browser")
        assert done.exit_code == 0 and f":{port}/lab/tree/index.ipynb?token=abc\n" in done.stdout and "already" in done.stdout
        assert cli.running_lab(tmp_path) == ""  # of another folder
    assert cli.running_lab(Path("mine")) == ""  # nobody answers there any more


def test_the_farewell_of_jupyter_is_not_passed_on(capsys):
    lines = [b"[C 2026-11-21 02:00:00 ServerApp] Shutting down...\n", b"[E 02:00 LabApp] no such file: \xff\n",
             b"[C 02:00 ServerApp] received signal 15, stopping\n"]  # fmt: skip
    cli._pass_on(lines)
    assert capsys.readouterr().err == "[E 02:00 LabApp] no such file: \ufffd\n"


# --- benchmarks

LINE = '{"benchmark": "b", "ours_s": 0.002, "peer": "theirs", "peer_s": 0.5, "ratio": 250}'


@pytest.fixture
def bench_clone(tmp_path, monkeypatch):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").touch()
    (tmp_path / "benchmarks").mkdir()
    scripts = {"good": f"print('a note'); print('{LINE}')", "bad": f"print('{LINE}'); raise RuntimeError('no luck')",
               "silent": "", "odd": "print('{\"benchmark\": 1}')", "broken": "print('{')"}  # fmt: skip
    for name, code in scripts.items():
        (tmp_path / "benchmarks" / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path / "nbs")
    return tmp_path


def test_bench_prints_the_ratio_table(bench_clone):
    done = invoke("bench good")
    assert done.exit_code == 0
    assert [line.split() for line in done.stdout.splitlines()][1] == ["b", "2", "ms", "500", "ms", "250", "theirs"]


def test_a_benchmark_that_fails_does_not_stop_the_others(bench_clone):
    done = invoke("bench --json out.json")
    assert done.exit_code == 1
    found = json.loads(Path("out.json").read_text())
    assert [one["benchmark"] for one in found["results"]] == ["b", "b"]
    assert sorted(line.split()[0] for line in found["failed"]) == ["bad", "broken", "odd", "silent"]
    assert "RuntimeError: no luck" in done.stderr and len(done.stderr.splitlines()) == 4
    assert found["version"] == nvs_book.__version__ and {"commit", "device", "python", "torch"} <= set(found)


def test_bench_as_json_on_stdout(bench_clone):
    assert json.loads(invoke("bench good --json -").stdout)["failed"] == []


def test_bench_nonsense(bench_clone, tmp_path):
    done = invoke("bench speed")
    assert done.exit_code == 2 and "bad, broken, good, odd, silent" in said(done)
    done = invoke("bench good --json no/such/folder.json")
    assert done.exit_code == 2 and "no/such" in said(done)


# --- the doctor


@pytest.fixture(scope="module")
def told():
    done = run("-m", "nvs_book.cli", "doctor", "--json", cwd=ROOT)
    return done, json.loads(done.stdout)


def test_doctor_for_programs(told):
    done, report = told
    assert done.stderr == "" and report["version"] == nvs_book.__version__
    states = {one["state"] for one in report["findings"]}
    assert states <= {"ok", "missing", "fault"}
    assert report["healthy"] == ("fault" not in states) == (done.returncode == 0)
    topics = {one["topic"] for one in report["findings"]}
    assert topics == {"Python", "torch", "extras", "peers", "weights", "pictures", "browser", "models", "disk"}
    assert all(one["cost"] for one in report["findings"] if one["state"] != "ok")
    assert not any(one["cost"] or one["mend"] for one in report["findings"] if one["state"] == "ok")
    assert all(one["mend"] for one in report["findings"] if one["state"] == "fault")


def test_doctor_for_people(told):
    text = cli.diagnosis([cli.Finding(**one) for one in told[1]["findings"]])
    assert all(one["name"] in text and one["cost"] in text for one in told[1]["findings"])


def test_doctor_says_what_is_wrong(monkeypatch):
    def broken():
        raise RuntimeError("no such\nmachine")

    fault = cli.finding("weights", "a", False, "mangled", "no result", "git checkout")
    monkeypatch.setattr(cli, "CHECKS", (broken, lambda: [fault]))
    done = invoke("doctor")
    assert done.exit_code == 1
    assert "RuntimeError: no such machine" in done.stdout and "git checkout" in done.stdout and "2 to be mended" in done.stdout


def test_doctor_works_where_nothing_is_installed(tmp_path):
    "Python, click and the package's own files: the rest can't be imported."
    block = "class Nothing:\n    def find_spec(self, name, path=None, target=None):\n        known = {'nvs_book', 'click'} | "
    block += "set(sys.stdlib_module_names)\n        if name.split('.')[0] not in known:\n            raise ModuleNotFoundError("
    block += "f'No module named {name!r}', name=name)\n"
    code = f"import sys\n{block}sys.meta_path.insert(0, Nothing())\nfrom nvs_book.cli import main\nmain(['doctor', '--json'])"
    done = run("-c", code, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == ""
    states = {one["name"]: one["state"] for one in json.loads(done.stdout)["findings"]}
    assert states["torch"] == "fault" and states["Python"] == "ok"


def test_doctor_finds_mangled_weights(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    shutil.copytree(cli.PACKAGE / "weights", folder)
    monkeypatch.setattr(cli, "PACKAGE", tmp_path)
    assert [one.state for one in cli._weights()] == ["ok"]
    one, two, three = sorted(folder.glob("*.safetensors"))[:3]
    one.write_bytes(one.read_bytes()[:-1] + b"\0")
    two.unlink()
    three.with_suffix(".json").write_text("{")
    findings = cli._weights()
    assert [found.name for found in findings] == ["shipped", one.stem, two.stem, three.stem]
    assert {found.state for found in findings} == {"fault"} and "SHA-256" in findings[1].found
    shutil.rmtree(folder)
    assert [found.state for found in cli._weights()] == ["fault"]


def test_doctor_counts_requirements(monkeypatch):
    from importlib import metadata

    wanted = ["torch>=2", "click>=99", "nowhere>1", 'numba>=0; extra == "fast"', 'absent; extra == "fast"',
              "gone; python_version < '3'"]  # fmt: skip
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    assert cli.unmet() == [f"click>=99 ({metadata.version('click')})", "nowhere>1 (not installed)"]
    assert cli.unmet("fast")[-1] == "absent (not installed)"
    assert cli._requirements()[0].state == "fault" and "pip install" in cli._requirements()[0].mend


def test_doctor_without_a_browser(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = cli._browser()[0]
    assert found.state == "missing" and "chromium" in found.mend and found.found == "no chromium and no chromedriver"


@POSIX
def test_doctor_compares_the_versions_of_browser_and_driver(monkeypatch, tmp_path):
    for name, version in {"chromium": "Chromium 131.0.1", "chromedriver": "ChromeDriver 130.0.9 (abc)"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{version}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = cli._browser()[0]
    assert found.state == "missing" and found.found == "chromium 131, chromedriver 130" and "one version" in found.cost


def test_doctor_finds_models_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert {one.state for one in cli._models()} == {"missing"}
    for model, _ in cli.MODELS.values():
        place = tmp_path / f"models--{model.replace('/', '--')}" / "snapshots" / "abc"
        place.mkdir(parents=True)
        (place / "config.json").touch()
    assert {one.state for one in cli._models()} == {"ok"}


def test_doctor_knows_the_models_that_the_package_uses():
    import inspect

    from nvs_book.metrics import clip_score
    from nvs_book.videos import ESTIMATOR

    assert cli.MODELS["depth"][0] == ESTIMATOR
    assert cli.MODELS["CLIP"][0] == inspect.signature(clip_score).parameters["model"].default


def test_doctor_knows_every_extra():
    settings = (ROOT / "settings.ini").read_text(encoding="utf-8")
    assert set(cli.EXTRAS) == set(re.findall(r"^(\w+)_requirements", settings, re.M))
