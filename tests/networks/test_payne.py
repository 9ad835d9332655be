"""The Payne's network: the function it says it is, smooth, pure, in the precision of its inputs."""

import jax
import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.networks.payne import ACTIVATIONS, PayneNetwork, apply_payne, init_payne, list_shapes
from jaxmdwarf.networks.payne_layers import PayneMLP

LABELS = jax.device_put(np.float32(np.random.default_rng(7).uniform(-0.5, 0.5, (5, 4))))
apply = jax.jit(apply_payne, static_argnums=0)


def test_it_is_the_perceptron_of_the_payne():
    network = PayneNetwork(hidden=(7, 6), n_out=3, activation="tanh")
    params = init_payne(network, jax.random.key(0), 4)
    value = np.asarray(LABELS, dtype=np.float64)
    for layer in ("hidden_0", "hidden_1"):
        kernel, bias = (np.asarray(params[layer][name]) for name in ("kernel", "bias"))
        value = np.tanh(value @ kernel + bias)
    value = value @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])
    np.testing.assert_allclose(apply(network, params, LABELS), value, atol=1e-6)


def test_without_a_last_layer_it_returns_the_hidden_features():
    with_head = PayneNetwork(hidden=(7, 6), n_out=3)
    params = init_payne(with_head, jax.random.key(0), 4)
    features = np.asarray(apply(PayneNetwork(hidden=(7, 6)), params, LABELS))
    outputs = features @ np.asarray(params["out"]["kernel"]) + np.asarray(params["out"]["bias"])
    assert features.shape == (5, 6)
    np.testing.assert_allclose(outputs, apply(with_head, params, LABELS), atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n_out", [3, None])
def test_it_is_the_module_of_flax_to_the_last_bit(activation, n_out):
    network = PayneNetwork(hidden=(7, 6), n_out=n_out, activation=activation)
    params = init_payne(network, jax.random.key(3), 4)
    layers = PayneMLP(network.hidden, network.n_out, network.activation)
    expected = layers.apply({"params": params}, LABELS)
    np.testing.assert_array_equal(apply_payne(network, params, LABELS), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_batches_equal_single_stars(activation):
    network = PayneNetwork(hidden=(16, 16), n_out=4, activation=activation)
    params = init_payne(network, jax.random.key(2), 4)
    single = [apply(network, params, row) for row in np.asarray(LABELS)]
    np.testing.assert_allclose(apply(network, params, LABELS), np.stack(single), atol=1e-6)


def test_bends_of_the_first_layer_lie_inside_the_label_space():
    # A unit bends where its argument vanishes; if that never happened, it would be wasted.
    params = init_payne(PayneNetwork(hidden=(300,)), jax.random.key(0), 4)["hidden_0"]
    corners = np.array(np.meshgrid(*[[-0.5, 0.5]] * 4)).reshape(4, -1).T
    argument = corners @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    assert np.mean((argument.min(axis=0) < 0) & (argument.max(axis=0) > 0)) > 0.85


@pytest.mark.parametrize(
    "options", [{"hidden": ()}, {"hidden": (8, 0)}, {"activation": "softmax"}], ids=str
)
def test_impossible_networks_are_refused(options):
    with pytest.raises(UsageError):
        PayneNetwork(**options)


@pytest.mark.parametrize(("hidden", "n_out"), [((6,), None), ((6, 5, 7), 3)])
def test_shapes_are_those_of_random_parameters(hidden, n_out):
    network = PayneNetwork(hidden=hidden, n_out=n_out)
    params = jax.eval_shape(lambda: init_payne(network, jax.random.key(0), 4))
    shapes = jax.tree.map(lambda leaf: tuple(leaf.shape), params)
    assert list_shapes(network, 4) == shapes
