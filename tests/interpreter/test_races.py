"""Races inside a block, between blocks and inside a byte; and what only looks like one."""

import re

import numpy as np
import pytest

from tests.interpreter.planted import HEAD, LOAD, OTHER, floats, launch, trapped
from tilus.errors import Trap
from tilus.ir.interpreter import Workspace

# Races inside a block


def test_a_write_after_anothers_read() -> None:
    said = trapped(LOAD + "store_global(%X, %t, offsets=[1]) ; here", barriers=False)
    assert said == (
        "race: thread 0 writes byte 4 of x, which thread 1 read with nothing to order the two"
    )


def test_a_read_after_anothers_write() -> None:
    said = trapped(
        LOAD
        + f"""store_global(%Y, %t, offsets=[0])
        %u = load_global(%Y, offsets=[0], shape=[64], {OTHER}) ; here
        print_tensor(%u)""",
        barriers=False,
    )
    assert said.startswith("race: thread 0 reads byte 4 of y, which thread 1 wrote")


def test_a_write_after_anothers_write() -> None:
    body = (
        LOAD
        + f"""%u = convert_layout(%t, {OTHER})
        store_global(%Y, %t, offsets=[0])
        store_global(%Y, %u, offsets=[0]) ; here"""
    )
    assert "thread 0 writes byte 4 of y, which thread 1 wrote" in trapped(body, barriers=False)


def test_several_threads_held_it() -> None:
    whole = "layout=replicated(32)*local(64)"
    body = f"""%t = load_global(%X, offsets=[0], shape=[64], {whole})
        store_global(%X, %t, offsets=[0]) ; here"""
    assert "which several threads read" in trapped(body, barriers=False)


def test_the_first_reader_is_not_forgotten() -> None:
    """Every element is read by two threads in turn; then the second one writes it."""
    body = (
        LOAD
        + f"""%u = load_global(%X, offsets=[0], shape=[64], {OTHER})
        %v = convert_layout(%t, {OTHER})
        %w = add(%u, %v)
        store_global(%X, %w, offsets=[0]) ; here"""
    )
    assert "which several threads read" in trapped(body, barriers=False)


def test_two_values_for_one_element() -> None:
    head = HEAD.replace("shape=[64])\n  %Y", "shape=[64], strides=[0])\n  %Y")
    said = trapped(
        LOAD.replace("%X", "%Y") + "store_global(%X, %t, offsets=[0]) ; here",
        head=head,
        x=floats(),
        y=floats(),
        n=0,
    )
    assert "and another store different values to byte 0 of x" in said


def test_a_barrier_orders_them() -> None:
    x = floats()
    launch(LOAD + "sync()\nstore_global(%X, %t, offsets=[1])", x=x)
    np.testing.assert_array_equal(x, [0, *range(63)])


def test_the_compiler_orders_what_goes_through_one_pointer() -> None:
    x = floats()
    launch(LOAD + "store_global(%X, %t, offsets=[1])", x=x)
    np.testing.assert_array_equal(x, [0, *range(63)])
    for threads in (1, 64, 96):  # in place, where some threads hold the same element
        body = "%t = load_global(%X, offsets=[0], shape=[16])\n%u = neg(%t)\n"
        launch(body + "store_global(%X, %u, offsets=[0])", threads=threads, x=x)
    np.testing.assert_array_equal(x, [0, *range(0, -15, -1), *range(15, 63)])


def test_one_thread_is_always_in_order() -> None:
    launch(
        "%t = load_global(%X, offsets=[0], shape=[64])\nstore_global(%X, %t, offsets=[1])",
        threads=1,
    )


def test_shared_memory_without_a_barrier() -> None:
    body = (
        LOAD
        + """%s = allocate_shared(dtype=f32, shape=[64])
      store_shared(%s, %t)
      %u = load_shared(%s, layout=spatial(32)*local(2)) ; here
      print_tensor(%u)"""
    )
    said = trapped(body, barriers=False)
    assert re.match(r"race: thread 0 reads byte 4 of shared memory #1, which thread 1 wrote", said)


# Races between blocks


def test_blocks_that_write_one_place() -> None:
    said = trapped(LOAD + "store_global(%Y, %t, offsets=[block_idx(0)]) ; here", grid=(2,))
    assert said.startswith("race: thread 0 writes byte 4 of y, which thread 1 of block 0 wrote")


def test_a_block_that_reads_what_another_wrote() -> None:
    body = """if block_idx(0) == 0 {
        %t = full(dtype=f32, shape=[64], value=1.0)
        store_global(%Y, %t, offsets=[0])
      } else {
        %u = load_global(%Y, offsets=[8], shape=[8]) ; here
        print_tensor(%u)
      }"""
    said = trapped(body, grid=(2,))
    assert re.match(r"race: thread 0 reads byte 32 of y, which thread \d+ of block 0 wrote", said)


def test_a_block_that_writes_what_another_read() -> None:
    body = """if block_idx(1) == 1 {
        %t = full(dtype=f32, shape=[64], value=1.0)
        store_global(%Y, %t, offsets=[0]) ; here
      } else {
        %u = load_global(%Y, offsets=[0], shape=[64])
        device_assert(cond=true)
        store_global(%X, %u, offsets=[0])
      }"""
    with pytest.raises(Trap) as caught:
        launch(body, grid=(1, 2))
    assert caught.value.first.message.startswith("block (0, 1): race: thread 0 writes byte 0 of y")
    assert "of block 0 read" in caught.value.first.message


SEM = """kernel @k(%x: ptr[f32], %sem: ptr[i32]) threads 32 {
  %X = global_view(%x, dtype=f32, shape=[64])
  %S = global_view(%sem, dtype=i32, shape=[8])
  let %b = block_idx(0)
"""
ADD = """%t = load_global(%X, offsets=[0], shape=[64])
  sync()
  %u = add(%t, %t)
  store_global(%X, %u, offsets=[0])"""


def semaphores() -> dict[str, np.ndarray]:
    return {"x": np.ones(64, np.float32), "sem": np.zeros(8, np.int32)}


def test_a_semaphore_orders_blocks() -> None:
    args = semaphores()
    body = f"""semaphore_acquire(%S, offsets=[0], value=%b)
      {ADD}
      semaphore_release(%S, offsets=[0], value=%b + 1)"""
    launch(body, head=SEM, grid=(5,), **args)
    assert set(args["x"]) == {32.0} and args["sem"][0] == 5


def test_order_passes_through_a_third_block() -> None:
    """Block 2 knows block 0 only through block 1, by another semaphore."""
    body = f"""if %b == 1 {{
        semaphore_acquire(%S, offsets=[0], value=1)
        semaphore_release(%S, offsets=[1], value=1)
      }} else {{
        if %b == 2 {{ semaphore_acquire(%S, offsets=[1], value=1) }}
        {ADD}
        semaphore_release(%S, offsets=[0], value=1)
      }}"""
    args = semaphores()
    launch(body, head=SEM, grid=(3,), **args)
    assert set(args["x"]) == {4.0}


def test_a_release_says_nothing_of_what_comes_later() -> None:
    body = """if %b == 0 {
        %t = full(dtype=f32, shape=[64], value=2.0)
        semaphore_release(%S, offsets=[0], value=1)
        store_global(%X, %t, offsets=[0])
      } else {
        semaphore_acquire(%S, offsets=[0], value=1)
        %u = load_global(%X, offsets=[0], shape=[64]) ; here
        print_tensor(%u)
      }"""
    assert "of block 0 wrote" in trapped(body, head=SEM, grid=(2,), **semaphores())


def test_another_semaphore_orders_nothing() -> None:
    body = f"""if %b == 1 {{ semaphore_acquire(%S, offsets=[1], value=0) }}
      {ADD.replace("shape=[64])", "shape=[64]) ; here", 1)}
      semaphore_release(%S, offsets=[0], value=1)"""
    assert "of block 0 wrote" in trapped(body, head=SEM, grid=(2,), **semaphores())


def test_a_wait_that_cannot_end() -> None:
    said = trapped(
        "semaphore_acquire(%S, offsets=[2], value=%b + 1) ; here", head=SEM, **semaphores()
    )
    assert said == (
        "waits for the semaphore to be 1; it is 0, and no earlier block is left to change it"
    )


def test_a_semaphore_outside_its_view() -> None:
    said = trapped(
        "semaphore_release(%S, offsets=[%b - 1], value=0) ; here", head=SEM, **semaphores()
    )
    assert "the semaphore at [-1] is outside its view" in said
    said = trapped(
        "semaphore_release(%S, offsets=[7], value=0) ; here",
        head=SEM,
        x=floats(),
        sem=np.zeros(7, np.int32),
    )
    assert "the semaphore at [7] is outside its view" in said


def test_a_semaphore_that_was_never_set() -> None:
    body = "semaphore_acquire(%S, offsets=[0], value=0) ; here"
    assert "never been set" in trapped(body, head=SEM, x=floats(), sem=Workspace(32))


# No false alarms


def test_atomics_may_meet() -> None:
    y = np.zeros(64, np.float32)
    launch(
        LOAD + "atomic_add(%Y, %t, offsets=[0])\natomic_add(%Y, %t, offsets=[0])", grid=(3,), y=y
    )
    np.testing.assert_array_equal(y, 6 * np.arange(64, dtype=np.float32))


def test_atomics_and_plain_reads_may_not() -> None:
    body = (
        LOAD
        + """atomic_add(%Y, %t, offsets=[0])
        %u = load_global(%Y, offsets=[0], shape=[64]) ; here
        print_tensor(%u)"""
    )
    assert "an atomic update wrote" in trapped(body, barriers=False)
    launch(body)


def test_the_last_block_must_wait_for_all_atomics() -> None:
    """Each block has added, block 2 reads; only that it added itself is no order."""
    body = (
        LOAD
        + """atomic_add(%Y, %t, offsets=[0])
      sync()
      if block_idx(0) == 2 {
        %u = load_global(%Y, offsets=[0], shape=[64]) ; here
        print_tensor(%u)
      }"""
    )
    assert "an atomic update of block 0 wrote" in trapped(body, grid=(3,))


def test_replicas_may_write_the_same() -> None:
    whole = "layout=replicated(32)*local(64)"
    body = (
        f"%t = load_global(%X, offsets=[0], shape=[64], {whole})\nstore_global(%Y, %t, offsets=[0])"
    )
    launch(body)


def test_all_may_read() -> None:
    body = """%t = load_global(%X, offsets=[0], shape=[64], layout=replicated(32)*local(64))
      %u = load_global(%X, offsets=[0], shape=[64])
      %v = add(%t, %u)
      store_global(%Y, %v, offsets=[block_idx(0) * 64])"""
    head = HEAD.replace(
        "%Y = global_view(%y, dtype=f32, shape=[64])",
        "%Y = global_view(%y, dtype=f32, shape=[256])",
    )
    launch(body, grid=(4,), head=head, x=floats(), y=floats(256), n=0)


# Sub-byte stores


def test_threads_that_tear_a_byte() -> None:
    head = HEAD.replace("f32", "u4")
    body = "%t = load_global(%X, offsets=[0], shape=[8])\nstore_global(%Y, %t, offsets=[1]) ; here"
    said = trapped(
        body, head=head, threads=4, x=np.zeros(32, np.uint8), y=np.zeros(32, np.uint8), n=0
    )
    assert said == "race: threads 0 and 1 write different bits of byte 1 of y"


def test_blocks_that_tear_a_byte() -> None:
    head = HEAD.replace("f32", "u4")
    body = """%t = load_global(%X, offsets=[0], shape=[3])
      store_global(%Y, %t, offsets=[block_idx(0) * 3]) ; here"""
    said = trapped(
        body, head=head, grid=(2,), x=np.zeros(32, np.uint8), y=np.zeros(32, np.uint8), n=0
    )
    assert "writes byte 1 of y, which several threads of block 0 wrote" in said
