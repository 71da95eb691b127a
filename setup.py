"""Reads the package's metadata from settings.ini, the one place for it."""

import json
import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
STATUS = {"2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}

parser = ConfigParser(delimiters=["="])
parser.read(HERE / "settings.ini", encoding="utf-8")
config = parser["DEFAULT"]
library = config["lib_path"]


def words(key: str) -> list[str]:
    return shlex.split(config.get(key, ""))


extras = {key.removesuffix("_requirements"): words(key) for key in config if key.endswith("_requirements")}
extras["all"] = sorted({requirement for group in extras.values() for requirement in group})


class BuildWithBook(build_py):
    "A wheel also holds the chapters, without outputs, and the golden numbers: what `nvs-book student` hands out."

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return
        package = Path(self.build_lib) / library
        for part in ("nbs", "golden"):
            shutil.rmtree(package / part, ignore_errors=True)
        shutil.copytree(HERE / "tests" / "golden", package / "golden")
        for source in (HERE / "nbs").rglob("*.ipynb"):
            place = source.relative_to(HERE / "nbs")
            if place.parts[0] not in ("exercises", "workbench") and ".ipynb_checkpoints" not in place.parts:
                write_without_outputs(source, package / "nbs" / place)


def write_without_outputs(source: Path, target: Path) -> None:
    notebook = json.loads(source.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


setup(
    cmdclass={"build_py": BuildWithBook},
    name=config["lib_name"],
    version=config["version"],
    description=config["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=config["author"],
    author_email=config["author_email"],
    url=config["git_url"],
    keywords=words("keywords"),
    classifiers=[
        f"Development Status :: {STATUS[config['status']]}",
        *(f"Intended Audience :: {audience}" for audience in words("audience")),
        f"Natural Language :: {config['language']}",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
        *(f"Programming Language :: Python :: {version}" for version in PYTHONS),
    ],
    python_requires=f">={config['min_python']}",
    install_requires=words("requirements"),
    extras_require=extras,
    packages=find_packages(include=[library, f"{library}.*"]),
    package_data={library: words("package_data")},
    entry_points={"console_scripts": words("console_scripts"), "nbdev": [f"{library}={library}._modidx:d"]},
    zip_safe=False,
)
