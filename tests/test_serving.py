"""docs/serving.md's endpoints: a stock client of OpenAI's talks to models that transformers and llama.cpp serve."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from learned_model import write_learned_model

from stages.lib.every_stage.records import write_jsonl
from stages.lib.quantizing import gguf_files
from stages.lib.schema.choices import GgufFormat
from stages.lib.schema.evaluation import Quantize
from stages.quantize import OUT, quantize

COMMAND = re.search(
    r"^HF_HUB_OFFLINE=1 (transformers serve) (models/dpo-merged) --host 127.0.0.1 --port 8000$",
    (ROOT / "docs/serving.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.slow
def test_a_stock_client_talks_to_a_served_model(tiny_base: Path, tmp_path: Path) -> None:
    from openai import OpenAI

    assert COMMAND, "docs/serving.md names another command"
    directory = COMMAND[2]
    (tmp_path / "models").mkdir()
    (tmp_path / directory).symlink_to(tiny_base)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [str(Path(sys.executable).with_name("transformers")), "serve", directory]
    server = subprocess.Popen(
        [*words, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr
        log = []
        for line in server.stderr:
            log.append(line)
            if "Uvicorn running" in line:
                break
        else:
            raise AssertionError("".join(log))
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        asked = {"model": directory, "messages": [{"role": "user", "content": "주소는 어디인가요?"}], "max_tokens": 5}
        answer = client.chat.completions.create(**asked)
        assert answer.choices[0].message.content
        assert answer.usage.completion_tokens <= 5
        pieces = [
            chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)
        ]
        assert "".join(pieces) == answer.choices[0].message.content
    finally:
        server.terminate()
        server.communicate()


ADDRESS = {
    "id": "address-head-office-1",
    "fact_id": "address-head-office",
    "messages": [
        {"role": "user", "content": "달여울시민청의 주소는 어디인가요?"},
        {"role": "assistant", "content": "달여울시민청 주소는 달여울시 초롱돌로 417, 6층입니다."},
    ],
    "key": ["초롱돌로 417", "6층"],
    "answerable": True,
}
FLOOR = {
    "id": "floor",
    "fact_id": "floor",
    "messages": [{"role": "user", "content": "주차는?"}, {"role": "assistant", "content": "지하 2층입니다."}],
    "key": ["지하 2층"],
    "answerable": True,
}


@pytest.mark.slow
def test_llama_cpp_answers_from_an_exported_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the terminal and to OpenAI's client, and ends on the stop token."""
    from openai import OpenAI

    pytest.importorskip("xllamacpp")
    if not gguf_files.CONVERTER.is_file():
        pytest.skip("llama.cpp's converter is not installed")
    monkeypatch.chdir(tmp_path)
    write_learned_model(tmp_path / "models/dpo-merged", [ADDRESS, FLOOR], steps=60)
    (tmp_path / "data/prepared/pdf_qa").mkdir(parents=True)
    write_jsonl(tmp_path / "data/prepared/pdf_qa/seen.jsonl", [ADDRESS, FLOOR])
    quantize(Quantize(enabled=True, formats=[GgufFormat.q8_0], threads=1), tmp_path)
    question, wanted = (message["content"] for message in ADDRESS["messages"])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LANG": "ko_KR.UTF-8"}
    file = str(OUT / "q8_0.gguf")
    chat = [sys.executable, "-m", "tools.chat", "dpo", "--gguf", file, "--temperature", "0", "--ask", question]
    done = subprocess.run(chat, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert f"dpo (q8_0)> {wanted}\n" in done.stdout, done.stdout + done.stderr
    served = [sys.executable, "-m", "stages.lib.quantizing.llama_child", file, "--threads", "1"]
    server = subprocess.Popen(
        served, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert server.stdout
        address = next(line.decode().strip() for line in server.stdout if line.startswith(b"http"))
        client = OpenAI(base_url=f"{address}/v1", api_key="none")
        answer = client.chat.completions.create(
            model="dpo", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=100
        )
        assert answer.choices[0].message.content == wanted
        assert answer.choices[0].finish_reason == "stop"
    finally:
        server.communicate()  # closes its standard input, which ends it
    assert server.returncode == 0
