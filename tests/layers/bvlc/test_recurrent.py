from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from caffe_compat.errors import LayerError
from tests.layers.building import build, give_values

T, N, D, H, S = 5, 3, 4, 6, 2


def fill(module: nn.Module, device: torch.device | str = "cpu") -> nn.Module:
    """Give the blobs seeded values and the states zeros."""
    torch.manual_seed(7)
    for name, p in module.named_parameters():
        setattr(module, name, nn.Parameter(torch.randn(p.shape).div(2).to(device)))
    for name, b in module.named_buffers():
        setattr(module, name, torch.zeros(b.shape, device=device))
    return module


def make(
    kind: str, *shapes: tuple[int, ...], device: torch.device | str = "cpu", more: str = "", **options: Any
) -> Any:
    text = f'type: "{kind}" recurrent_param {{ num_output: {H} {more} }}'
    return fill(build(text, *shapes, **options), device)


def sequence(device: torch.device | str = "cpu", streams: int = N, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(T, streams, D, generator=generator)
    cont = (torch.rand(T, streams, generator=generator) > 0.4).float()
    return x.to(device), cont.to(device)


SHAPES = ((T, N, D), (T, N))


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def slow(
    kind: str, module: nn.Module, x: Tensor, cont: Tensor, states: Sequence[np.ndarray], static: Tensor | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Outputs (T, N, H) and last states, one stream and one step at a time."""
    w = {name: p.detach().cpu().double().numpy() for name, p in module.named_parameters()}
    inputs, go_on = x.detach().cpu().double().numpy(), cont.cpu().double().numpy()
    outputs = np.zeros((*x.shape[:2], H))
    states = [s.copy() for s in states]
    for n in range(x.shape[1]):
        for t in range(x.shape[0]):
            k, h = go_on[t, n], states[0][n]
            z = w["weight_x"] @ inputs[t, n].flatten() + w["bias"] + w["weight_h"] @ (k * h)
            if static is not None:
                z += w["weight_static"] @ static[n].detach().cpu().double().numpy().flatten()
            if kind == "RNN":
                states[0][n] = np.tanh(z)
                outputs[t, n] = np.tanh(w["weight_out"] @ states[0][n] + w["bias_out"])
                continue
            i, f, o, g = z.reshape(4, H)
            states[1][n] = k * logistic(f) * states[1][n] + logistic(i) * np.tanh(g)
            states[0][n] = outputs[t, n] = logistic(o) * np.tanh(states[1][n])
    return outputs, states


KINDS = [("LSTM", 2), ("RNN", 1)]


@pytest.mark.parametrize(("kind", "count"), KINDS)
def test_state_carries_over_until_reset(kind: str, count: int, device: torch.device) -> None:
    module = make(kind, *SHAPES, device=device)
    states = [np.zeros((N, H)) for _ in range(count)]
    for seed in (1, 2, 3):
        x, cont = sequence(device, seed=seed)
        expected, states = slow(kind, module, x, cont, states)
        np.testing.assert_allclose(module(x, cont).detach().cpu(), expected, atol=2e-6)
    module.reset_state()
    x, cont = sequence(device)
    cont[0] = 1
    expected, _ = slow(kind, module, x, cont, [np.zeros((N, H)) for _ in range(count)])
    np.testing.assert_allclose(module(x, cont).detach().cpu(), expected, atol=2e-6)


@pytest.mark.parametrize(("kind", "count"), KINDS)
def test_static_input_and_inputs_of_many_axes(kind: str, count: int, device: torch.device) -> None:
    module = make(kind, (T, N, 2, 2), (T, N), (N, 1, S), device=device)
    x, cont = sequence(device)
    static = torch.randn(N, 1, S, device=device)
    expected, _ = slow(kind, module, x, cont, [np.zeros((N, H)) for _ in range(count)], static)
    np.testing.assert_allclose(module(x.reshape(T, N, 2, 2), cont, static).detach().cpu(), expected, atol=2e-6)


@pytest.mark.parametrize("with_static", [False, True])
@pytest.mark.parametrize(("kind", "count"), KINDS)
def test_exposed_states(kind: str, count: int, with_static: bool, device: torch.device) -> None:
    shapes = (*SHAPES, *([(N, S)] if with_static else []), *[(1, N, H)] * count)
    module = make(kind, *shapes, device=device, more="expose_hidden: true", tops=1 + count)
    x, cont = sequence(device)
    static = torch.randn(N, S, device=device) if with_static else None
    states = [torch.randn(1, N, H, device=device) for _ in range(count)]
    rest = [static, *states] if static is not None else states
    for _ in range(2):  # nothing is remembered
        top, *last = module(x, cont, *rest)
        expected, expected_last = slow(kind, module, x, cont, [s[0].cpu().double().numpy() for s in states], static)
        np.testing.assert_allclose(top.detach().cpu(), expected, atol=2e-6)
        for ours, theirs in zip(last, expected_last, strict=True):
            np.testing.assert_allclose(ours.detach().cpu(), theirs[None], atol=2e-6)
    assert not dict(module.named_buffers())


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_exposed_states_have_gradients_only_in_true_mode(kind: str) -> None:
    count = 2 if kind == "LSTM" else 1
    for gradients in ("caffe", "true"):
        shapes = (*SHAPES, *[(1, N, H)] * count)
        module = make(kind, *shapes, more="expose_hidden: true", tops=1 + count, gradients=gradients)
        states = [torch.randn(1, N, H, requires_grad=True) for _ in range(count)]
        top, *last = module(*sequence(), *states)
        top.sum().backward()
        assert all((s.grad is not None) == (gradients == "true") for s in states)
        assert all(s.requires_grad == (gradients == "true") for s in last)


@pytest.mark.parametrize("gradients", ["caffe", "true"])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_gradcheck(kind: str, gradients: str) -> None:
    module = make(kind, *SHAPES, (N, S), gradients=gradients).double()
    x, cont = sequence()
    static = torch.randn(N, S).double()
    names = [name for name, _ in module.named_parameters()]

    def run(x: Tensor, static: Tensor, *parameters: Tensor) -> Tensor:
        module.reset_state()
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x, cont.double(), static))

    inputs = [t.detach().double().requires_grad_(True) for t in (x, static, *module.parameters())]
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


def test_gradients_stop_at_the_carried_state() -> None:
    module = make("LSTM", *SHAPES)
    x, cont = sequence()
    first = x.clone().requires_grad_(True)
    module(first, cont)
    second = x.clone().requires_grad_(True)
    module(second, torch.ones(T, N)).sum().backward()
    assert first.grad is None
    assert second.grad is not None
    assert not module.hidden.requires_grad


@pytest.mark.parametrize(("kind", "count"), KINDS)
def test_another_number_of_streams(kind: str, count: int) -> None:
    module = make(kind, *SHAPES)
    states = [np.zeros((N, H)) for _ in range(count)]
    x, cont = sequence()
    _, states = slow(kind, module, x, cont, states)
    module(x, cont)
    fewer, _ = sequence(streams=2, seed=2)
    expected, _ = slow(kind, module, fewer, torch.ones(T, 2), [s[:2] for s in states])
    np.testing.assert_allclose(module(fewer, torch.ones(T, 2)).detach(), expected, atol=2e-6)
    more, _ = sequence(streams=7, seed=3)
    expected, _ = slow(kind, module, more, torch.ones(T, 7), [np.zeros((7, H)) for _ in range(count)])
    np.testing.assert_allclose(module(more, torch.ones(T, 7)).detach(), expected, atol=2e-6)


def test_streams_may_grow_within_inference_mode() -> None:
    module = make("LSTM", *SHAPES)
    with torch.inference_mode():
        module(*sequence(streams=4))
    module(*sequence(streams=4)).sum().backward()


def test_blobs_in_caffes_order() -> None:
    lstm = build(f'type: "LSTM" recurrent_param {{ num_output: {H} }}', *SHAPES, (N, S))
    assert [(n, tuple(getattr(lstm, n).shape)) for n in lstm.blob_names] == [
        ("weight_x", (4 * H, D)),
        ("bias", (4 * H,)),
        ("weight_static", (4 * H, S)),
        ("weight_h", (4 * H, H)),
    ]
    text = f'type: "RNN" recurrent_param {{ num_output: {H} weight_filler {{ type: "xavier" }} debug_info: true }}'
    rnn = build(text, *SHAPES)
    assert [(n, tuple(getattr(rnn, n).shape)) for n in rnn.blob_names] == [
        ("weight_x", (H, D)),
        ("bias", (H,)),
        ("weight_h", (H, H)),
        ("weight_out", (H, H)),
        ("bias_out", (H,)),
    ]
    assert all(rnn.fillers[n].type == ("xavier" if n.startswith("weight") else "constant") for n in rnn.blob_names)


def test_state_is_no_part_of_the_state_dict() -> None:
    assert set(make("LSTM", *SHAPES).state_dict()) == {"weight_x", "bias", "weight_h"}


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_exports_with_its_state(kind: str) -> None:
    module = make(kind, *SHAPES)
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, sequence()), file)
    file.seek(0)
    program = torch.export.load(file).module()
    for seed in (1, 2):
        x, cont = sequence(seed=seed)
        torch.testing.assert_close(program(x, cont), module(x, cont))


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_shapes_follow_on_the_meta_device(kind: str) -> None:
    module = build(f'type: "{kind}" recurrent_param {{ num_output: {H} }}', *SHAPES)
    assert module.infer(*(torch.empty(s, device="meta") for s in SHAPES)).shape == (T, N, H)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_reduced_precision(kind: str, dtype: torch.dtype, device: torch.device) -> None:
    module = make(kind, *SHAPES, device=device)
    x, cont = sequence(device)
    expected = module(x, cont)
    module.reset_state()
    top = module.to(dtype)(x.to(dtype), cont.to(dtype))
    assert top.dtype == dtype
    torch.testing.assert_close(top.float(), expected, atol=0.05, rtol=0)


# LSTMUnit


@pytest.mark.parametrize("gradients", ["caffe", "true"])
def test_lstm_unit_with_fractional_cont(gradients: str, device: torch.device) -> None:
    torch.manual_seed(2)
    module = build('type: "LSTMUnit"', (1, N, H), (1, N, 4 * H), (1, N), tops=2, gradients=gradients)
    c, gates = torch.randn(1, N, H), torch.randn(1, N, 4 * H)
    cont = torch.tensor([[0.0, 0.5, 1.0]])
    c_diff, h_diff = torch.randn(1, N, H), torch.randn(1, N, H)
    ours_c, ours_gates = (t.clone().to(device).requires_grad_(True) for t in (c, gates))
    next_c, next_h = module(ours_c, ours_gates, cont.to(device))
    torch.autograd.backward([next_c, next_h], [c_diff.to(device), h_diff.to(device)])
    old, k = c[0].numpy(), cont[0, :, None].numpy()
    i, s, o = (logistic(v.numpy()) for v in gates[0].chunk(4, 1)[:3])
    g = np.tanh(gates[0].chunk(4, 1)[3].numpy())
    f = k * s
    new = f * old + i * g
    np.testing.assert_allclose(next_c[0].detach().cpu(), new, atol=1e-6)
    np.testing.assert_allclose(next_h[0].detach().cpu(), o * np.tanh(new), atol=1e-6)
    slope = c_diff[0].numpy() + h_diff[0].numpy() * o * (1 - np.tanh(new) ** 2)
    forget = f * (1 - f) if gradients == "caffe" else k * s * (1 - s)
    expected = [slope * g * i * (1 - i), slope * old * forget]
    expected += [h_diff[0].numpy() * np.tanh(new) * o * (1 - o), slope * i * (1 - g * g)]
    np.testing.assert_allclose(ours_gates.grad[0].cpu(), np.concatenate(expected, 1), atol=1e-6)
    np.testing.assert_allclose(ours_c.grad[0].cpu(), slope * f, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "shapes", "tops", "message"),
    [
        ('type: "LSTM"', SHAPES, 1, "num_output must be positive"),
        ('type: "LSTM" recurrent_param { num_output: 6 }', ((T, N), (T, N)), 1, r"\(steps > 0, streams, values, ...\)"),
        ('type: "LSTM" recurrent_param { num_output: 6 }', ((T, N, D), (T, 2)), 1, r"\(steps = 5, streams = 3\) was"),
        ('type: "LSTM" recurrent_param { num_output: 6 }', ((0, N, D), (0, N)), 1, "steps > 0"),
        ('type: "LSTM" recurrent_param { num_output: 6 }', (*SHAPES, (N, S), (1, N, H)), 1, "found 4"),
        ('type: "LSTM" recurrent_param { num_output: 6 }', SHAPES, 3, "has 1 tops"),
        ('type: "LSTM" recurrent_param { num_output: 6 }', (*SHAPES, (2, S)), 1, r"'b2'.*\(streams = 3, values, ...\)"),
        ('type: "RNN" recurrent_param { num_output: 6 expose_hidden: true }', SHAPES, 2, "first h.*found 2"),
        (
            'type: "RNN" recurrent_param { num_output: 6 expose_hidden: true }',
            (*SHAPES, (N, H)),
            2,
            r"'b2'.*\(1, streams = 3, outputs = 6\)",
        ),
        ('type: "LSTMUnit"', ((2, N, H), (2, N, 4 * H), (2, N)), 2, r"'b0'.*\(1, streams, cells\)"),
        ('type: "LSTMUnit"', ((1, N, H), (1, N, H), (1, N)), 2, r"'b1'.*\(1, streams = 3, gates = 24\)"),
        ('type: "LSTMUnit"', ((1, N, H), (1, N, 4 * H), (N, 1)), 2, r"'b2'.*\(1, streams = 3\)"),
    ],
)
def test_refuses_what_does_not_fit(text: str, shapes: tuple[tuple[int, ...], ...], tops: int, message: str) -> None:
    with pytest.raises(LayerError, match=message):
        build(text, *shapes, tops=tops)


def test_bottoms_of_other_sizes_must_fit_each_other() -> None:
    module = give_values(build('type: "LSTM" recurrent_param { num_output: 6 }', *SHAPES))
    assert module(torch.zeros(2, N, D), torch.zeros(2, N)).shape == (2, N, 6)
    with pytest.raises(LayerError, match=r"cont \[5, 3\]; \(steps, streams\), \[2, 3\], was expected of cont"):
        module(torch.zeros(2, N, D), torch.zeros(T, N))
