"""A merged model as GGUF files for llama.cpp and Ollama, each scored by llama.cpp itself. Off unless quantize.enabled.

Reads   models/{sft-merged,dpo-merged,preference-merged}, the one that quantize.model names;
        data/prepared/pdf_qa/seen.jsonl
Writes  models/gguf: a file for each of quantize.formats, Ollama's Modelfile for the smallest, lineage.json (which alone
        says "off" where it is off); metrics/quantize.json: size, bits a weight and scores of each file
Run     python -m stages.quantize quantize.enabled=true

Needs llama.cpp and its converter: make gguf.
"""

from pathlib import Path
from typing import Any

from stages.lib.evaluation.scored_rows import Record
from stages.lib.every_stage.entry import run
from stages.lib.every_stage.errors import UserError
from stages.lib.every_stage.lineage import OFF, arguments_of, refuse_damaged, weights_sha256, write_lineage
from stages.lib.every_stage.publish import published
from stages.lib.every_stage.records import read_jsonl, write_json
from stages.lib.family import made_beside
from stages.lib.hardware import describe, set_up_cpu
from stages.lib.quantizing.gguf_files import convert, own_format, quantize_file, refuse_missing_packages, versions
from stages.lib.quantizing.modelfile import modelfile
from stages.lib.quantizing.sampling import TEMPERATURES
from stages.lib.quantizing.scored_files import Exam
from stages.lib.schema.choices import MergedModel
from stages.lib.schema.evaluation import Quantize

SFT = Path("models/sft-merged")
DPO = Path("models/dpo-merged")
PREFERENCE = Path("models/preference-merged")
PDF_QA = Path("data/prepared/pdf_qa")
OUT = Path("models/gguf")
METRICS = Path("metrics/quantize.json")

MODELS = {MergedModel.sft: SFT, MergedModel.dpo: DPO, MergedModel.preference: PREFERENCE}


def quantize(section: Quantize, root: Path) -> dict[str, Any]:
    if not section.enabled:
        publish_nothing(root)
        return {"enabled": False}
    refuse_missing_packages()
    name, directory = chosen_model(section.model)
    exam = Exam(directory, answerable_questions())
    threads = set_up_cpu(section.threads)
    wanted = exam.by_transformers()
    with published(root / OUT) as out:
        out.mkdir()
        own = own_format(directory)
        files = {own: out / f"{own.value}.gguf"}
        convert(directory, files[own], own, f"graft-{name}", bos=exam.begins_with_bos())
        for form in section.formats:
            files[form] = out / f"{form.value}.gguf"
            if form is not own:
                quantize_file(files[own], files[form], form, threads)
        figures, speeds = exam.figures_of_files(files, wanted, section.max_loss, threads)
        if own not in section.formats:
            files.pop(own).unlink()
        write_modelfile(directory, min(files.values(), key=lambda file: file.stat().st_size), name)
        write_lineage(out, {
            "kind": "gguf",
            "weights_sha256": weights_sha256(directory),
            "arguments": arguments_of(section),
            "versions": versions(),
        })  # fmt: skip
    with published(root / METRICS) as path:
        write_json(path, {"model": name, "questions": len(wanted), **figures})
    return {**describe(), "threads": threads, "llama_tokens_per_second": speeds}


def publish_nothing(root: Path) -> None:
    """The outs of a stage that is off: a lineage that says so, and empty figures."""
    with published(root / OUT) as out:
        out.mkdir()
        write_lineage(out, OFF)
    with published(root / METRICS) as path:
        write_json(path, {})


def chosen_model(model: MergedModel) -> tuple[str, Path]:
    """The name of a merged model and where it is. Raises UserError for one that wasn't made, and for damaged files."""
    directory = MODELS[model]
    if (lineage := refuse_damaged(directory)) == OFF:
        raise UserError(
            f"quantize.model: found {model.value}, which is off; needed a model that was trained: set "
            f"{model.value}.enabled=true, or another quantize.model"
        )
    return made_beside(lineage)[0] if model is MergedModel.preference else model.value, directory


def answerable_questions() -> list[Record]:
    """The seen questions that have an answer. Raises UserError where there are none."""
    path = PDF_QA / "seen.jsonl"
    questions = [record for record in read_jsonl(path) if record["answerable"]]
    if not questions:
        raise UserError(
            f"{path}: found no questions with an answer; needed some to score files by. Give facts a second wording "
            "(prepare_pdf_qa.held_out_wordings)"
        )
    return questions


def write_modelfile(directory: Path, file: Path, name: str) -> None:
    """Write Ollama's Modelfile beside `file`; a template that Ollama can't be told is said, and needs one by hand."""
    try:
        text = modelfile(directory, f"./{file.name}", TEMPERATURES[name])
    except UserError as error:
        print(f"quantize: no Modelfile for Ollama: {error}", flush=True)
        return
    file.with_name("Modelfile").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(quantize)
