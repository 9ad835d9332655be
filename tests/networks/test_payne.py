"""The Payne's network: the function it says it is, smooth, pure, in the precision of its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmdwarf.errors import UsageError
from jaxmdwarf.networks.payne import ACTIVATIONS, PayneNetwork, apply_payne, init_payne
from jaxmdwarf.networks.payne_layers import PayneMLP

LABELS = jax.random.uniform(jax.random.key(7), (5, 4), minval=-0.5, maxval=0.5)


def test_it_is_the_perceptron_of_the_payne():
    network = PayneNetwork(hidden=(7, 6), n_out=3, activation="tanh")
    params = init_payne(network, jax.random.key(0), 4)
    value = np.asarray(LABELS, dtype=np.float64)
    for layer in ("hidden_0", "hidden_1"):
        value = np.tanh(value @ np.asarray(params[layer]["kernel"]) + params[layer]["bias"])
    value = value @ np.asarray(params["out"]["kernel"]) + params["out"]["bias"]
    np.testing.assert_allclose(apply_payne(network, params, LABELS), value, atol=1e-6)


def test_without_a_last_layer_it_returns_the_hidden_features():
    with_head = PayneNetwork(hidden=(7, 6), n_out=3)
    params = init_payne(with_head, jax.random.key(0), 4)
    features = apply_payne(PayneNetwork(hidden=(7, 6)), params, LABELS)
    outputs = features @ params["out"]["kernel"] + params["out"]["bias"]
    assert features.shape == (5, 6)
    np.testing.assert_allclose(outputs, apply_payne(with_head, params, LABELS), atol=1e-6)


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
    single = jnp.stack([apply_payne(network, params, row) for row in LABELS])
    np.testing.assert_allclose(apply_payne(network, params, LABELS), single, atol=1e-6)


def test_bends_of_the_first_layer_lie_inside_the_label_space():
    # A unit bends where its argument vanishes; if that never happened, it would be wasted.
    params = init_payne(PayneNetwork(hidden=(300,)), jax.random.key(0), 4)["hidden_0"]
    corners = np.array(np.meshgrid(*[[-0.5, 0.5]] * 4)).reshape(4, -1).T
    argument = corners @ np.asarray(params["kernel"]) + params["bias"]
    assert np.mean((argument.min(axis=0) < 0) & (argument.max(axis=0) > 0)) > 0.85


@pytest.mark.parametrize(
    "options", [{"hidden": ()}, {"hidden": (8, 0)}, {"activation": "softmax"}], ids=str
)
def test_impossible_networks_are_refused(options):
    with pytest.raises(UsageError):
        PayneNetwork(**options)
