"""Documentation runs: the examples in pages and docstrings, and the README's commands on a folder of pictures."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import hetero.cli as cli

ROOT = Path(__file__).parent.parent
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if ">>>" in path.read_text()]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("hetero", "exporters", "device_tests")
    for path in (ROOT / package).rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_examples_in_pages_run(path):
    failures, tried = doctest.testfile(str(path), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert failures == 0
    assert tried > 0


@pytest.mark.parametrize("name", MODULES or ["hetero"])
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_links_between_pages_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_prose_is_wrapped():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = re.sub(
            r"^```.*?^```|<!-- hetero .*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.S | re.M
        )
        long = [line for line in text.splitlines() if len(line) > 160 and not line.startswith(("|", "<!--"))]
        assert not long, (page, long)


def test_documentation_names_no_machine_and_no_registry():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*"), ROOT / "Makefile"]:
        text = page.read_text(encoding="utf-8")
        assert "pypi.org" not in text, page
        assert "../shared" not in text, page


@pytest.fixture
def photos(tmp_path):
    """Ten classes of coloured patterns, nine pictures of each."""
    rng = np.random.default_rng(0)
    for label in range(10):
        pattern = rng.integers(0, 256, (4, 4, 3)).repeat(16, 0).repeat(16, 1)
        folder = tmp_path / "photos" / f"product {label}"
        folder.mkdir(parents=True)
        for index in range(9):
            noisy = np.clip(pattern + rng.normal(0, 30, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{index}.jpg")
    return tmp_path


def test_the_readmes_commands_run_on_a_folder_of_pictures(photos, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(b for b in re.findall(r"```\n(.*?)```", text, re.DOTALL) if b.startswith("hetero data shop.yaml"))
    commands = [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    config = (ROOT / "examples" / "folder.yaml").read_text(encoding="utf-8")
    short = config.replace("epochs: 40", "epochs: 1").replace("batch_size: 64", "batch_size: 16")
    assert short.count("epochs: 1") == 1
    monkeypatch.chdir(photos)
    (photos / "shop.yaml").write_text(
        short.replace("name: shop", "name: shop\nevaluation: {false_accept_rates: [0.05]}")
    )
    picture = Image.open("photos/product 3/1.jpg")
    picture.save("photo.jpg")
    for arguments in commands:
        result = CliRunner().invoke(cli.app, arguments)
        allowed = (0, 1) if arguments[0] == "compat" else (0,)  # one epoch need not satisfy the rule
        assert result.exit_code in allowed, (arguments, result.stdout, result.stderr)
    program = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "embed_files" in b)
    names: dict = {}
    exec(compile(program, "README.md", "exec"), names)
    assert names["vectors"].shape == (1, 128)
    assert names["rows"].shape == (1, 5)
    for name in ("samples.png", "small.hetero", "shop-gallery", "query.png", "runs/shop/report.html"):
        assert (photos / name).exists(), name


def test_every_command_in_the_readme_exists():
    names = {command.callback.__name__ for command in cli.app.registered_commands}
    names |= {group.name for group in cli.app.registered_groups}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"^hetero (\w+)", text, re.MULTILINE))
    assert used
    assert used <= names


def test_every_option_of_hetero_device_in_the_pages_exists():
    shown = CliRunner().invoke(cli.app, ["device", "run", "--help"], env={"COLUMNS": "200"}).stdout
    for page in ("README.md", "docs/phones.md"):
        text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
        commands = re.findall(r"^ *hetero device run (.*)$", text, re.MULTILINE)
        assert commands, page
        for option in {word for line in commands for word in line.split() if word.startswith("--")}:
            assert option in shown, f"{page}: {option}"
