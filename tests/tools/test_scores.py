"""What `make scores` says where the files that it shows are damaged."""

import json
from pathlib import Path

import pytest
from conftest import ROOT

from stages.lib.every_stage.errors import UserError
from tools.scores import costs_text, gates_text, scores

DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "conflict": lambda text: f"<<<<<<< HEAD\n{text}\n=======\n{text}\n>>>>>>> other\n",
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_file_is_one_sentence_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    detail = Path("metrics/eval_detail.json")
    detail.parent.mkdir()
    detail.write_text(DAMAGES[damage]((ROOT / detail).read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(UserError, match=r"^metrics/eval_detail\.json: found no JSON .* `git checkout HEAD metrics/"):
        scores()


def test_a_record_or_a_gate_that_was_cut_is_named(tmp_path: Path) -> None:
    whole = json.dumps({"stage": "sft", "seconds": 1.0, "peak_memory_mib": 1, "finished": "today", "kl": 0.1})
    path = tmp_path / "sft.json"
    path.write_text(whole, encoding="utf-8")
    assert "1.0" in costs_text(tmp_path)
    path.write_text(whole[:20], encoding="utf-8")
    for show in (lambda: costs_text(tmp_path), lambda: gates_text({"merge": path})):
        with pytest.raises(UserError, match=r"sft\.json: found no JSON"):
            show()
