"""Reads the package's metadata from settings.ini, the one place for it."""

import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

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

setup(
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
