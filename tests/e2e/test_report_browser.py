"""report.html in a real browser: scripts run under the policy, and hostile text stays text.

Skipped where there is no Chromium: `apt-get install chromium` brings one on Debian.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from report_fixture import HOSTILE, write_study

from search.report.write import write_report

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_study(tmp_path_factory.mktemp("browser") / "study").path)


def browse(address: str, profile: Path, *options: str) -> tuple[str, str]:
    """Return what Chromium printed and what the page wrote to its console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    # So high that nothing waits for being scrolled to.
    command += [
        "--window-size=1280,30000",
        "--disable-sync",
        "--hide-scrollbars",
        "--virtual-time-budget=5000",
    ]
    command += ["--enable-logging=stderr", f"--user-data-dir={profile}", *options, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(console)


def body(dom: str, name: str) -> str:
    """Return the text inside the element with an id, up to the next section."""
    inside = dom.split(f'id="{name}"', 1)[1].split("</section>", 1)[0]
    return html.unescape(re.sub(r"<[^>]*>", " ", inside))


def test_page_draws_its_charts_without_a_complaint(report: Path, tmp_path: Path) -> None:
    dom, console = browse(report.as_uri(), tmp_path, "--dump-dom")
    assert console == ""
    chart = dom.split('id="front-chart"', 1)[1].split("</section>", 1)[0]
    assert chart.count('class="point') >= 12  # 11 complete trials and the knee's ring
    assert 'class="main-svg"' in dom.split('id="progress-chart"', 1)[1]
    assert "Trial 8:" in body(dom, "detail-body")  # the knee is open from the start


def test_address_opens_a_trial_and_its_hostile_output_stays_text(
    report: Path, tmp_path: Path
) -> None:
    dom, console = browse(f"{report.as_uri()}#trial-11", tmp_path, "--dump-dom")
    assert console == ""
    detail = body(dom, "detail-body")
    assert "Trial 11:" in detail
    assert "after 2: taste" in detail
    assert HOSTILE in detail
    outside_data = re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    assert "<img" not in outside_data


def test_failed_trial_shows_its_reason_as_text(report: Path, tmp_path: Path) -> None:
    dom, console = browse(f"{report.as_uri()}#trial-9", tmp_path, "--dump-dom")
    assert console == ""
    assert f"Failed: StageError: {HOSTILE}" in body(dom, "detail-body")


@pytest.mark.parametrize("options", [{"n_trials": 0}, {"n_objectives": 1}, {"kl_at_most": -1.0}])
def test_unusual_studies_draw_without_a_complaint(
    tmp_path: Path, options: dict[str, float]
) -> None:
    path = write_report(write_study(tmp_path / "study", **options).path)
    dom, console = browse(path.as_uri(), tmp_path / "profile", "--dump-dom")
    assert console == ""
    assert 'class="main-svg"' in dom


def test_script_that_is_not_ours_is_refused_by_the_policy(report: Path, tmp_path: Path) -> None:
    """The test of the tests above: a page that was broken out of would complain."""
    broken = tmp_path / "broken.html"
    broken.write_text(
        report.read_text().replace("</main>", "</main><script>document.title=1</script>")
    )
    dom, console = browse(broken.as_uri(), tmp_path / "profile", "--dump-dom")
    assert "Content Security Policy" in console
    assert "<title>inner_voice" in dom
