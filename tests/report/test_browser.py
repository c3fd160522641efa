"""The page in a real headless Chromium: opened from disk without a network, read by hand and by keyboard."""

import re

import pytest
from chromium import opened
from report_files import answer, benchmark, evaluation, learner, read_jsonl, write_jsonl

from mede2_jax.report.__main__ import main

pytestmark = pytest.mark.slow

SCRIPT = "<script>document.title = 'gone'</script><img src=x onerror=\"document.title='gone'\">"
WIDTHS = (390, 1440)
ITEMS = 120


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """120 items, of which number 7 has markup everywhere; two models of one sample each and one of four."""
    folder = tmp_path_factory.mktemp("browser")
    data = benchmark(folder / "data", ITEMS, (64, 48))
    rows = read_jsonl(data / "MM" / "test.jsonl")
    rows[7]["question"] = rows[7]["question"].replace("What is seen?", f"What {SCRIPT} is seen?")
    write_jsonl(data / "MM" / "test.jsonl", rows)

    def second(item, sample):
        return answer(item.answer, f"{SCRIPT} pneumothorax-{item.id}") if item.id in ("MM-7", "MM-100") else learner(0.6, 2)(item, sample)

    evaluation(folder / "one", data, learner(0.3, 1))
    evaluation(folder / "two", data, second)
    main([f"--scores=stage I={folder / 'one'},stage II={folder / 'two'}", f"--out={folder / 'out'}"])
    main([f"--scores=stage I={folder / 'one'},stage II={folder / 'two'}", f"--out={folder / 'single'}", "--single_file"])
    evaluation(folder / "four", data, learner(0.5, 3), samples=4)
    main([f"--scores=four={folder / 'four'}", f"--out={folder / 'samples'}"])
    return folder


def count(page):
    """How many items the list says it has."""
    return int(re.match(r"([\d,]+) of", page.text_content("#count"))[1].replace(",", ""))


def chosen(page):
    return page.text_content('#list [aria-selected="true"] .id')


def codes(page):
    """Of each model a letter an item: outcome and finish."""
    return page.evaluate("() => Mede2.load('board-0').then((board) => board.codes)")


@pytest.mark.parametrize("place", ["out", "single", "samples"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_offline_without_errors_and_fits(browser, report, place, width, scheme):
    faults = []
    page = opened(browser, report / place, width=width, scheme=scheme, faults=faults)
    assert count(page) == ITEMS
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for image in page.query_selector_all("main img"):
        image.scroll_into_view_if_needed()
    page.wait_for_function("() => [...document.images].every((image) => image.complete)")
    assert page.evaluate("() => [...document.images].filter((image) => !image.naturalWidth).length") == 0
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    assert faults == []
    page.context.close()


def test_markup_in_data_and_replies_is_text(browser, report):
    for place in ("out", "single"):
        faults = []
        page = opened(browser, report / place, faults=faults)
        page.evaluate("() => { location.hash = '#item=0,MM-7'; }")
        page.wait_for_selector("#item h3:text('MM-7')")
        page.keyboard.press("t")
        shown = page.inner_text("#item")
        assert shown.count("<script>document.title = 'gone'</script>") == 2, "in the question and in a reply"
        assert page.title() != "gone" and page.query_selector("#item script") is None and page.query_selector('img[src="x"]') is None
        assert faults == []
        page.context.close()


def test_filters_by_keyboard(browser, report):
    page = opened(browser, report / "out")
    one, two = codes(page)
    page.focus("#of")
    page.keyboard.press("ArrowDown")  # any model -> stage I
    page.focus("#outcomes input[value=wrong]")
    page.keyboard.press("Space")
    assert count(page) == sum(code in "efgh" for code in one)
    page.focus("#outcomes input[value=unparsed]")
    page.keyboard.press("Space")
    assert count(page) == sum(code in "efghijkl" for code in one)
    page.focus("#clear")
    page.keyboard.press("Enter")
    assert count(page) == ITEMS
    page.focus("#outcomes input[value=cut]")
    page.keyboard.press("Space")
    assert count(page) == sum("bfj".find(a) >= 0 or "bfj".find(b) >= 0 for a, b in zip(one, two, strict=True)) > 0
    page.keyboard.press("Space")
    page.focus("#how")
    for expected in (
        sum((a < "e") != (b < "e") for a, b in zip(one, two, strict=True)),
        sum(a >= "e" and b < "e" for a, b in zip(one, two, strict=True)),
        sum(a < "e" and b >= "e" for a, b in zip(one, two, strict=True)),
    ):
        page.keyboard.press("ArrowDown")
        assert count(page) == expected > 0
    page.focus("#clear")
    page.keyboard.press("Enter")
    page.select_option("select[data-group=question_type]", label="Understanding")
    assert count(page) == ITEMS // 3
    page.context.close()


def test_the_list_and_the_search_by_keyboard(browser, report):
    page = opened(browser, report / "out")
    assert chosen(page) == "MM-0", "the first item is shown before anything is pressed"
    page.focus("#list")
    for key, expected in (
        ("j", "MM-1"),
        ("ArrowDown", "MM-2"),
        ("k", "MM-1"),
        ("ArrowUp", "MM-0"),
        ("End", f"MM-{ITEMS - 1}"),
        ("Home", "MM-0"),
    ):
        page.keyboard.press(key)
        assert chosen(page) == expected, key
    page.wait_for_selector("#item h3:text-is('MM-0')")
    assert page.evaluate("() => location.hash") == "#item=0,MM-0"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "item"
    page.keyboard.press("/")
    assert page.evaluate("() => document.activeElement.id") == "query"
    page.keyboard.type("CASE 17.")  # j and k would be letters here, and case does not count
    page.wait_for_function("() => document.querySelector('#count').textContent.startsWith('1 of')")
    assert chosen(page) == "MM-17"
    page.fill("#query", "pneumothorax-mm-100")
    page.wait_for_function("() => document.querySelector('#count').textContent.startsWith('0 of')")
    page.select_option("#where", "replies")
    page.wait_for_function("() => document.querySelector('#count').textContent === '1 of 120 items'")
    assert chosen(page) == "MM-100"
    page.keyboard.press("Escape")
    assert page.evaluate("() => document.activeElement.id") == "list"
    page.context.close()


def test_only_the_rows_that_are_seen_are_there(browser, report):
    page = opened(browser, report / "out")
    assert page.locator("#list [role=option]").count() < 60
    page.evaluate("() => { document.querySelector('#list').scrollTop = 1e6; }")
    page.wait_for_selector(f"#list .id:text-is('MM-{ITEMS - 1}')")
    assert page.get_attribute("#list [role=option]:last-child", "aria-posinset") == str(ITEMS)
    assert page.get_attribute("#list [role=option]:last-child", "aria-setsize") == str(ITEMS)
    page.context.close()


def test_thoughts_are_folded_and_open(browser, report):
    page = opened(browser, report / "out")
    page.evaluate("() => { location.hash = '#item=0,MM-7'; }")
    page.wait_for_selector("#item h3:text-is('MM-7')")
    assert page.locator("#item details.thought[open]").count() == 0
    page.keyboard.press("t")
    assert page.locator("#item details.thought:not([open])").count() == 0
    page.focus("#list")
    page.keyboard.press("j")
    page.wait_for_selector("#item h3:text-is('MM-8')")
    assert page.locator("#item details.thought[open]").count() > 0, "they stay open from item to item"
    page.context.close()


def test_samples_by_keyboard(browser, report):
    page = opened(browser, report / "samples")
    pressed = '#item button[aria-pressed="true"]'
    assert page.locator("#item .samples button").count() == 4 and page.text_content(pressed).endswith("1")
    page.focus("#list")
    for key, expected in (("n", "2"), ("n", "3"), ("p", "2"), ("p", "1"), ("p", "4")):
        page.keyboard.press(key)
        assert page.text_content(pressed).endswith(expected)
    (four,) = codes(page)
    assert page.text_content("#list [role=option] .outcome") == f"{sum(letter < 'e' for letter in four[0])}/4"
    page.context.close()


def test_every_control_has_a_name_and_a_visible_focus(browser, report):
    page = opened(browser, report / "out")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button, [role=listbox], [tabindex]')]
            .filter((one) => !(one.labels && one.labels.length) && !one.getAttribute('aria-label') && !one.textContent.trim())
            .map((one) => one.id || one.outerHTML)"""
    )
    assert unnamed == []
    page.focus("#query")
    page.keyboard.press("Tab")
    assert page.evaluate("() => getComputedStyle(document.activeElement).outlineWidth") == "3px"
    assert page.evaluate("() => [...document.images].every((image) => image.alt)")
    page.context.close()


def test_a_report_without_scores_opens_too(browser, sample, tmp_path):
    main([f"--funnel={sample / 'rollouts.jsonl'}", f"--out={tmp_path / 'out'}"])
    faults = []
    page = opened(browser, tmp_path / "out", width=390, script=False, faults=faults)
    page.context.close()
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto((tmp_path / "out" / "index.html").as_uri())
    assert page.is_visible("#funnel") and page.query_selector("#items") is None and faults == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    page.close()


def test_without_scripts_all_but_the_items_is_there(browser, report):
    page = opened(browser, report / "out", script=False)
    text = page.inner_text("main")
    assert "Table 1: models on multimodal medical benchmarks" in text and "The list of items needs JavaScript" in text
    assert page.locator("article.case").count() > 0 and page.locator("article.case details.thought[open]").count() > 0
    page.context.close()


def test_in_print_everything_is_unfolded_and_no_control_is_left(browser, report):
    page = opened(browser, report / "out")
    page.emulate_media(media="print")
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.is_visible("nav") and not page.is_visible(".filters") and page.is_visible("#table-table1")
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0
    page.context.close()


def test_whatever_the_page_is_told_to_do_it_loads_nothing_and_runs_nothing_else(browser, report):
    """The policy stands even if markup should ever slip in."""
    page = opened(browser, report / "out")
    ran = page.evaluate(
        """() => new Promise((resolve) => {
            const html = '<img src=x onerror="window.ran = 1"><a id=go href="javascript:window.ran=1">x</a>';
            document.body.insertAdjacentHTML('beforeend', html);
            const script = document.createElement('script');
            script.textContent = 'window.ran = 1';
            document.body.append(script);
            document.getElementById('go').click();
            setTimeout(() => resolve(window.ran === 1), 200);
        })"""
    )
    assert ran is False
    page.context.close()
