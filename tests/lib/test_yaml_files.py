"""YAML that people write: nothing in it is lost without a word."""

from pathlib import Path

import pytest

from stages.lib.every_stage.errors import UserError
from stages.lib.yaml_files import read_yaml


def written(path: Path, content: str | bytes) -> Path:
    file = path / "params.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def test_content_and_the_lines_of_its_keys(tmp_path: Path) -> None:
    content, keys = read_yaml(written(tmp_path, "# a\nsft:\n  lora: {r: 8}\n  mix:\n  - {pdf_qa: 1}\n"))
    assert content == {"sft": {"lora": {"r": 8}, "mix": [{"pdf_qa": 1}]}}
    assert keys == [
        (("sft",), 2),
        (("sft", "lora"), 3),
        (("sft", "lora", "r"), 3),
        (("sft", "mix"), 4),
        (("sft", "mix", "[0]", "pdf_qa"), 5),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            "dpo:\n  beta: 0.1\nsft: {}\ndpo:\n  learning_rate: 1\n",
            ["params.yaml:4: the key dpo is in line 1 already"],
        ),
        ("dpo: {beta: 0.1,\n  beta: 0.2}\n", ["params.yaml:2: the key dpo.beta is in line 1"]),
        ("defaults:\n- {a: 1, a: 2}\n", ["params.yaml:2: the key defaults.[0].a is in line 2"]),
        (
            "'a': 1\n\"a\": 2\nb: 1\nb: 2\nb: 3\n",
            ["a is in line 1", ":4: the key b", ":5: the key b is in line 3"],
        ),
    ],
)
def test_a_key_that_stands_twice_is_named_with_both_lines(tmp_path: Path, content: str, said: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        read_yaml(written(tmp_path, content))
    for words in said:
        assert words in str(refused.value)


def test_what_a_merge_brings_in_may_be_overridden(tmp_path: Path) -> None:
    content, _ = read_yaml(written(tmp_path, "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n"))
    assert content["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("cp949", "params.yaml:2: found what looks like cp949, needed UTF-8; save the file as UTF-8"),
        ("utf-16", "params.yaml:1: found UTF-16, needed UTF-8"),
        ("utf-16-le", "needed UTF-8; save the file as UTF-8"),
        ("utf-16-be", "needed UTF-8; save the file as UTF-8"),
    ],
)
def test_another_encoding_is_one_sentence(tmp_path: Path, encoding: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        read_yaml(written(tmp_path, "model: smollm2-135m\n# 시민청\ndata: own\n".encode(encoding)))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_ascii_in_utf_16_is_one_sentence_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found UTF-16 or UTF-32, needed UTF-8"):
        read_yaml(written(tmp_path, "model: a\n".encode("utf-16-le")))


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "\ufeffmodel: a\n".encode()))[0] == {"model": "a"}


@pytest.mark.parametrize("content", ["a: [1, 2\n", "a: b: c\n", "\ta: 1\n", "a: \x07\n"])
def test_what_is_not_yaml_is_one_sentence(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match="params.yaml: not YAML: ") as refused:
        read_yaml(written(tmp_path, content))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="conf.yaml: no such file"):
        read_yaml(tmp_path / "conf.yaml")


MULTIPLIED = "a: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 5)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (MULTIPLIED, "found 74738 values, needed 10000 or fewer; its aliases"),
        ("sft: &a\n  lora: *a\n", "found values within values without an end"),
        ("sft: &a\n  <<: *a\n", "found values within values without an end"),
        (f"sft: {'[' * 5000}{']' * 5000}\n", "found values within values without an end"),
    ],
    ids=["multiplied", "in itself", "merged into itself", "brackets"],
)
def test_yaml_without_an_end_is_one_sentence(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(UserError, match=r"^\S*params.yaml: " + said):
        read_yaml(written(tmp_path, content))


def test_a_folder_in_place_of_the_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    with pytest.raises(UserError, match="params.yaml: can't be read: Is a directory; needed a file"):
        read_yaml(tmp_path / "params.yaml")
