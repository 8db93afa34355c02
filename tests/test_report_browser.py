"""The page of a search in a real browser: it complains of nothing, draws every figure, and answers clicks."""

from pathlib import Path

import pytest
from browser import Tab, opened
from searched import ACCURACY, LATENCY, SIZE, precisions, reported, space, study
from test_report_bits import hostile_precisions
from test_report_page import HOSTILE, hostile

from nas.reporting.page import write_page
from nas.reporting.search_page import Reported, search_page

pytestmark = pytest.mark.slow

CHARTS = "document.querySelectorAll('figure.chart').length"
DRAWN = (
    "[...document.querySelectorAll('.js-plotly-plot')].filter(each => each.querySelector('svg.main-svg .xy')).length"
)
POINTS = "document.querySelectorAll('#front-chart .scatterlayer path.point').length"


def written(what: Reported, folder: Path) -> Path:
    path = folder / "report.html"
    write_page(search_page(what), path)
    return path


def titles(tab: Tab) -> list[str]:
    return [str(tab.value(f"document.querySelector('#front-chart .{axis}title').textContent")) for axis in "xy"]


@pytest.mark.parametrize("width", [1200, 390])
def test_every_figure_is_drawn_and_answers(tmp_path: Path, width: int) -> None:
    found = study((ACCURACY, LATENCY, SIZE))
    with opened(written(reported(found, again=True), tmp_path), tmp_path, width) as tab:
        assert tab.value(CHARTS) == tab.value(DRAWN) == 4
        points = tab.value(POINTS)
        assert points >= 60
        assert tab.value("document.documentElement.scrollWidth") <= width
        # The axes can be chosen.
        assert titles(tab) == ["latency (ms)", "accuracy (%)"]
        choose = "const each = document.querySelector('.axes select'); each.value = '2'; "
        tab.value(f"{{ {choose} each.dispatchEvent(new Event('change')) }}")
        assert titles(tab) == ["size (MiB)", "accuracy (%)"]
        # A click on a head sorts, another one turns the order.
        first = "document.querySelector('tbody tr').dataset.number"
        for expected in (found.front()[-1], found.front()[0]):
            tab.value("document.querySelectorAll('th button')[1].click()")
            assert found.front()[int(tab.value(first)) - 1].values["accuracy"] == expected.values["accuracy"]
        # A click on a row shows its command and marks its point.
        tab.value("document.querySelector('tr[data-number=\"2\"]').click()")
        assert "--candidate 2 " in tab.value("document.querySelector('.command code').textContent")
        assert tab.value(POINTS) == points + 1
        assert tab.complaints == []


def test_foreign_text_does_not_run(tmp_path: Path) -> None:
    with opened(written(hostile(), tmp_path), tmp_path) as tab:
        assert tab.value(CHARTS) == tab.value(DRAWN)
        assert HOSTILE in tab.value("document.body.innerText")
        assert HOSTILE in tab.value("document.querySelector('#front-chart .axes').textContent")
        tab.value("document.querySelectorAll('.axes select')[1].value = '2'")
        tab.value("document.querySelectorAll('.axes select')[1].dispatchEvent(new Event('change'))")
        assert HOSTILE in titles(tab)[1]
        tab.value("Plotly.Fx.hover(document.querySelector('#front-chart .plot'), [{curveNumber: 0, pointNumber: 0}])")
        assert HOSTILE in tab.value("document.querySelector('#front-chart .hoverlayer').textContent")
        assert tab.complaints == []


@pytest.mark.parametrize("width", [1200, 390])
def test_map_of_bits(tmp_path: Path, width: int) -> None:
    found = study((ACCURACY, LATENCY), of=space() + precisions())
    with opened(written(reported(found), tmp_path), tmp_path, width) as tab:
        assert tab.value(CHARTS) == tab.value(DRAWN) == 5
        assert tab.value("document.documentElement.scrollWidth") <= width
        bars = "document.querySelectorAll('#bits .barlayer path')"
        assert tab.value(f"{bars}.length") == 40 * len(found.front())
        # Each cell is seen, and the legend tells its colour.
        boxes = f"[...{bars}].map(each => each.getBoundingClientRect())"
        assert tab.value(f"{boxes}.every(each => each.width >= 4 && each.height >= 8)")
        assert tab.value("document.querySelector('#bits .legend').textContent").startswith(
            "8 bits, weights alone8 bits"
        )
        # Pointed at, a cell tells its member and its layer; a click picks the row of the member.
        figure = "document.querySelector('#bits .plot')"
        last = f"({figure}.data.length - 1)"
        tab.value(f"Plotly.Fx.hover({figure}, [{{curveNumber: {last}, pointNumber: 0}}])")
        said = tab.value("document.querySelector('#bits .hoverlayer').textContent")
        number = tab.value(f"{figure}.data[{last}].customdata[0]")
        assert said.startswith(f"number {number}accuracy")
        assert said.endswith(".attention.self.query: not there: its block is dropped")
        tab.value(f"{figure}.emit('plotly_click', {{points: [{{customdata: {number}}}]}})")
        assert tab.value("document.querySelector('tr[aria-selected]').dataset.number") == str(number)
        assert tab.complaints == []


def test_foreign_names_of_layers_do_not_run(tmp_path: Path) -> None:
    with opened(written(hostile_precisions(), tmp_path), tmp_path) as tab:
        assert tab.value(CHARTS) == tab.value(DRAWN)
        # Of long names the end is shown.
        names = tab.value("document.querySelector('#bits .yaxislayer-above').textContent")
        assert "0.%{y}" in names and f"…{HOSTILE[-33:]}" in names
        assert f"without {HOSTILE} in its name" in tab.value(
            "document.querySelector('#bits').parentElement.textContent"
        )
        tab.value("Plotly.Fx.hover(document.querySelector('#bits .plot'), [{curveNumber: 0, pointNumber: 0}])")
        said = tab.value("document.querySelector('#bits .hoverlayer').textContent")
        assert f"latency on %{{y}}{HOSTILE} " in said
        assert said.endswith(": 8 bits (int8)")
        assert tab.complaints == []


def test_what_is_not_of_the_page_is_refused(tmp_path: Path) -> None:
    """The policy holds whatever a page would come to hold."""
    path = written(reported(study((ACCURACY, LATENCY))), tmp_path)
    page = path.read_text(encoding="utf-8")
    path.write_text(page.replace("</main>", "</main><script>window.ran = true</script>"), encoding="utf-8")
    with opened(path, tmp_path) as tab:
        assert tab.value("window.ran === undefined")
        assert any("Content Security Policy" in each for each in tab.complaints)
