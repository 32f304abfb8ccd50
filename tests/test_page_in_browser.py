"""The page of a run in a browser: it works by mouse and by keyboard, in print, without script, at every width."""

import re
import shutil

import pytest
from page_of_a_run import HOSTILE

OPEN = "document.querySelectorAll('details').forEach(fold => { fold.open = true; })"
OVERFLOWING = """() => {
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const box = e.getBoundingClientRect();
    if (!(e instanceof HTMLElement) || !e.checkVisibility() || e.matches(".skip, .scroll") || !box.width) continue;
    if (getComputedStyle(e).display === "inline") continue;
    const cut = e.scrollWidth > e.clientWidth + 1 && e.clientWidth;
    const out = !e.closest(".scroll") && (box.right > innerWidth + 0.5 || box.left < -0.5);
    if (cut || out) found.push(`${e.tagName}.${e.className} ${e.textContent.trim().slice(0, 60)}`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture
def view(browser, page):
    """The page in a window of 1280 pixels; the test fails if it says a word on the console.

    But for the browser's own remark that a dialog's autofocus came second, which depends on when a key arrives.
    """
    said = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    view = context.new_page()
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    view.goto(page.as_uri())
    yield view
    context.close()
    assert [words for words in said if not words.startswith("Autofocus processing")] == []


def test_click_opens_the_lineage_and_escape_closes_it(view):
    view.locator("#table1 > summary").click()
    view.get_by_role("row", name="Baseline DPO").get_by_role("button").first.click()
    dialog = view.get_by_role("dialog", name="Baseline DPO: Sentiment")
    assert dialog.is_visible()
    assert "Published: 0.610 ± 0.004" in dialog.inner_text() and "assets/reviews" in dialog.inner_text()
    assert dialog.get_by_text(HOSTILE).count() == 3 and view.locator("#hostile").count() == 0
    dialog.get_by_text("policies", exact=True).click()
    assert "learning_rate" in dialog.inner_text() and "2026-01-02 03:04:05 UTC" in dialog.inner_text()
    view.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_keyboard_alone(view):
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "Skip to the results"
    view.locator("#table1 > summary").focus()
    view.keyboard.press("Enter")
    view.locator("#table1 .cells [tabindex='0']").focus()
    view.keyboard.press("ArrowDown")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Enter")
    assert view.locator("#lineage-title").inner_text() == "Baseline DPO: Grammar"
    view.keyboard.press("Escape")
    assert view.locator("dialog[open]").count() == 0
    assert view.evaluate("document.activeElement.closest('tr').cells[0].textContent") == "Baseline DPO"
    assert view.locator('.cells [tabindex="0"]').count() == 3  # one stop in each of the two tables, one in the plot


def test_click_on_a_claim_opens_its_lineage(view):
    view.locator(".forest tbody th").get_by_text("The mixture beats DPO").click()
    dialog = view.get_by_role("dialog", name="The mixture beats DPO")
    assert dialog.is_visible() and "claimed to lie above zero" in dialog.inner_text()
    assert "effect sigma" in dialog.inner_text()


def test_links_open_folds(view):
    assert not view.locator("#decisions .inside").is_visible()
    view.get_by_role("navigation").get_by_role("link", name="Decisions").click()
    view.locator("#decisions .inside").wait_for(state="visible")


def test_opened_page_is_short(view):
    """Folds are closed: without the claims, whose number is the paper's, a screen or two."""
    height = view.evaluate("document.documentElement.scrollHeight - document.querySelector('.forest').scrollHeight")
    assert height < 1800


def test_words_that_a_reader_knows(view):
    """No name of the configuration and no backtick is on the page but where it is set as code."""
    view.evaluate(OPEN)
    text = view.evaluate(
        """() => {
          const main = document.querySelector("main").cloneNode(true);
          const files = ["csv", "md", "tex", "pdf"].map((suffix) => `a[href$='.${suffix}']`);
          const quoted = main.querySelectorAll(["code, pre, #decisions, #notes, .card p", ...files].join());
          quoted.forEach((e) => e.remove());
          return main.textContent;
        }"""
    )
    assert "Mix-DPO, Case 1" in text and "Multi-reward" in text
    assert re.findall(r"\b[a-z0-9]+_[a-z0-9_]+\b|`", text) == []


def test_browser_of_samples_shows_another_prompt_and_says_so(view):
    view.evaluate(OPEN)
    part = view.locator("#samples-multi_reward")
    shown = part.locator(".item:visible")
    assert shown.count() == 1
    first = shown.inner_text()
    part.get_by_role("button", name="Next").click()
    assert shown.count() == 1 and shown.inner_text() != first
    assert "Prompt 2 of 12" in view.locator("#said").inner_text()
    part.get_by_role("combobox").select_option(index=0)
    assert shown.inner_text() == first
    pairs = view.locator("#pairs-multi_reward .item:visible")
    assert pairs.locator("th[scope=colgroup]").all_inner_texts()[2].startswith("Informativeness prefers B")


def test_theme_can_be_turned_and_stays(view):
    button, colour = view.get_by_role("button", name="Dark"), "getComputedStyle(document.body).backgroundColor"
    light = view.evaluate(colour)
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert button.get_attribute("aria-pressed") == "true" and view.evaluate(colour) != light
    view.reload()
    assert button.get_attribute("aria-pressed") == "true" and view.evaluate(colour) != light


@pytest.mark.parametrize("width", [400, 1000, 1300])
def test_nothing_overflows(view, width):
    """As it opens and with every fold open: nothing is wider than its box, but for what lies in a scroll container."""
    view.set_viewport_size({"width": width, "height": 800})
    for unfold in ("", OPEN):
        view.evaluate(unfold)
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert view.evaluate(OVERFLOWING) == []
    for box in view.locator(".scroll").all():
        reached = (
            "e => { e.scrollLeft = 1e6; const box = e.getBoundingClientRect(); return [...e.querySelectorAll('tr')]"
        )
        reached += ".every(row => row.lastElementChild.getBoundingClientRect().right <= box.right + 1); }"
        assert not box.is_visible() or box.evaluate(reached)
    for opener in (".forest .cell", "#table1 .cell", "figure .cell"):
        view.locator(opener).first.click()
        view.evaluate(OPEN)
        assert view.evaluate(OVERFLOWING) == [] and view.locator("dialog").is_visible()
        view.keyboard.press("Escape")


def test_numbers_are_right_aligned(view):
    view.evaluate(OPEN)
    for p in view.get_by_text("<0.001", exact=True).all():
        assert p.evaluate("e => getComputedStyle(e.closest('td')).textAlign") == "right"


def test_figures_have_their_natural_width(view):
    """The image has 8 × 4 dots, at 300 an inch 2.56 × 1.28 pixels."""
    view.evaluate(OPEN)
    image = view.locator("figure img")
    assert (image.get_attribute("width"), image.get_attribute("height")) == ("3", "1")


def test_print_shows_what_paper_can_do(view):
    view.emulate_media(media="print")
    assert not view.get_by_role("combobox").first.is_visible() and not view.locator("#theme").is_visible()
    shown = view.locator("p a[href^=http]").first.evaluate("a => getComputedStyle(a, '::after').content")
    assert "arxiv.org" in shown
    for shown in ("#table1 table", "figure img", "#setting table", "#decisions p", ".forest"):
        assert view.locator(shown).first.evaluate("e => e.checkVisibility() && e.getBoundingClientRect().height > 0"), (
            shown
        )
    assert not view.locator("#samples").is_visible()


def test_without_script_everything_is_on_the_page(browser, page):
    view = browser.new_context(java_script_enabled=False).new_page()
    view.goto(page.as_uri())
    assert view.locator(".forest .effect").count() == 1 and view.locator(".answer li").count() == 2
    view.locator("#samples > summary").click()
    assert view.locator("#samples-multi_reward .item:visible").count() == 12
    assert not view.get_by_role("combobox").first.is_visible()
