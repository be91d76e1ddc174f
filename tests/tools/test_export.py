"""Ollama's Modelfile says what the model's own template says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from stages.lib.every_stage.errors import UserError
from stages.lib.models.loading import load_tokenizer
from stages.lib.quantizing.modelfile import go_template, modelfile
from tools.export import export

TURNS = {
    "chatml": ("<|im_start|>{role}\n", "<|im_end|>\n"),
    "zephyr": ("<|{role}|>\n", "</s>\n"),
    "llama3": ("<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
    "plain": ("<|{role}|>\n", "{stop}\n"),  # the stop token after an assistant's turn alone
}


@pytest.mark.parametrize("template", sorted(path.stem for path in (ROOT / "conf/chat_template").glob("*.jinja")))
def test_every_shipped_template_has_its_go_template(tiny_base: Path, template: str) -> None:
    """The expected texts, but plain's, were rendered by Go's text/template, and equalled the Jinja template's."""
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.chat_template = (ROOT / f"conf/chat_template/{template}.jinja").read_text(encoding="utf-8")
    tokenizer.bos_token = "<|begin_of_text|>"
    before, after = TURNS[template]
    stops = {"system": "", "user": "", "assistant": tokenizer.eos_token}
    turns = " else ".join(
        f'if eq .Role "{role}" }}}}{before.format(role=role)}{{{{ .Content }}}}{after.format(stop=stop)}{{{{'
        for role, stop in stops.items()
    )
    wanted = f"{{{{ range .Messages }}}}{{{{ {turns} end }}}}{{{{ end }}}}{before.format(role='assistant')}"
    assert go_template(tokenizer) == wanted


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ loop.index }}{{ m.role }}{{ m.content }}{% endfor %}", "more than a constant text"),
        ("{% for m in messages if m.role != 'system' %}{{ m.role }}:{{ m.content }}{% endfor %}", "what system says"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}",
            "refuses a conversation of system: No system; needed one that .* Write the TEMPLATE by hand",
        ),
        ("Rules! {% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}", "before all turns"),
        ("{% for m in messages %}{{ '{{' }}{{ m.role }}:{{ m.content }}{% endfor %}", "needed texts without"),
    ],
)
def test_what_ollama_can_t_be_told_is_refused(tiny_base: Path, template: str, said: str) -> None:
    tokenizer = load_tokenizer(tiny_base)
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=said):
        go_template(tokenizer)


def test_the_modelfile_names_weights_stops_and_sampling(tiny_base: Path) -> None:
    lines = modelfile(tiny_base, "../model", 0.5).splitlines()
    assert lines[0] == "FROM ../model"
    assert lines[-4:] == [
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0.5",
        "PARAMETER top_p 0.9",
        "PARAMETER num_ctx 1024",
    ]


def test_the_modelfile_finds_the_weights_from_where_it_is(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/dpo-merged").symlink_to(tiny_base)
    (tmp_path / "dpo.gguf").touch()
    for gguf, found in ((None, "models/dpo-merged"), (Path("dpo.gguf"), "dpo.gguf")):
        path = export("dpo", gguf)
        weights = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("FROM ")
        assert (path.parent / weights).resolve() == (tmp_path / found).resolve()
    with pytest.raises(UserError, match="absent.gguf: no such file; needed the model as GGUF"):
        export("dpo", Path("absent.gguf"))


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.export"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("export: dpo: no such model here; found none")
