"""Autotuning: what is chosen, from what, and what is an error."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import tilus
from tests.lang import tuning
from tests.lang.tuning import (
    LARGE,
    QUICK,
    SLOW,
    SMALL,
    N,
    add,
    blocks,
    choices,
    keyword_only,
    launch,
    plus,
    tuned,
    work,
)
from tilus import Config, f32, ptr
from tilus.errors import TilusError, TilusSyntaxError, TilusTypeError, TilusValueError
from tilus.lang.autotune import _Trial
from tilus.options import options
from tilus.runtime.program import Graph

# --- what is chosen ---


def test_measuring_finds_the_fast_config_that_the_model_does_not(folder):
    kernel = tuned(work, SLOW, QUICK, key="n", cost=lambda a: -a["WORK"])
    launch(kernel)
    assert kernel.best == {(N,): QUICK}
    launch(kernel, 2 * N)
    assert kernel.best == {(N,): QUICK, (2 * N,): QUICK}


def test_without_measuring_the_model_chooses(folder, measured):
    kernel = tuned(work, QUICK, SLOW, cost=lambda a: -a["WORK"])
    with options.scope(autotune=False):
        launch(kernel)
        assert kernel.best == {(): SLOW}
        launch(kernel)
    assert not measured and not choices(folder)
    launch(kernel)  # what the model said then does not count now
    assert kernel.best == {(): QUICK} and measured == ["work"]
    assert len(choices(folder)) == 1

    class Spy:
        def __getitem__(self, grid):
            return lambda *args, **keywords: seen.append(keywords)

    seen, kernel.kernel = [], Spy()
    for on in (True, False, True):
        with options.scope(autotune=on):
            kernel[4](torch.zeros(N), torch.zeros(N), N)
    assert seen == [{"WORK": 1}, {"WORK": 20_000}, {"WORK": 1}]


def test_without_measuring_only_what_runs_is_compiled(folder):
    def files():
        return len([p for p in folder.rglob("*") if p.is_file()])

    kernel = tuned(work, QUICK, Config(WORK=2))
    with options.scope(autotune=False):
        launch(kernel)
    before = files()
    kernel.kernel[4](torch.zeros(N), torch.zeros(N), N, WORK=2)
    assert files() == before + 1


def test_the_variable(tmp_path, measured, monkeypatch):
    for text, names in (("0", []), ("1", ["work"])):
        monkeypatch.setenv("TILUS_AUTOTUNE", text)
        monkeypatch.setenv("TILUS_CACHE_DIR", str(tmp_path))
        launch(tuned(work, QUICK, Config(WORK=2)))
        assert measured == names


def test_the_built_in_model_ranks_the_dear_config_last(folder):
    kernel = tuned(work, SLOW, QUICK, Config(WORK=20))
    with options.scope(autotune=False):
        launch(kernel)
    assert kernel.best == {(): QUICK}


def test_only_the_cheapest_are_run(folder, monkeypatch):
    run = []
    monkeypatch.setattr(_Trial, "fault", lambda self, c: run.append(c.config))
    monkeypatch.setattr(_Trial, "seconds", lambda self, c: c.config.keywords["WORK"])
    configs = [Config(WORK=n) for n in (3, 5, 1, 4, 2)]
    kernel = tuned(work, *configs, top=3, cost=lambda a: -a["WORK"])
    launch(kernel)
    assert run == [Config(WORK=n) for n in (5, 4, 3)]
    assert kernel.best == {(): Config(WORK=3)}


def test_the_median_decides(folder, monkeypatch):
    times = {1: [9.0, 2.0, 2.1] * 10, 2: [1.0, 3.0, 3.1] * 10}
    monkeypatch.setattr(_Trial, "seconds", lambda self, c: times[c.config.keywords["WORK"]].pop(0))
    kernel = tuned(work, Config(WORK=1), Config(WORK=2))
    launch(kernel)
    assert kernel.best == {(): Config(WORK=1)}


def test_cost_sees_arguments_constexprs_and_threads(folder):
    seen = []
    x, y = torch.zeros(N), torch.zeros(N)
    kernel = tuned(plus, Config(WORK=1, num_threads=1), cost=lambda a: seen.append(a) or 0)
    kernel[4](x, y, N, PLUS=2.0)
    (a,) = seen
    assert a["x"] is x and a["y"] is y
    assert {k: v for k, v in a.items() if k not in "xy"} == {
        **{"n": N, "WORK": 1, "PLUS": 2.0, "num_threads": 1}
    }


def test_a_choice_for_each_key_and_constexpr(folder, measured):
    kernel = tuned(plus, QUICK, Config(WORK=2), key=("n",))
    for n, number in ((N, 1.0), (N, 1.0), (300, 1.0), (N, 2.0), (N, 1.0)):
        launch(kernel, n, PLUS=number)
    assert set(kernel.best) == {(N, 1.0), (300, 1.0), (N, 2.0)}
    assert len(measured) == 3
    launch(kernel, PLUS=1)  # another constant than 1.0
    assert len(kernel._measured) == 4
    launch(kernel, PLUS=np.float32(3.0))
    assert (N, 3.0) in kernel.best
    loose = tuned(work, QUICK, Config(WORK=2))
    launch(loose, N)
    launch(loose, 300)
    assert list(loose.best) == [()] and len(loose._measured) == 1


def test_by_name_by_place_and_by_default_is_the_same_choice(folder, measured):
    kernel = tuned(keyword_only, SMALL, LARGE, key=("n", "b"))
    x = torch.zeros(N)
    kernel[blocks](x, N)
    kernel[blocks](x=x, n=N, b=0)
    kernel[blocks](x, N, 7, 0)
    assert len(measured) == 1


def test_threads_are_part_of_a_config(folder):
    kernel = tuned(add, Config(BLOCK=64, num_threads=1), Config(BLOCK=64, num_threads=2), top=1)
    x = torch.zeros(100)
    kernel[blocks](x, 100)
    assert x.tolist() == [1.0] * 100
    assert kernel.best == {(): kernel.configs[0]}


def test_threads_that_a_launch_asks_for_count(folder, measured):
    kernel = tuned(add, SMALL, LARGE)
    for keywords in ({}, {"num_threads": 2}, {}, {"num_threads": 2}):
        kernel[blocks](torch.zeros(100), 100, **keywords)
    assert len(measured) == 2


def test_the_number_of_threads_of_the_machine_counts(folder, measured):
    kernel = tuned(work, QUICK, Config(WORK=2))
    for count in (1, 2, 1):
        torch.set_num_threads(count)
        launch(kernel)
    assert len(measured) == 2 and len(choices(folder)) == 2


def test_threads_wait_for_one_choice(folder, measured):
    kernel = tuned(work, QUICK, Config(WORK=2))
    errors = []

    def run():
        try:
            torch.set_num_threads(1)
            with options.scope(autotune=True, cache_dir=folder, always_compile=True):
                launch(kernel)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and len(measured) == 1


def test_interpreted_launches_take_the_models_choice(folder, measured):
    kernel = tuned(work, SLOW, QUICK)
    x, y = torch.randn(40), torch.zeros(40)
    kernel.interpret(x, y, 40, grid=1)
    assert torch.equal(y, x + 1)
    with options.scope(interpret=True):
        kernel[1](x, y, 40)
    assert kernel.best == {(): QUICK}
    assert not measured and not choices(folder)


def test_while_a_graph_is_recorded_nothing_is_measured(folder, measured):
    kernel = tuned(work, QUICK, SLOW)
    x, y = torch.randn(N), torch.zeros(N)
    with Graph() as graph:
        kernel[4](x, y, N)
    assert not measured and len(graph) == 1
    graph.replay()
    assert torch.equal(y, x + 1)


def test_a_launch_of_nothing_chooses_nothing(folder, measured):
    kernel = tuned(add, SMALL, LARGE)
    kernel[blocks](torch.zeros(0), 0)
    assert not measured and not kernel.best


def test_of_equals_the_first_is_chosen(folder):
    with options.scope(autotune=False):
        kernel = tuned(add, LARGE, SMALL, cost=lambda a: 1)
        kernel[blocks](torch.zeros(8), 8)
        assert kernel.best == {(): LARGE}


# --- configs, and what is an error ---


def test_configs_are_values():
    assert Config(A=1, B=2) == Config(B=2, A=1) != Config(A=1, B=2, num_warps=1)
    assert len({Config(A=1), Config(A=1.0), Config(A=True), Config(A=1)}) == 3
    assert repr(Config(A="x", num_threads=2)) == "Config(A='x', num_threads=2)"
    assert Config(A=1, num_warps=2).constants == {"A": 1}


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Config(A=[1]), TilusTypeError, "`A` is a list, which is not hashable"),
        (lambda: Config(num_warps=1, num_threads=1), TilusTypeError, "both given"),
        (lambda: Config(num_warps=0), TilusValueError, "`num_warps` is 0"),
        (lambda: tuned(add), TilusTypeError, "`configs` is empty"),
        (lambda: tuned(add, {"BLOCK": 1}), TilusTypeError, r"\{'BLOCK': 1\} is no tilus.Config"),
        (lambda: tuned(add, SMALL, LARGE, SMALL), TilusTypeError, r"BLOCK=64\) is there twice"),
        (
            lambda: tuned(plus, Config(WORK=1), Config(WORK=1, PLUS=2.0)),
            TilusTypeError,
            r"Config\(WORK=1\) does not give `PLUS`, as Config\(WORK=1, PLUS=2.0\) does",
        ),
        (
            lambda: tuned(plus, Config(WORK=1, PLUS=2.0), Config(WORK=1)),
            TilusTypeError,
            r"Config\(WORK=1\) does not give `PLUS`",
        ),
        (lambda: tuned(add, Config(BLOK=1)), TilusTypeError, "a config gives `BLOK`, which is no"),
        (lambda: tuned(add, SMALL, key="m"), TilusTypeError, "`key` names `m`, which is no param"),
        (lambda: tuned(add, SMALL, top=0), TilusTypeError, "`top` is 0; it is an int, at least 1"),
        (lambda: tuned(add.fn, SMALL), TilusTypeError, "`add` is no kernel"),
        (lambda: tuned(tuned(add, SMALL), SMALL), TilusTypeError, "`add` is tuned already"),
        (lambda: tilus.jit(tuned(add, SMALL)), TilusTypeError, "`add` is a kernel already"),
    ],
)
def test_configs_that_make_no_sense(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize(
    ("config", "key", "message"),
    [
        (Config(n=4), (), "`n: i32` cannot be tuned: it is no constexpr"),
        (SMALL, ("BLOCK",), "`BLOCK: constexpr` cannot be in the key: it is tuned"),
        (SMALL, ("n", "x"), "`x: ptr.f32.` cannot be in the key: its type is always the same"),
    ],
)
def test_parameters_of_the_wrong_role(folder, config, key, message, on):
    kernel = tuned(add, config, key=key)
    with options.scope(autotune=on), pytest.raises(TilusTypeError, match=message) as e:
        kernel[1](torch.zeros(4), 4)
    assert e.value.span.file == tuning.__file__


@pytest.mark.parametrize("before", [True, False])
def test_launches_that_make_no_sense(folder, before):
    kernel = tuned(add, Config(BLOCK=64, num_threads=1), Config(BLOCK=256, num_threads=1), key="n")
    x = torch.zeros(8)
    if before:
        kernel[blocks](x, 8)
    for args, keywords, message in [
        ((x, 8), {"BLOCK": 64}, "`BLOCK` is tuned, and the launch gives it"),
        ((x, 8, 64), {}, "`BLOCK` is tuned, and the launch gives it"),
        ((x, 8), {"num_threads": 1}, "`num_threads` is tuned, and the launch gives it"),
        ((x, 8), {"num_warps": 1}, "both given"),
        ((x,), {}, "misses the argument `n: i32`"),
        ((x, 8), {"m": 1}, "has no parameter `m`"),
        ((x, [8]), {}, "must be an int, not a list"),
        ((x.double(), 8), {}, "is a tensor of torch.float64, not of f32"),
        ((3, 8), {}, "must be a tensor, not 3"),
        ((x, 8.0), {}, "must be an int, not 8.0"),
    ]:
        with pytest.raises(TilusTypeError, match=message):
            kernel[lambda p: 1](*args, **keywords)
    assert x.tolist() == [1.0 if before else 0.0] * 8


def test_constexprs_that_make_no_sense(folder):
    kernel = tuned(plus, QUICK)
    x = torch.zeros(8)
    for value, message in (([1.0], "is a list, which can change"), (x, "is a Tensor")):
        with pytest.raises(TilusTypeError, match=message):
            kernel[1](x, x, 8, value)
    with pytest.raises(TilusTypeError, match="takes 5 positional arguments; 6 were given"):
        tuned(keyword_only, SMALL)[1](x, 8, 1, 2, 3, 4)


def test_keyword_only_parameters(folder):
    x = torch.zeros(80)
    tuned(keyword_only, SMALL, Config(BLOCK=32), key=("b", "n"))[blocks](x, 60, b=2)
    assert x.tolist() == [1.0] * 60 + [0.0] * 20


def test_the_plain_kernel_is_at_hand(folder):
    kernel = tuned(add, SMALL, LARGE)
    x = torch.zeros(8)
    kernel.kernel[1](x, 8, BLOCK=8)
    assert x.tolist() == [1.0] * 8
    assert "kernel @add" in str(kernel.trace({"BLOCK": 8}))
    with pytest.raises(TilusTypeError, match="without a grid"):
        kernel(x, 8)


def test_errors_in_the_kernel_are_shown_as_ever(folder):
    @tilus.jit
    def bad(x: ptr[f32], BLOCK: tilus.constexpr):
        print(x)

    with pytest.raises(TilusSyntaxError, match="`print` is not supported") as e:
        tuned(bad, SMALL, LARGE)[1](torch.zeros(4))
    assert isinstance(e.value, TilusError) and len(e.traceback) <= 4
