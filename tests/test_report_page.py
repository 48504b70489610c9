"""The report page in a real browser: it renders, its controls work, and it is accessible.

The tests of this file are skipped where neither Chromium nor Chrome is installed; `.ci/run`
installs one.
"""

import shutil
from collections import Counter

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from analysis.dossier import controls
from analysis.fernando2024 import explorers
from analysis.fernando2024.dossier import DOSSIER

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--disable-background-networking", "--disable-component-update",
         "--disable-sync")  # fmt: skip
NARROW, WIDE = {"width": 400, "height": 850}, {"width": 1600, "height": 1000}
PATIENCE = 300_000  # Milliseconds: drawing all plots takes seconds, and minutes on a busy machine.
RESET = """() => {
  for (const form of document.forms) { form.reset(); form.dispatchEvent(new Event("input")); }
  for (const part of document.querySelectorAll("main details")) part.open = false;
  scrollTo(0, 0);
}"""
SMALLEST_TEXT = """() => {
  const sizes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    // Indices of formulas are smaller than their text by the rules of typesetting.
    const text = walker.currentNode.data.trim();
    if (!text || parent.closest("script, style, math, noscript")) continue;
    if (parent.checkVisibility()) sizes.push([parseFloat(getComputedStyle(parent).fontSize), text]);
  }
  return sizes.sort((a, b) => a[0] - b[0])[0];
}"""


@pytest.fixture(scope="module")
def content(paper):
    return paper


@pytest.fixture(scope="module")
def address(tmp_path_factory, paper_page):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(paper_page, "utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser():
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on the path: install chromium")
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=program, headless=True, args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture(scope="module", params=[NARROW, WIDE], ids=["400px", "1600px"])
def either(request, browser, address):
    """The page on a narrow and on a wide screen."""
    tab = browser.new_page(viewport=request.param)
    tab.goto(address, timeout=PATIENCE)
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def opened(browser, address):
    """The page on a wide screen, with the browser's messages and requests."""
    found = browser.new_page(viewport=WIDE)
    found.noted, found.asked = [], []
    found.on("console", lambda message: found.noted.append(message.text))
    found.on("pageerror", lambda error: found.noted.append(str(error)))
    found.on("request", lambda request: found.asked.append(request.url))
    found.goto(address, timeout=PATIENCE)
    yield found
    found.close()


@pytest.fixture
def tab(opened):
    """The page as first opened. Loading takes seconds, so the tests share one page."""
    opened.emulate_media(media="screen")
    opened.evaluate(RESET)
    yield opened
    assert opened.noted == []


def visible(tab, plot):
    """The choices for which the present curves were made."""
    return tab.evaluate("plot => document.getElementById(`${plot}-plot`).visible", plot)


def drawn(tab, plot):
    """The paths on the screen, as the browser has drawn them."""
    lines = tab.locator(f"#{plot} .curves path.line")
    return [line.get_attribute("d") for line in lines.all()]


def test_it_renders_without_a_complaint_and_asks_the_network_for_nothing(tab, address):
    tab.mouse.wheel(0, 4000)
    tab.wait_for_timeout(300)
    assert [url for url in tab.asked if not url.startswith("data:")] == [address]
    assert tab.locator("main .plot > svg").count() >= 5


IMAGES = """() => Promise.all([...document.images].map(async (image) => {
  const copy = new Image();
  copy.src = image.src;
  await copy.decode();
  return [image.closest("figure").id, image.alt, copy.naturalWidth, image.src.length];
}))"""


def test_every_figure_is_there_with_an_alternative_text(either, content):
    images = either.evaluate(IMAGES)
    assert len(images) == len(content["figures"]) >= len(DOSSIER.figures)
    for name, alt, width, length in images:
        empty = content["results"][name].get("seeds") == 0  # Its picture says: no run yet.
        assert alt, name
        assert width > 300, name
        assert length > (800 if empty else 3000), name


def test_a_figure_unfolds_by_a_click_and_by_its_address(tab, browser, address):
    tab.locator("#sequential_gap summary").click()
    tab.wait_for_function("document.querySelector('#sequential_gap img').naturalWidth > 300")
    assert tab.locator("#sequential_gap .caption").is_visible()
    other = browser.new_page(viewport=NARROW)
    other.goto(f"{address}#budget_splits", timeout=PATIENCE)
    assert other.locator("#budget_splits img").is_visible()
    assert not other.locator("#sequential_gap img").is_visible()
    other.close()


def test_the_first_screen_has_the_question_and_a_figure_to_move(either):
    height = either.viewport_size["height"]
    assert "?" in either.locator("h1").inner_text()
    for part in ("h1", "#lead-schedule", "#lead-lambda", "#lead-plot"):
        assert either.locator(part).bounding_box()["y"] < 0.8 * height, part


def test_the_arrow_leads_from_the_end_of_a_run_to_what_was_asked_for(tab, content):
    tab.locator("#lead-schedule").select_option("dpo-sft")
    tab.locator("#lead-lambda").press("End")
    (note,) = tab.locator("#lead-notes p:visible").all()
    (run,) = (
        path
        for path in content["results"]["explorer"]["paths"]
        if path["chosen"] == {"schedule": "dpo-sft", "lambda": "0.9", "run": "mean"}
    )
    assert f"{run['regret']:.2g}" in note.inner_text()
    plot = tab.evaluate("JSON.parse(document.getElementById('lead-curves').textContent)")
    chosen = {"schedule": "dpo-sft", "lambda": "0.9"}
    (arrow,) = (c for c in plot["curves"] if c.get("arrow") and c["meta"] == chosen)
    assert [arrow["x"][0], arrow["y"][0]] == [run["sft_loss"][-1], run["preference_loss"][-1]]
    assert [arrow["x"][1], arrow["y"][1]] == content["results"]["explorer"]["targets"]["0.9"]


def test_the_address_keeps_what_is_chosen_and_sorted(tab, browser):
    tab.locator("#lead-schedule").select_option("mix")
    tab.locator("#lead-lambda").press("Home")
    head = tab.locator("#problems th button").nth(1)
    head.click()
    other = browser.new_page(viewport=WIDE)
    other.goto(tab.url, timeout=PATIENCE)
    assert other.locator("#lead-schedule").input_value() == "mix"
    assert other.locator("output[for=lead-lambda]").inner_text() == "0.1"
    assert drawn(other, "lead") == drawn(tab, "lead")
    cells = other.locator("#problems tbody td:nth-child(2)").all_text_contents()
    assert cells == sorted(cells, key=lambda text: float(text.split()[0]))
    assert cells == tab.locator("#problems tbody td:nth-child(2)").all_text_contents()
    other.close()
    head.click()
    assert tab.locator("#problems tbody td:nth-child(2)").all_text_contents() == cells[::-1]


def test_a_dark_screen_gets_a_dark_page_that_can_be_read(browser, address):
    dark = browser.new_page(viewport=WIDE, color_scheme="dark")
    dark.goto(address, timeout=PATIENCE)
    paper = dark.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, paper.removeprefix("rgb(").removesuffix(")").split(","))) < 64
    assert [rule["id"] for rule in Axe().run(dark).response["violations"]] == []
    dark.close()


def test_it_can_be_read_on_a_telephone_and_on_a_wide_screen(either):
    root = "document.documentElement"
    assert either.evaluate(f"{root}.scrollWidth") <= either.evaluate(f"{root}.clientWidth")
    size, text = either.evaluate(SMALLEST_TEXT)
    assert size >= 14, text
    line = either.evaluate("document.querySelector('main p').clientWidth / 17")
    assert line < 60  # A longer line, in em, is hard to read.


def test_nobody_is_shut_out(either):
    """Contrast, names of controls, alternative texts and headings satisfy the rules of axe-core."""
    either.evaluate("dispatchEvent(new Event('beforeprint'))")  # Opens the figures.
    response = Axe().run(either).response
    assert {"color-contrast", "image-alt", "label", "link-name"} <= {
        r["id"] for r in response["passes"]
    }
    found = response["violations"]
    assert [(rule["id"], [node["html"][:90] for node in rule["nodes"][:3]]) for rule in found] == []


@pytest.mark.parametrize(
    "chosen",
    [
        {"schedule": "alright"},
        {"lambda": "0.9"},
        {"run": "2"},
        {"schedule": "sft-dpo", "lambda": "all", "run": "all"},
    ],
)
def test_a_choice_changes_what_is_drawn(tab, content, chosen):
    plot = "explore-schedules"
    before = drawn(tab, plot)
    for name, value in chosen.items():
        tab.locator(f"#{plot}-{name}").select_option(value)
    assert drawn(tab, plot) != before
    everything = {"schedule": "all", "lambda": "0.5", "run": "mean"} | chosen
    (explorer,) = (e for e in explorers.explorers(content["results"]) if e.name == plot)
    expected = [row for row in explorer.rows if controls.shown(row["chosen"], everything)]
    paths = [made for made in visible(tab, plot) if "run" in made]
    assert Counter(map(str, paths)) == Counter(str(row["chosen"]) for row in expected)
    tab.locator(f"#{plot}-numbers summary").click()
    rows = tab.locator(f"#{plot}-numbers tbody tr:visible")
    assert rows.count() == len(expected) > 0
    assert rows.first.locator("td").all_text_contents() == expected[0]["cells"]


def test_a_single_run_is_not_the_mean(tab):
    plot = "explore-schedules"
    tab.locator(f"#{plot}-schedule").select_option("alright")
    shown = []
    for run in ("mean", "1", "2"):
        tab.locator(f"#{plot}-run").select_option(run)
        shown.append(str(drawn(tab, plot)))
    assert len(set(shown)) == 3


@pytest.mark.parametrize(
    ("plot", "name", "first", "last"),
    [
        ("explore-splits", "share", "0 %", "100 %"),
        ("explore-refresh", "k", "every update", "never"),
    ],
)
def test_a_slider_moves_by_keyboard_and_moves_the_curves(tab, plot, name, first, last):
    slider = tab.locator(f"#{plot}-{name}")
    label, seen = tab.locator(f"output[for={plot}-{name}]"), []
    slider.focus()
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowLeft")
    assert (label.inner_text(), slider.get_attribute("aria-valuetext")) == (first, first)
    while not seen or label.inner_text() != last:
        seen.append(str(drawn(tab, plot)))
        tab.keyboard.press("ArrowRight")
    seen.append(str(drawn(tab, plot)))
    assert len(set(seen)) == len(seen) == int(slider.get_attribute("max")) + 1


def test_pointing_at_a_path_tells_its_numbers(tab):
    plot = tab.locator("#explore-schedules")
    plot.scroll_into_view_if_needed()
    plot.locator(".curves path.point").last.hover(force=True)
    text = plot.locator(".pointed").inner_text()
    assert "SFT loss" in text
    assert "nats" in text


def test_the_ledger_is_searched_and_filtered(tab, content):
    rows = tab.locator("#claims-table tbody tr:visible")
    claims = content["claims"]
    assert rows.count() == len(claims)
    tab.locator("#words").fill("Price-of-Alternating")
    assert rows.get_attribute("id") == "claim-price-of-alternating"
    assert tab.locator("#ledger output").inner_text() == "1 shown"
    tab.locator("#words").fill("")
    tab.locator("#kind").select_option("upper")
    assert rows.count() == sum(claim["kind"] == "upper" for claim in claims)
    tab.locator("#verdict").select_option("fails")
    assert rows.count() == sum(claim["kind"] == "upper" and not claim["holds"] for claim in claims)


def test_a_print_shows_figures_and_claims_and_no_controls(tab):
    tab.emulate_media(media="print")
    assert not tab.locator("nav, form, .explorer").locator("visible=true").count()
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("figure#explorer img").is_visible()
    assert tab.locator("#claims-table").is_visible()
