"""Files of JSON."""

import json

from dvc_data.hashfile.istextfile import istextfile
from dvc_objects.fs.local import LocalFileSystem

from stages.lib.every_stage.records import write_json


def test_dvc_reads_metrics_that_begin_in_hangul(tmp_path):
    content = {"demo": {"answers": {"base": "달여울시민청의 주소는 한빛로 12입니다. " * 40}}}
    write_json(tmp_path / "detail.json", content)
    assert istextfile(str(tmp_path / "detail.json"), LocalFileSystem())
    assert json.loads((tmp_path / "detail.json").read_text(encoding="utf-8")) == content
