"""docs/serving.md's endpoint: a stock client of OpenAI's talks to a merged model that transformers serves."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

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
