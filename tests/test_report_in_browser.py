"""The page as a browser has it: figures show, heads sort by number, and nothing is fetched."""

import matplotlib.pyplot as plt
import pytest

from experiments.bench import records
from experiments.report.page import write
from experiments.show import webpage
from tests import browser
from tests.test_report import TIMED, named, timed, trained

HOSTILE = "<img src='http://attnzoo.invalid/x.png'><script src='http://attnzoo.invalid/x.js'></script>"
NOTE = "skipped: would take 6.23 s, the budget is 6 s (and 1 more)"
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


@pytest.fixture(scope="module")
def opening(tmp_path_factory):
    """The address of a page that opens with a table of one length."""
    folder = tmp_path_factory.mktemp("opening")
    for kernel, seconds in (("SparseTransformer()", 4e-2), ("Softmax()", 3e-2), ("Linear()", 1e-2), ("Local()", 9e-3)):
        for passed in ("forward", "train"):
            records.append(folder, timed(kernel, seconds, 0.1, **{"pass": passed}))
    for kernel, scores in {"Softmax()": 5 * [1.0], "Linear()": [0.9, 0.8, 0.9, 0.8, 0.7]}.items():
        for row in trained(kernel, scores):
            records.append(folder, row)
    records.append(folder, TIMED | named("NadarayaWatson()") | {"status": "skipped", "reason": NOTE})
    return write(folder, folder / "page.html").as_uri()


@pytest.fixture
def sized(opened, opening):
    """The same in a window of some width, perhaps a dark one."""
    found, _ = opened

    def size(width, scheme="light"):
        found.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=True)
        found.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        found.open(opening)
        return found

    yield size
    found.call("Emulation.clearDeviceMetricsOverride")
    found.call("Emulation.setEmulatedMedia", features=[])


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


KERNELS = "[...document.querySelector('.grouped').tBodies].map(body => body.querySelector('summary').textContent)"


def test_the_opening_table_is_on_the_first_screen_and_fits(sized):
    page = sized(1300)
    assert page.value("document.querySelector('.grouped').getBoundingClientRect().top") < 450
    assert page.value("(box => box.scrollWidth <= box.clientWidth)(document.querySelector('.table'))")
    assert page.value("document.documentElement.scrollWidth") <= 1300


def test_a_phone_shows_kernel_time_and_loss(sized):
    page = sized(400)
    heads = "[...document.querySelectorAll('.grouped thead th')].slice(0, 3)"
    assert page.value(f"{heads}.map(head => head.querySelector('button').textContent)") == [
        "kernel",
        "time forward",
        "recall minus exact",
    ]
    assert page.value(f"Math.max(...{heads}.map(head => head.getBoundingClientRect().right))") <= 400
    assert page.value("document.documentElement.scrollWidth") <= 400
    assert page.value("document.querySelector('.grouped').getBoundingClientRect().top") < 900


def test_lines_unfold_their_code_and_sort_with_it(sized):
    page = sized(1300)
    assert page.value(KERNELS) == ["Softmax", "Linear", "Local", "SparseTransformer"]
    shown = "[...document.querySelectorAll('.code')].map(row => getComputedStyle(row).display !== 'none')"
    assert page.value(shown) == [False, True, False, False]
    page.value("document.querySelector('.grouped summary').click()")
    assert page.value(shown) == [True, True, False, False]
    click(page, "time forwardtimes as fast as exact")
    assert page.value(KERNELS) == ["Local", "Linear", "Softmax", "SparseTransformer"]
    assert page.value("[...document.querySelector('.grouped').tBodies].every(body => body.rows[1].matches('.code'))")


def test_notes_are_broken_into_lines(sized):
    page = sized(1300)
    notes = f"[...document.querySelectorAll('td.wide')].filter(cell => cell.textContent.startsWith({NOTE[:20]!r}))"
    assert page.value(f"{notes}.map(cell => getComputedStyle(cell).whiteSpace)") == ["normal"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(sized, scheme):
    """Against what is behind it, by the contrast that WCAG 2.2 asks of small text."""
    least = sized(1300, scheme).value("""(() => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
        const over = colors => {
            canvas.clearRect(0, 0, 1, 1);
            for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
            return [...canvas.getImageData(0, 0, 1, 1).data];
        };
        const light = ([r, g, b]) => [r, g, b].map(x => x / 255)
            .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
            .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
        for (const each of document.querySelectorAll("details")) each.open = true;
        document.body.append(document.createElement("i"));
        document.body.lastChild.style.background = "Canvas";
        const color = (each, name) => getComputedStyle(each)[name];
        const base = color(document.body.lastChild, "backgroundColor");
        const behind = each => each ? [...behind(each.parentElement), color(each, "backgroundColor")] : [base];
        const read = [...document.querySelectorAll("body *")].filter(each => each.checkVisibility() &&
            [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
        const contrast = each => {
            const [a, b] = [[...behind(each), color(each, "color")], behind(each)].map(over).map(light);
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        };
        return Math.min(...read.map(contrast));
    })()""")
    assert least >= 4.5


def test_a_narrow_window_shows_figures_whole_or_in_their_own_size(opened):
    found, url = opened
    found.call("Emulation.setDeviceMetricsOverride", width=300, height=900, deviceScaleFactor=1, mobile=True)
    found.open(url)
    widths = "[...document.images].map(image => image.clientWidth)"
    fitted = found.value(widths)
    found.value("document.querySelector('figure label').click()")
    own = found.value(widths)
    found.call("Emulation.clearDeviceMetricsOverride")
    assert max(fitted) < 300 < own[0] and own[1] == fitted[1]
