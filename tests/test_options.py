"""Options come from a scope first, then from the environment at that moment, then the default."""

import threading
from pathlib import Path

import pytest

from tilus.errors import TilusError
from tilus.options import Option, Options, options

OPTIONS = {name: o for name, o in vars(Options).items() if isinstance(o, Option)}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for option in OPTIONS.values():
        monkeypatch.delenv(option.variable, raising=False)


@pytest.mark.parametrize("name", OPTIONS)
def test_default(name):
    assert getattr(options, name) == OPTIONS[name].default


@pytest.mark.parametrize("name", OPTIONS)
def test_empty_variable_is_unset(name, monkeypatch):
    monkeypatch.setenv(OPTIONS[name].variable, "")
    assert getattr(options, name) == OPTIONS[name].default


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_says_what_it_means(name):
    assert OPTIONS[name].__doc__.endswith(".")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("interpret", "1", True),
        ("interpret", "True", True),
        ("interpret", "0", False),
        ("full_traceback", "1", True),
        ("verify", "each", "each"),
        ("stop_after", "0", 0),
        ("stop_after", "12", 12),
        ("dump", "out/ir", Path("out/ir")),
        ("dump", "~/ir", Path.home() / "ir"),
    ],
)
def test_environment_is_read_when_asked(name, text, value, monkeypatch):
    monkeypatch.setenv(f"TILUS_{name.upper()}", text)
    assert getattr(options, name) == value


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("interpret", "yes please", "1 or 0"),
        ("verify", "eahc", "once or each"),
        ("stop_after", "-1", "a whole number from 0"),
        ("stop_after", "two", "a whole number from 0"),
    ],
)
def test_bad_value_names_the_variable_and_what_it_can_be(name, text, allowed, monkeypatch):
    variable = f"TILUS_{name.upper()}"
    monkeypatch.setenv(variable, text)
    with pytest.raises(TilusError) as raised:
        getattr(options, name)
    assert isinstance(raised.value, ValueError)
    assert f"{variable} is {text!r}" in str(raised.value)
    assert f"it can be {allowed}" in str(raised.value)


def test_scope_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv("TILUS_STOP_AFTER", "1")
    with options.scope(stop_after=2):
        assert options.stop_after == 2
    assert options.stop_after == 1


def test_scopes_nest():
    with options.scope(verify="each", stop_after=1):
        with options.scope(stop_after=2, interpret=True):
            assert (options.verify, options.stop_after, options.interpret) == ("each", 2, True)
        assert (options.verify, options.stop_after, options.interpret) == ("each", 1, False)


def test_scope_ends_with_an_exception():
    with pytest.raises(RuntimeError), options.scope(verify="each"):
        raise RuntimeError
    assert options.verify == "once"


def test_none_in_a_scope_is_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv("TILUS_DUMP", str(tmp_path))
    with options.scope(dump=None):
        assert options.dump is None
    assert options.dump == tmp_path


def test_bad_value_in_a_scope():
    with pytest.raises(ValueError, match="once or each"), options.scope(verify="never"):
        pass


def test_unknown_option_lists_those_there_are():
    with pytest.raises(TypeError) as raised, options.scope(verfy="each"):
        pass
    assert "no such option: verfy" in str(raised.value)
    assert "verify" in str(raised.value)


def test_assignment_says_how_to_set():
    with pytest.raises(AttributeError, match="TILUS_VERIFY"):
        options.verify = "each"


def test_scope_belongs_to_its_thread():
    seen = []
    with options.scope(stop_after=3):
        thread = threading.Thread(target=lambda: seen.append(options.stop_after))
        thread.start()
        thread.join()
    assert seen == [None]
