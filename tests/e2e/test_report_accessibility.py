"""report.html held against the rules of axe-core in a real browser: light and dark, on a desk and on a phone.

Skipped where Chromium or axe-core is absent: where there is npm, `make test-slow` installs axe-core beside Python's own
packages.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from report_fixture import write_study

from search.report.write import write_report

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
AXE = Path(sys.prefix) / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(not AXE.is_file(), reason="no axe-core beside Python's packages"),
]
PROBE = """<script>addEventListener("load", () => {
  [...waiting.keys()].forEach(drawNow);
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  axe.run(document).then((result) => {
    const out = document.createElement("pre");
    out.id = "axe-out";
    out.textContent = JSON.stringify(result.violations.map((each) =>
      [each.id, each.impact, each.nodes.map((node) => node.html.slice(0, 120)).slice(0, 3)]));
    document.body.append(out);
  });
});</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(write_study(tmp_path_factory.mktemp("axe") / "study").path).read_text()


def violations(page: str, folder: Path, size: str, is_dark: bool) -> list[list[object]]:
    """Return the rules that a page breaks; everything in it is drawn and unfolded."""
    assert CHROMIUM is not None
    # The page's own policy would keep the checker out, as it should.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page, count=1)
    checker = AXE.read_text().replace("</script", "<\\/script")
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"<script>{checker}</script>{PROBE}</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += [f"--blink-settings=preferredColorScheme={0 if is_dark else 1}"]
    command += ["--disable-background-networking", "--virtual-time-budget=30000"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={size}", "--dump-dom"]
    done = subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, timeout=280, check=True
    )
    found = re.search(r'<pre id="axe-out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, "the checker did not end"
    return list(json.loads(html.unescape(found.group(1))))


@pytest.mark.parametrize(("size", "is_dark"), [("1280,4000", False), ("390,4000", True)])
def test_report_breaks_no_rule(page: str, tmp_path: Path, size: str, is_dark: bool) -> None:
    assert violations(page, tmp_path, size, is_dark) == []


def test_a_broken_page_would_be_found(page: str, tmp_path: Path) -> None:
    broken = page.replace('<html lang="en">', "<html>")
    found = violations(broken, tmp_path, "1280,4000", is_dark=False)
    assert [each[0] for each in found] == ["html-has-lang"]
