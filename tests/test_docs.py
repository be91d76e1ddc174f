"""What READMEs and docs/ say is there is there: files, headings, tests, commands, settings."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from stages.lib.configuration import GROUPS, SECTIONS
from stages.lib.known_keys import KnownKeys
from stages.lib.schema.config import Config
from stages.lib.yaml_files import read_yaml
from tools.graft import FORWARDED

READMES = [ROOT / "README.md", ROOT / "README.ko.md"]
PAGES = sorted({*READMES, *(ROOT / "docs").glob("*.md"), *(ROOT / "data/raw").rglob("README.md")})
PAGES += [ROOT / "data/README.md", ROOT / "models/README.md"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)((?:[\s,]*`test_\w+`)*)")
"""A link, and the names of tests that follow it."""
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
YAML = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = r"(?:py|md|json|jsonl|csv|html|yaml|txt|svg|gguf)"
KNOWN = KnownKeys(Config, GROUPS)
FIELDS = {part for name in KNOWN.names for part in name.split(".")}
OTHERS = {"trust_remote_code"}
"""Settings of libraries that a page speaks of."""
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
WRITTEN = {"data/raw/votes/votes.jsonl", "data/raw/votes/unpaired.jsonl", "data/raw/pdf_qa/review/decisions.jsonl"}
"""By people, in the arena and the review."""
MADE = "data/prepared", "metrics", "models"
"""Folders of what stages make: a clone may lack it."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_of(page: Path) -> list[str]:
    """What a page shows as code: spans and blocks."""
    return CODE.findall(text_of(page))


@cache
def names_of(path: Path) -> set[str]:
    """The names of the tests of a file."""
    return {node.name for node in ast.walk(ast.parse(text_of(path))) if isinstance(node, ast.FunctionDef)}


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL), re.MULTILINE)
    words = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in words}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=named)


def test_there_are_pages():
    assert {"README.md", "README.ko.md", "docs/determinism.md", "docs/gates.md"} <= {named(page) for page in PAGES}


@each_page
def test_links_lead_to_files_headings_and_the_tests_that_they_name(page):
    for target, tests in LINK.findall(text_of(page)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors_of(path), target
        for test in re.findall(r"test_\w+", tests):
            assert test in names_of(path), f"{target}: {test}"


@each_page
def test_every_test_that_a_page_names_exists(page):
    files = [path for path in (ROOT / "tests").rglob("test_*.py")]
    known = {path.stem for path in files}.union(*map(names_of, files))
    assert {test for test in re.findall(r"\btest_\w+", text_of(page)) if test not in known} == set()


@each_page
def test_commands_that_a_page_shows_exist(page):
    commands = [name for code in code_of(page) for name in re.findall(r"(?:^|`|\()graft ([a-z]+)", code, re.MULTILINE)]
    assert set(commands) - {*FORWARDED, "run", "report"} == set()
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    ours = [name for code in code_of(page) for name in re.findall(r"python -m ((?:stages|tools|bench)[\w.]*)", code)]
    made = [name for code in code_of(page) for name in re.findall(r"(?:^|`|\()make ([a-z-]+)", code, re.MULTILINE)]
    assert {name for name in ours if not (ROOT / f"{name.replace('.', '/')}.py").is_file()} == set()
    assert set(made) - targets == set()


@each_page
def test_settings_that_a_page_names_are_keys_of_the_schema(page):
    """`sft.lora.r`, `sft.lora.r=8`, `lora_dropout=0` (a field of some section), `recipe=notebook` (a file of conf/)."""
    wrong = []
    for code in code_of(page):
        wrong += unknown_settings(code)
        if code.startswith("```python"):
            continue
        for name, value in re.findall(r"(?<![\w.\-{$\[\"])([a-z]\w*)=([\w.\-]*)", code):
            if name in GROUPS:
                wrong.append("" if (ROOT / "conf" / name / f"{value}.yaml").is_file() else f"{code}: {name}={value}")
            elif name not in FIELDS | OTHERS:
                wrong.append(f"{code}: no section has {name}")
    assert [problem for problem in wrong if problem] == []


NO_SETTING = re.compile(rf"\.{FILE}$|\.(?:seen|unseen|unanswerable|preferences)\.")
"""Names of files, such as sft.json, and of figures, such as dpo.seen.key_exact."""


def unknown_settings(text: str) -> list[str]:
    """What is wrong with each `section.key` in a text."""
    names = re.findall(rf"(?<![\w./\-])((?:{'|'.join(SECTIONS)})(?:\.[A-Za-z_]\w*)+)", text, re.ASCII)
    problems = [KNOWN.problem(tuple(name.split(".")), text) for name in names if not NO_SETTING.search(name)]
    return [problem for problem in problems if problem]


def messages_of(path: Path) -> list[str]:
    """The texts of a module that are no docstrings, the fixed parts of f-strings among them."""
    nodes = list(ast.walk(ast.parse(text_of(path))))
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in alone]
    return [node.value for node in texts if isinstance(node.value, str)]


def test_settings_that_messages_name_are_keys_of_the_schema():
    texts = [
        text for folder in ("stages", "tools") for path in (ROOT / folder).rglob("*.py") for text in messages_of(path)
    ]
    assert sum("sft.learning_rate" in text for text in texts) > 0
    assert [problem for text in texts for problem in unknown_settings(text)] == []


@each_page
def test_yaml_that_a_page_shows_can_be_put_into_params(page, tmp_path):
    for number, block in enumerate(YAML.findall(text_of(page))):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        _, keys = read_yaml(path)
        assert keys
        assert KNOWN.problems([(key, f"line {line}") for key, line in keys]) == []


def made_by_stages() -> set[str]:
    """Paths of outputs, all that is above them, and the folder of run records."""
    entries = [
        entry for stage in PIPELINE.values() for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])
    ]
    outs = {Path(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries} | {Path("metrics/runs")}
    return {str(path) for out in outs for path in (out, *out.parents)}


@each_page
def test_files_that_a_page_names_exist_or_are_made_by_a_stage(page):
    folders = "stages|tools|bench|tests|conf|docs|data|models|metrics"
    made = made_by_stages()
    for code in code_of(page):
        for name in re.findall(rf"(?<![\w./\-])((?:{folders})/[\w./\-]*)", code, re.ASCII):
            path = name.rstrip("/.")
            if path.startswith(MADE):
                assert path in made or str(Path(path).parent) in made - set(MADE), name
            else:
                assert (ROOT / path).exists() or path in WRITTEN, name


def test_both_readmes_have_the_same_links_and_commands():
    links = [{target for target, _ in LINK.findall(text_of(page))} for page in READMES]
    commands = [
        set(re.findall(r"^(?:python -m|dvc|graft|make) [^#\n]+?(?=\s*(?:#|$))", text_of(page), re.MULTILINE))
        for page in READMES
    ]
    assert links[0] - {"README.ko.md"} == links[1] - {"README.md"}
    assert commands[0] == commands[1]


def test_every_gate_names_a_test():
    rows = [line for line in text_of(ROOT / "docs/gates.md").splitlines() if line[:2] == "| "]
    rows = [row for row in rows if not row.startswith(("| what would", "| ---"))]
    assert len(rows) > 30
    assert all(re.search(r"\]\(\.\./tests/\S+\) `test_\w+` ?[|;]", row) for row in rows)


MAPPED = re.compile(r"^  (\w+\.py)  +(\S.*)$")
"""A line of the map: a file and what it is for."""


def test_the_map_has_every_module_of_the_libraries():
    found = []
    for block in re.findall(r"^```\n(.*?)^```", text_of(ROOT / "docs/architecture.md"), re.DOTALL | re.MULTILINE):
        folder, *lines = block.splitlines()
        assert all(MAPPED.match(line) for line in lines), block
        found += [folder.split()[0] + line.split()[0] for line in lines]
    modules = [path for name in ("stages/lib", "tools/lib") for path in (ROOT / name).rglob("*.py")]
    assert sorted(found) == sorted(named(path) for path in modules if path.stem != "__init__")
