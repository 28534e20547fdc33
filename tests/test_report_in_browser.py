"""The page as a browser has it: figures show, heads sort by number, and nothing is fetched."""

import matplotlib.pyplot as plt
import pytest

from experiments.bench import records
from experiments.report.page import write
from experiments.show import webpage
from tests import browser

HOSTILE = "<img src='http://attnzoo.invalid/x.png'><script src='http://attnzoo.invalid/x.js'></script>"
TIMES = {"b": 1.2e-3, "a": 900e-6, HOSTILE: 3e-2, "d": None, "e": 900e-6, "f": 2.0}  # seconds

pytestmark = pytest.mark.skipif(browser.found() is None, reason=f"no browser: none of {', '.join(browser.NAMES)}")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    for place in (folder, folder / "below"):
        place.mkdir(exist_ok=True)
        for name, seconds in TIMES.items():
            row = {"taste": name, "median": seconds, "state_bytes": 3072 if name == "b" else 2**20}
            records.append(place, row | {"status": "measured"})
        figure, axes = plt.subplots()
        axes.plot([1, 2])
        figure.savefig(place / "curve.png", dpi=150)
        plt.close(figure)
    out = write(folder, folder / "page.html")
    with browser.page(tmp_path_factory.mktemp("profile")) as found:
        yield found, out.as_uri()


@pytest.fixture
def page(opened):
    found, url = opened
    found.open(url)
    return found


def column(page, name):
    """Texts of a column of the first table with such a head."""
    return page.value(f"""(() => {{
        const head = {head(name)};
        return [...head.closest("table").tBodies[0].rows].map(row => row.cells[head.cellIndex].textContent);
    }})()""")


def head(name):
    return f"[...document.querySelectorAll('th')].find(head => head.textContent === '{name}')"


def click(page, name):
    page.value(f"{head(name)}.querySelector('button').click()")


def test_every_figure_shows(page):
    shown = page.value("[...document.images].map(image => [image.complete, image.naturalWidth, image.clientWidth])")
    assert len(shown) == 2
    for is_complete, pixels, width in shown:
        assert is_complete and pixels > 100
        assert width == pytest.approx(pixels * webpage.SCREEN / webpage.DOTS, abs=3)


def test_heads_sort_by_number_and_again_in_reverse(page):
    assert column(page, "median") == ["1.2 ms", "900 µs", "30 ms", "", "900 µs", "2 s"]
    click(page, "median")
    assert column(page, "median") == ["900 µs", "900 µs", "1.2 ms", "30 ms", "2 s", ""]
    assert column(page, "taste") == ["a", "e", "b", HOSTILE, "f", "d"], "equals must keep their order"
    assert page.value(f"{head('median')}.getAttribute('aria-sort')") == "ascending"
    click(page, "median")
    assert column(page, "median") == ["2 s", "30 ms", "1.2 ms", "900 µs", "900 µs", ""]
    assert column(page, "taste") == ["f", HOSTILE, "b", "a", "e", "d"]
    assert page.value(f"{head('median')}.getAttribute('aria-sort')") == "descending"
    click(page, "state bytes")
    assert column(page, "state bytes") == ["3 KiB"] + 5 * ["1 MiB"]
    assert page.value("document.querySelectorAll('[aria-sort]').length") == 1
    click(page, "taste")
    assert column(page, "taste") == [HOSTILE, "a", "b", "d", "e", "f"]


def test_heads_sort_by_keyboard(page):
    page.value("document.querySelector('details').open = true")
    page.value(f"{head('median')}.querySelector('button').focus()")
    page.press("Tab", 9)
    for sizes in (["3 KiB"] + 5 * ["1 MiB"], 5 * ["1 MiB"] + ["3 KiB"]):
        page.press("Enter", 13, "\r")
        assert column(page, "state bytes") == sizes


def test_nothing_is_fetched_and_nothing_is_complained_of(page):
    requests = [event["params"]["request"] for event in page.events if event["method"] == "Network.requestWillBeSent"]
    sent = [request["url"] for request in requests if not request["url"].startswith("data:")]
    assert len(sent) == 1 and sent[0].startswith("file:"), "the page itself, and nothing else"
    kept = "performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:'))"
    assert page.value(kept) == []
    assert not {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"} & set(page.told())


def test_the_policy_refuses_to_fetch_and_to_run(page):
    tried = "fetch('http://127.0.0.1:9/').then(() => 'fetched', error => error.name)"
    assert page.value(tried) == "TypeError"
    page.value("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    page.value("document.body.append(Object.assign(document.createElement('script'), { text: 'window.ran = 1' }))")
    assert page.value("new Promise(done => setTimeout(() => done(window.ran ?? null), 100))") is None
    blocked = [event["params"]["entry"]["text"] for event in page.events if event["method"] == "Log.entryAdded"]
    assert any("Content Security Policy" in text for text in blocked)
