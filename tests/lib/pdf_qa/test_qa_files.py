"""Links in a folder of one's own: none leads out of it unseen."""

import re
from pathlib import Path

import pytest

from stages.lib.every_stage.errors import UserError
from stages.lib.pdf_qa.qa_files import files_in, questions_and_pdfs, unread_files
from stages.lib.pdf_qa.review_decisions import FILE as DECISIONS
from stages.lib.schema.data import PreparePdfQa


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    own = Path("own")
    own.mkdir()
    (own / "rows.jsonl").touch()
    return own


def test_links_that_lead_out_are_refused_all_at_once(own):
    Path("secret.jsonl").write_text("a line of it would stand among the rejects")
    (own / "a.jsonl").symlink_to(Path("secret.jsonl").absolute())
    (own / "b.jsonl").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match=r"own/a\.jsonl -> .*secret\.jsonl, own/b\.jsonl -> /etc/hostname\. Copy"):
        files_in([str(own)], (".jsonl",), "prepare_pdf_qa.files")


def test_the_decisions_of_a_review_are_no_rows_and_no_file_left_unread(own):
    DECISIONS.parent.mkdir(parents=True)
    DECISIONS.write_text("{}")
    (DECISIONS.parent / "README.md").touch()
    (DECISIONS.parents[1] / "rows.jsonl").touch()
    for folder in (DECISIONS.parents[1], DECISIONS.parents[1].absolute()):
        section = PreparePdfQa(files=[str(folder)], max_tokens=100)
        files, _ = questions_and_pdfs(section)
        assert [path.name for path in files] == ["rows.jsonl"] and unread_files(section, files) == []


def test_links_within_the_folder_and_dvcs_own_are_read(own):
    (own / "again.jsonl").symlink_to("rows.jsonl")
    cached = Path(".dvc/cache/files/md5/3f/aa")
    cached.parent.mkdir(parents=True)
    cached.touch()
    (own / "tracked.jsonl").symlink_to(cached.absolute())
    found = files_in([str(own)], (".jsonl",), "prepare_pdf_qa.files")
    assert [path.name for path in found] == ["again.jsonl", "rows.jsonl", "tracked.jsonl"]


def test_a_linked_folder_and_a_link_to_nothing_are_listed_as_not_read(own):
    Path("elsewhere").mkdir()
    Path("elsewhere/more.jsonl").touch()
    (own / "folder").symlink_to(Path("elsewhere").absolute())
    (own / "folder.jsonl").symlink_to(Path("elsewhere").absolute())
    (own / "gone.hwp").symlink_to("nowhere")
    section = PreparePdfQa(files=[str(own)], pdfs=[str(own)], max_tokens=1024)
    files, pdfs = questions_and_pdfs(section)
    assert (files, pdfs) == ([own / "rows.jsonl"], [])
    unread = unread_files(section, files)
    assert [re.sub("^own/", "", name) for name in unread] == ["folder", "folder.jsonl", "gone.hwp"]
