"""Peers: each computes the product it is timed for, from its own copy of the weight."""

from __future__ import annotations

import pytest
import torch

from tilus.errors import TilusValueError
from tilus.kernels.peers import ALL, Peer, available

PEERS = {peer.name: peer for peer in available()}
OPTIONAL = {"openvino": "openvino-int4", "llama_cpp": "llama.cpp-q4_0"}


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    """Root of the mean squared error, in units of the root of the mean square."""
    return float((got - want).pow(2).mean().sqrt() / want.pow(2).mean().sqrt())


def product(peer: Peer, w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(peer.make(w)(x)()).float().clone()


def normal(rows: int, k: int) -> torch.Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(rows + k))


@pytest.mark.parametrize("m", [1, 5, 256])
@pytest.mark.parametrize("name", PEERS)
def test_product(name: str, m: int) -> None:
    peer, w, x = PEERS[name], normal(64, 512), normal(m, 512)
    got = product(peer, w, x)
    assert got.shape == (m, 64)
    assert relative(got, x @ w.T) < peer.error
    own = product(peer, w, torch.eye(512)).T  # the weight as the peer holds it
    assert relative(own, w) < peer.error
    assert relative(got, x @ own.T) < 0.015  # what is lost by rounding the activations


@pytest.mark.parametrize("name", PEERS)
def test_calls_repeat_and_copies_are_apart(name: str) -> None:
    peer, x = PEERS[name], normal(3, 256)
    w = normal(64, 256)
    first, second = peer.make(w)(x), peer.make(w)(x)
    want = torch.as_tensor(first()).clone()
    w.neg_()
    negative = peer.make(w)(x)
    assert relative(torch.as_tensor(negative()).float(), x @ w.T) < peer.error
    assert torch.equal(torch.as_tensor(second()), want)
    del second, negative
    assert torch.equal(torch.as_tensor(first()), want)


def test_peers_share_a_weight() -> None:
    w, x = normal(64, 256), normal(2, 256)
    errors = {name: relative(product(peer, w, x), x @ w.T) for name, peer in PEERS.items()}
    assert not {name: e for name, e in errors.items() if e > PEERS[name].error}


def test_every_width_has_a_peer() -> None:
    assert PEERS["torch-bf16"].bits == ALL
    assert all(peer.bits and peer.bits <= ALL for peer in PEERS.values())


@pytest.mark.parametrize("package", OPTIONAL)
def test_optional_peers(package: str) -> None:
    pytest.importorskip(package)
    peer = PEERS[OPTIONAL[package]]
    with pytest.raises(TilusValueError, match=r"`weight` is \[16, 48\]"):
        peer.make(torch.zeros(16, 48))
    assert not product(peer, torch.zeros(16, 256), normal(2, 256)).any()


def test_the_engine_of_torch_is_left_as_it_was() -> None:
    before = torch.backends.quantized.engine
    for m in (1, 256):
        PEERS["torch-int8"].make(normal(16, 64))(normal(m, 64))
    assert torch.backends.quantized.engine == before
