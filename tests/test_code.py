"""What holds for the code as a whole: types that tell, private names in few places, the field's own words."""

import ast
import re

from conftest import ROOT

MODULES = {
    path: path.read_text(encoding="utf-8") for name in ("stages", "tools") for path in (ROOT / name).rglob("*.py")
}

PRIVATE = {
    "stages/lib/training/attention.py": {"_attn_implementation"},
    "stages/lib/training/peft_adapter.py": {"_disable_adapters"},
    "stages/lib/training/trl_trainer.py": {
        "_metrics",
        "_precompute_ref_logps",
        "_prepare_dataset",
        "_prepare_inputs",
        "_stored_metrics",
        "_total_train_tokens",
    },
}
"""Names that transformers, peft and trl keep to themselves, and the one module that uses each."""


def names_in(node: ast.AST) -> set[str]:
    """The names in an annotation, those in quotes too."""
    texts = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} | texts


def loose_names(tree: ast.Module) -> set[str]:
    """Any, and a module's own names for types that have it in them, such as Stage = Callable[[Any, Path], …]."""
    loose = {"Any"}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.isupper() and names_in(node.value) & loose:
                loose.add(name)
    return loose


def parameters(trees: dict[str, ast.Module]) -> list[tuple[str, bool]]:
    """Each parameter of the modules, `self` and `cls` aside, as module:line name, and whether its type has Any in it.

    `trees` are the modules by their dotted names.
    """
    own = {name: loose_names(tree) for name, tree in trees.items()}
    found = []
    for module, tree in trees.items():
        loose = set(own[module])
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module in own:
                loose |= {alias.name for alias in node.names} & own[node.module]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                several = [one for one in (given.vararg, given.kwarg) if one]
                for each in [*given.posonlyargs, *given.args, *given.kwonlyargs, *several]:
                    if each.arg not in ("self", "cls"):
                        is_loose = each.annotation is not None and bool(names_in(each.annotation) & loose)
                        found.append((f"{module}:{node.lineno} {node.name}({each.arg})", is_loose))
    return found


def private_names(text: str) -> set[str]:
    """Names with one underscore in front that a module takes of others, defines over theirs, or asks getattr for."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name):
                found.add(name)
            case ast.alias(name=name):
                found |= set(name.split("."))
            case ast.Call(func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]):
                found.add(name)
            case ast.ImportFrom(module=str(module)) if module != "_typeshed":
                found |= set(module.split("."))
    return {name for name in found if name.startswith("_") and not name.startswith("__") and name != "_"}


def test_parameters_are_counted():
    text = "Row = dict[str, Any]\ndef one(self, a: int, *b: Any, c: 'Row', d: str) -> Any: ..."
    other = "from m import Row\ndef two(row: list[Row], other: int): ..."
    found = parameters({"m": ast.parse(text), "n": ast.parse(other)})
    assert [name for name, loose in found if loose] == ["m:2 one(c)", "m:2 one(b)", "n:2 two(row)"]
    assert len(found) == 6


def test_few_parameters_take_anything():
    trees = {".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(text) for path, text in MODULES.items()}
    found = parameters(trees)
    loose = [name for name, is_loose in found if is_loose]
    assert len(found) > 1000
    assert len(loose) < 0.05 * len(found), loose


def test_private_names_are_found():
    text = "import a._b\nfrom c import _d\nfrom e._f import g\nx._h = getattr(y, '_i')\ndef _j(): self.__k"
    assert private_names(text) == {"_b", "_d", "_f", "_h", "_i", "_j"}


def test_private_names_of_other_libraries_are_in_one_module_each():
    found = {str(path.relative_to(ROOT)): private_names(text) for path, text in MODULES.items()}
    assert {path: names for path, names in found.items() if names} == PRIVATE
    assert sum(map(len, PRIVATE.values())) <= 10


PRIVATE_WORDS = {
    r"(?<![a-z])mend(s|ed|ing)?(?![a-z])": "fix",
    r"(?<![a-z])doubles(?![a-z])": "duplicates",
    r"tokens of beginning|not the beginning": "BOS; a prefix",
    r"(?<![a-z])spread(?![a-z])": "sharded",
    r"(laid|lie|rows) end to end": "packed",
    r"(?<![a-z])beware(?![a-z])": "caveats",
    r"goes on (from|to the same)": "resumes",
    r"(?<![a-z])alike(?![a-z])": "the same",
    r"is no number|not a number": "NaN or infinite",
    r"foreign base": "a different base",
    r"rightly": "correctly, preference accuracy",
    r"(keep|keeps|ruin|lose|take|set) .{0,20}in silence": "silently",
}
"""Words that only this project had, and the field's own."""
OTHER_MEANING = {"bench/data.py": "doubles", "bench/recipes.py": "spread", "tests/test_code.py": ""}
"""Memory that doubles; the spread of figures; this list."""


def test_words_are_the_fields_own():
    folders = ("stages", "tools", "tests", "bench", "docs", "conf")
    files = [path for name in folders for path in (ROOT / name).rglob("*") if path.suffix in (".py", ".md", ".yaml")]
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}, better: {better}"
        for path in [*files, ROOT / "README.md"]
        for word, better in PRIVATE_WORDS.items()
        for match in re.finditer(word, path.read_text(encoding="utf-8").casefold())
        if OTHER_MEANING.get(str(path.relative_to(ROOT)), "-") not in match[0]
    ]
    assert len(files) > 300
    assert found == []
