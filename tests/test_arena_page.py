"""The arena's report page in a real browser: its table of all scales can be filtered and sorted.

The test is skipped where neither Chromium nor Chrome is installed.
"""

import shutil

import pytest
from playwright.sync_api import sync_playwright

from analysis.arena import across
from analysis.arena.dossier import DOSSIER
from analysis.dossier import report

pytestmark = pytest.mark.slow
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PATIENCE = 300_000  # Milliseconds: a busy machine takes minutes.


@pytest.fixture(scope="module")
def content():
    return report.context(DOSSIER, DOSSIER.folder)


@pytest.fixture(scope="module")
def tab(tmp_path_factory, content):
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on the path: install chromium")
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.render_page(DOSSIER, content), "utf-8")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        found = browser.new_page()
        found.set_default_timeout(PATIENCE)
        found.goto(path.as_uri(), timeout=PATIENCE)
        yield found
        browser.close()


def test_rows_can_be_filtered_by_scale_problem_and_kind(tab, content):
    results, shown = content["results"], tab.locator("#places tbody tr:visible")
    assert shown.count() == sum(len(results[name]["methods"]) for name in across.SCALES)
    tab.locator("#browse-scale").select_option("small networks")
    assert shown.count() == len(results["policies"]["methods"])
    tab.locator("#browse-problem").select_option("policies-strong")
    tab.locator("#browse-kind").select_option("merge")
    expected = [row for row in content["places"] if row["made"] == {
        "scale": "small networks", "problem": "policies-strong", "kind": "merge"}]  # fmt: skip
    assert shown.count() == len(expected) > 5
    assert shown.first.locator("td").all_text_contents() == expected[0]["cells"]
    tab.locator("#places th button", has_text="regret").click()
    ranks = [float(text) for text in shown.locator("td:nth-child(6)").all_text_contents()]
    assert ranks == sorted(ranks)
    tab.locator("#browse-words").fill("soup")
    assert shown.count() == 1
    assert "browse.scale=small" in tab.url
