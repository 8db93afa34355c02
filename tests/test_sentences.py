"""Sentences for people: whatever text they hold, they are one printable line of bounded length, and nothing is lost."""

import io
import pickle

import pytest

from nas.command import cli, doctor
from nas.console import Bar, print_object, print_table, say
from nas.errors import NotTaken, UserError
from nas.exporting.markdown import as_it_is, code_span
from nas.sentences import LONGEST, did_you_mean, listed, one_line, one_of, points, printable, quoted, signed

HOSTILE = "a\x1b[31mred\x1b]0;title\x07\x00\nb\t\x9bc\u202ed\ud800e"
CLEAN = "ared\\x00 b \\x9bc\\u202ed\\ud800e"
ADVICE = "pip install 'supersieve[openvino]' [bold]:warning: 5"


def test_control_characters_are_written_as_escapes() -> None:
    assert printable(HOSTILE) == CLEAN.replace(" b ", "\\nb\\t")
    assert one_line(HOSTILE) == CLEAN
    assert one_line("na\u00efve \u4e2d\u6587 \U0001f600 na\u200cme") == "na\u00efve \u4e2d\u6587 \U0001f600 na\u200cme"
    assert printable("\x1b(Bend\x1b") == "end"
    assert printable("a\u200bb\xad\U000e0041") == "a\\u200bb\\xad\\U000e0041"


def test_a_long_sentence_keeps_its_remedy() -> None:
    sentence = f"must be short, got {'x' * 5000}; name it with --flag"
    assert len(one_line(sentence)) == LONGEST
    assert one_line(sentence).startswith("must be short, got x")
    assert one_line(sentence).endswith("x; name it with --flag")
    assert one_line(one_line(sentence)) == one_line(sentence)


def test_foreign_values_are_cut_off() -> None:
    assert quoted("x\n" * 1_000_000) == f"'{'x ' * 30}...'"
    assert (quoted("it's"), quoted(3), quoted(None)) == ("'it's'", "3", "None")
    assert quoted({"a": "\x07" * 99}, 20) == quoted("{'a': '" + "\\x07" * 99, 20).strip("'")
    assert listed(range(3)) == "0, 1, 2"
    assert listed(["x" * 99, *map(str, range(20))], most=2, longest=5) == "xxxxx..., 0, ..."


def test_signs_of_differences() -> None:
    assert [signed(each) for each in ("1,234.5", "-77", "0", "-0.00")] == ["+1,234.5", "−77", "±0", "±0"]
    assert [points(each) for each in (0.25, -0.76, -0.04)] == ["+0.2", "−0.8", "±0"]


def test_what_may_be_meant() -> None:
    known = ("accuracy", "latency_ms", "macs")
    assert [did_you_mean(given, known) for given in ("acuracy", "ACCURACY", "lat", "speed", "", "x" * 10**6)] == [
        " (did you mean accuracy?)",
        " (did you mean accuracy?)",
        " (did you mean latency_ms?)",
        *[""] * 3,
    ]
    assert one_of(known, "mac") == "one of accuracy, latency_ms, macs, got 'mac' (did you mean macs?)"
    assert did_you_mean("a" * 70, ["a" * 75]) == f" (did you mean {'a' * 60}...?)"


@pytest.mark.parametrize("kind", [UserError, NotTaken])
def test_every_error_of_users_is_such_a_sentence(kind: type[UserError]) -> None:
    error = kind(f"{HOSTILE} {'x' * 5000} end")
    assert str(error).startswith(CLEAN)
    assert len(str(error)) == LONGEST
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("raised", [ValueError, OSError, UserError])
def test_whatever_ends_a_command_is_such_a_sentence(
    raised: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise raised(f"{HOSTILE} {'x' * 5000}")

    monkeypatch.setattr(doctor, "diagnose", fail)
    assert cli.main(["doctor"]) in (cli.FAILED, cli.WRONG_INPUT)
    said = capsys.readouterr().err
    assert CLEAN in said
    assert said.count("\n") == 1
    assert len(said) <= LONGEST + 6


def test_words_of_the_command_line_are_shown_so(capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([HOSTILE * 99], ["doctor", f"--{HOSTILE * 99}"], ["search", "run", "--seed", HOSTILE * 99]):
        assert cli.main(args) == cli.WRONG_INPUT
        said = capsys.readouterr().err
        assert said.removesuffix("\n").isprintable()
        assert len(said) <= LONGEST + 6


def test_what_is_said_is_such_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    with Bar(HOSTILE, 2) as bar:
        bar.update(2, HOSTILE)
    said, line = capsys.readouterr().err.splitlines()
    assert said == CLEAN
    assert line.startswith(f"{CLEAN}: 2/2, {CLEAN}, ")


@pytest.mark.parametrize("terminal", [False, True])
def test_tables_and_bars_lose_nothing_to_markup(terminal: bool) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    print_table(ADVICE, [ADVICE], {ADVICE: [ADVICE]}, stream)
    with Bar(ADVICE, 2, stream=stream) as bar:
        bar.update(1, ADVICE)
    printed = " ".join(printable(stream.getvalue()).replace("\u2502", " ").split())
    for word in ADVICE.split():
        assert printed.count(word) >= 4
    print_object({HOSTILE: {HOSTILE: [HOSTILE]}}, stream)
    assert "\ud800" not in stream.getvalue()


def test_the_doctor_says_which_extra_to_install() -> None:
    stream = io.StringIO()
    runtime = {"name": "openvino", "version": None, "precisions": [], "notes": {"all": "pip install 'supersieve[x]'"}}
    doctor._show_runtimes([runtime], stream)
    assert "'supersieve[x]'" in stream.getvalue()


def test_a_card_shows_foreign_text_as_it_is() -> None:
    assert as_it_is("my_model*v2* [a](b) <b> _x_\n|") == r"my_model\*v2\* \[a\](b) \<b\> \_x\_ \|"
    assert [code_span(name) for name in ("a|b", "a`b", "``", " a", "")] == [
        "`a|b`",
        "``a`b``",
        "``` `` ```",
        "`a`",
        "`  `",
    ]
    assert code_span(HOSTILE) == f"`{CLEAN}`"
