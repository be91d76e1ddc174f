"""GGUF files of a tiny model that has learned some answers, by llama.cpp's own converter, quantisation and server."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, Project, flip_a_bit
from learned_model import write_learned_model

from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, file_sha256, read_lineage, write_lineage
from stages.lib.every_stage.records import read_jsonl, write_jsonl
from stages.lib.quantizing import gguf_files
from stages.lib.quantizing.gguf_files import convert, own_format, quantize_file
from stages.lib.quantizing.llama_server import llama_server
from stages.lib.quantizing.scored_files import Exam
from stages.lib.schema.choices import GgufFormat, MergedModel
from stages.lib.schema.evaluation import Quantize
from stages.quantize import METRICS, OUT, quantize

FACTS = 12
STEPS = 120


def section(*formats: str, **changes: object) -> Quantize:
    return Quantize(enabled=True, formats=[GgufFormat(name) for name in formats], threads=1, **changes)


def seen_rows() -> list[dict]:
    """One wording of each of the first facts of the default data, as prepare-pdf-qa writes them."""
    rows = {row["fact_id"]: row for row in read_jsonl(ROOT / "data/raw/pdf_qa/office-guide.jsonl")}
    return [
        {
            "id": row["id"],
            "fact_id": row["fact_id"],
            "messages": [
                {"role": "user", "content": row["instruction"]},
                {"role": "assistant", "content": row["output"]},
            ],
            "key": row["key"],
            "answerable": True,
        }
        for row in [row for row in rows.values() if row["answerable"]][:FACTS]
    ]


@pytest.fixture(scope="session")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with models/dpo-merged, a tiny model that answers the seen questions, and with these."""
    place = tmp_path_factory.mktemp("learned")
    write_learned_model(place / "models/dpo-merged", seen_rows(), STEPS)
    (place / "data/prepared/pdf_qa").mkdir(parents=True)
    write_jsonl(place / "data/prepared/pdf_qa/seen.jsonl", seen_rows())
    return place


@pytest.fixture
def llama() -> None:
    """llama.cpp and its converter, where they are installed (make test does it)."""
    pytest.importorskip("xllamacpp")
    if not gguf_files.CONVERTER.is_file():
        pytest.skip("llama.cpp's converter is not installed")


@pytest.fixture
def spot(llama: None, learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh working directory whose model and questions are links."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/dpo-merged").symlink_to(learned / "models/dpo-merged")
    (tmp_path / "data").symlink_to(learned / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(spot: Path, name: str) -> Path:
    """A copy of the model to plant a defect in."""
    copy = spot / name
    shutil.copytree(spot / "models/dpo-merged", copy)
    return copy


def test_off_says_so_and_nothing_else(tmp_path: Path) -> None:
    quantize(Quantize(), tmp_path)
    assert [path.name for path in (tmp_path / OUT).iterdir()] == ["lineage.json"]
    assert read_lineage(tmp_path / OUT) == OFF
    assert json.loads((tmp_path / METRICS).read_text(encoding="utf-8")) == {}


def test_without_the_extra_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_files, "CONVERTER", tmp_path / "nowhere/convert_hf_to_gguf.py")
    with pytest.raises(UserError, match=r"convert_hf_to_gguf\.py: not installed; needed .*: make gguf"):
        quantize(Quantize(enabled=True), tmp_path)


def test_a_model_that_is_off_is_refused(llama: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models/preference-merged").mkdir(parents=True)
    write_lineage(tmp_path / "models/preference-merged", OFF)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"quantize\.model: found preference, which is off; .*preference\.enabled=true"):
        quantize(section("q8_0", model=MergedModel.preference), tmp_path)


@pytest.mark.chain
def test_each_file_answers_as_the_model_does_and_twice_with_equal_bytes(spot: Path) -> None:
    facts = quantize(section("q8_0", "q4_k_m"), spot / "one")
    found = json.loads((spot / "one" / METRICS).read_text(encoding="utf-8"))
    assert found["questions"] == FACTS
    assert found["transformers"] == {"key_exact": 1.0, "same": 1.0}
    assert found["bf16"]["key_exact"] == found["q8_0"]["key_exact"] == found["q8_0"]["stop_rate"] == 1.0
    assert found["bf16"]["bits_per_weight"] > 16 > found["q8_0"]["bits_per_weight"] > 8.5
    assert found["q8_0"]["bits_per_weight"] > found["q4_k_m"]["bits_per_weight"] > 4.5
    assert set(facts["llama_tokens_per_second"]) == {"bf16", "q8_0", "q4_k_m"}
    files = {path.name for path in (spot / "one" / OUT).iterdir()}
    assert files == {"q8_0.gguf", "q4_k_m.gguf", "Modelfile", "lineage.json"}
    modelfile = (spot / "one" / OUT / "Modelfile").read_text(encoding="utf-8")
    assert modelfile.startswith("FROM ./q4_k_m.gguf\n") and 'PARAMETER stop "<|im_end|>"' in modelfile
    assert str(spot) not in (spot / "one" / OUT / "q8_0.gguf").read_bytes().decode("latin-1")
    quantize(section("q8_0", "q4_k_m"), spot / "two")
    for name in (*files, METRICS):
        where = [spot / run / (name if name == METRICS else OUT / name) for run in ("one", "two")]
        assert file_sha256(where[0]) == file_sha256(where[1]), name


@pytest.mark.chain
def test_a_file_that_forgot_the_answers_is_refused_by_its_score(spot: Path) -> None:
    """A few channels are 64 times as large, as some models have them: two bits a weight leave nothing beside these."""
    from safetensors.torch import load_file, save_file

    other = changed(spot, "models/sft-merged")
    weights = load_file(other / "model.safetensors")
    for name, weight in weights.items():  # the model is the same, bit for bit
        if "layernorm" in name:
            weight[::16] /= 64
        elif any(part in name for part in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")):
            weight[:, ::16] *= 64
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    write_lineage(other, {"kind": "merged"})
    with pytest.raises(UserError, match=r"q2_k\.gguf: its key_exact on seen questions is 0\.\d+, needed 0\.95 or more"):
        quantize(section("q2_k", model=MergedModel.sft), spot)
    assert not (spot / OUT).exists() and not (spot / METRICS).exists()


@pytest.mark.chain
def test_a_file_that_reads_another_prompt_is_refused(spot: Path) -> None:
    exam = Exam(spot / "models/dpo-merged", seen_rows()[:2])
    file = spot / "bos.gguf"
    convert(spot / "models/dpo-merged", file, GgufFormat.bf16, "planted", bos=True)
    with pytest.raises(UserError, match=r"llama\.cpp reads its prompt as the tokens"):
        exam.by_llama(file, 1)
    other = changed(spot, "zephyr")
    shutil.copyfile(ROOT / "conf/chat_template/zephyr.jinja", other / "chat_template.jinja")
    convert(other, file, GgufFormat.bf16, "planted", bos=False)
    with pytest.raises(UserError, match=r"llama\.cpp renders .* needed chat_template\.jinja's"):
        exam.by_llama(file, 1)


@pytest.mark.chain
def test_a_file_of_another_model_is_refused(spot: Path) -> None:
    """Its heads rotate otherwise, as where a converter forgets to reorder them."""
    from safetensors.torch import load_file, save_file

    exam = Exam(spot / "models/dpo-merged", seen_rows())
    other = changed(spot, "other")
    weights = load_file(other / "model.safetensors")
    for name, weight in weights.items():
        if "q_proj" in name:
            weights[name] = weight.reshape(4, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape).contiguous()
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    file = spot / "other.gguf"
    convert(other, file, GgufFormat.bf16, "planted", bos=False)
    with pytest.raises(UserError, match=r"% of its answers by llama\.cpp are transformers' .* needed 90%"):
        exam.figures_of_files({GgufFormat.bf16: file}, exam.by_transformers(), 0.05, 1)


@pytest.mark.chain
def test_a_file_that_ends_on_another_token_is_refused(spot: Path) -> None:
    other = changed(spot, "endless")
    config = json.loads((other / "tokenizer_config.json").read_text(encoding="utf-8"))
    (other / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|endoftext|>"}), encoding="utf-8")
    file = spot / "endless.gguf"
    convert(other, file, GgufFormat.bf16, "planted", bos=False)
    with pytest.raises(UserError, match=r"it ends answers on token \d+, needed one of"):
        Exam(spot / "models/dpo-merged", seen_rows()[:2]).by_llama(file, 1)


@pytest.mark.chain
def test_what_llama_can_not_convert_load_or_quantise_is_one_sentence(spot: Path, tiny_base: Path) -> None:
    file = spot / "file.gguf"
    with pytest.raises(UserError, match=r"llama\.cpp's converter can't write it as GGUF: .*pre-tokenizer"):
        convert(tiny_base, file, own_format(tiny_base), "tiny", bos=False)
    file.write_bytes(b"no GGUF")
    with pytest.raises(UserError, match=r"file\.gguf"):
        quantize_file(file, spot / "q8_0.gguf", GgufFormat.q8_0, 1)
    convert(spot / "models/dpo-merged", file, GgufFormat.bf16, "cut", bos=False)
    file.write_bytes(file.read_bytes()[:-4096])
    with pytest.raises(UserError, match=r"file\.gguf: found no whole GGUF file"):
        Exam(spot / "models/dpo-merged", seen_rows()[:2]).by_llama(file, 1)
    with (
        pytest.raises(UserError, match=r"file\.gguf: llama\.cpp can't load it: .*quantize\.formats"),
        llama_server(file, 1, 64),
    ):
        pass


def test_a_flipped_bit_in_the_model_is_refused(spot: Path) -> None:
    other = changed(spot, "models/sft-merged")
    flip_a_bit(other / "model.safetensors", 5000)
    with pytest.raises(UserError, match=r"models/sft-merged: model\.safetensors isn't what its stage wrote"):
        quantize(section("q8_0", model=MergedModel.sft), spot)


@pytest.mark.slow
def test_dvc_repro_with_its_key_makes_and_scores_the_files(llama: None, learned: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(learned / "models/dpo-merged", base)
    (base / "lineage.json").unlink()
    project = Project(tmp_path / "project", base)
    with (project.directory / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("quantize: {enabled: true, formats: [q8_0], max_loss: 0.9}\n")
    assert "quantize" in project.repro("quantize")
    found = json.loads((project.directory / METRICS).read_text(encoding="utf-8"))
    assert found["model"] == "dpo" and found["q8_0"]["same"] > 0.5
    assert (project.directory / OUT / "q8_0.gguf").is_file()
    assert project.repro("quantize") == []
