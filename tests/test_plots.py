"""`dvc plots show` opens without a network: its page, .dvc/plots.html, has the drawing code in it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from tests.browser import CHROMIUM, in_browser

PAGE = ROOT / ".dvc/plots.html"


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """The page of one curve and of a file of figures, made in a folder of a repository with our configuration."""

    def run(*words: str, cwd: Path = tmp_path) -> None:
        subprocess.run([sys.executable, "-m", *words], cwd=cwd, check=True, capture_output=True)

    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    run("dvc", "init", "--quiet")
    for name in ("config", "plots.html"):
        shutil.copyfile(ROOT / ".dvc" / name, tmp_path / ".dvc" / name)
    (tmp_path / "log.csv").write_text("step,loss\n1,2.5\n2,1.5\n3,1.0\n")
    (tmp_path / "figures.json").write_text('{"kl": 0.1}')
    (tmp_path / "dvc.yaml").write_text("plots:\n- log.csv: {x: step, y: loss}\n- figures.json\n")
    (tmp_path / "below").mkdir()
    run("dvc", "plots", "show", "-o", str(tmp_path / "plots"), cwd=tmp_path / "below")
    return tmp_path / "plots/index.html"


def test_the_page_holds_the_plots_and_loads_nothing(shown):
    page = shown.read_text(encoding="utf-8")
    assert "<title>Graft: plots</title>" in page and '"loss"' in page
    assert not re.findall(r"<(?:script|link)[^>]*(?:src|href)=", page)
    template = PAGE.read_text(encoding="utf-8")
    assert template.count("{plot_divs}") == template.count("{refresh_tag}") == 1
    assert "{scripts}" not in template  # DVC would put the addresses of a network there
    for name in ("vega", "vega-lite", "vega-embed"):
        assert re.search(rf"/\* {name}-\d+\.\d+\.\d+ \*/", template)


@pytest.mark.slow
@in_browser
def test_a_curve_is_drawn_and_what_has_none_is_gone(shown, tmp_path):
    page = shown.read_text(encoding="utf-8")
    said = "document.title = [...document.querySelectorAll('body > div canvas')].map(c => c.width > 60).join()"
    before, end, after = page.rpartition("</body>")
    shown.write_text(f"{before}<script>setTimeout(() => {{ {said} }}, 2000)</script>{end}{after}", encoding="utf-8")
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=5000"]
    command = [*words, f"--user-data-dir={tmp_path / 'profile'}", shown.as_uri()]
    dump = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert re.search(r"<title>(.*?)</title>", dump).group(1) == "true"
