"""Layers: numbers by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import golden_recipe
import layers
import model
import roundings


def test_batch_norm_moves_its_averages_by_a_tenth_towards_the_unbiased_variance():
    norm = layers.BatchNorm(decay=0.9, epsilon=0.0)
    inputs = np.float32([[1.0], [3.0]])  # Mean 2, biased variance 1, unbiased 2.
    outputs = norm(inputs, training=True)
    np.testing.assert_allclose(outputs, [[-1], [1]], rtol=1e-6)
    np.testing.assert_allclose(norm.moving_mean, [0.9 * 0 + 0.1 * 2], rtol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, [0.9 * 1 + 0.1 * 2], rtol=1e-6)


def test_batch_norm_uses_its_averages_at_inference_and_leaves_them_alone():
    norm = layers.BatchNorm(epsilon=0.0)
    norm.build((None, 2))
    norm.moving_mean.assign([1, 2])
    norm.moving_variance.assign([4, 9])
    norm.gamma.assign([2, 3])
    norm.beta.assign([10, 20])
    outputs = norm(np.float32([[5, 5], [1, 2]]), training=False)
    np.testing.assert_allclose(outputs, [[14, 23], [10, 20]], rtol=1e-6)
    np.testing.assert_array_equal(norm.moving_mean, [1, 2])


def test_batch_norm_of_images_averages_over_all_pixels():
    images = np.float32(np.random.default_rng(0).normal(3, 2, (4, 5, 6, 2)))
    norm = layers.BatchNorm()
    outputs = np.asarray(norm(images, training=True))
    np.testing.assert_allclose(outputs.mean((0, 1, 2)), [0, 0], atol=1e-5)
    # Of a variance of 4, epsilon takes 1e-5 / 8 of the deviation.
    np.testing.assert_allclose(outputs.std((0, 1, 2)), [1, 1], rtol=1e-5)


@pytest.mark.parametrize('pads_explicitly, expected', [(True, 1), (False, 0)])
def test_explicit_padding_starts_a_pixel_before_even_images(pads_explicitly, expected):
    # A kernel that looks at its top left pixel only, over an image of ones: the first
    # output is 0 if a pixel of padding stands there. 'SAME' pads an even image at the
    # far end only.
    conv = layers.ConvBN(1, 3, 2, None, pads_explicitly)
    conv.build((None, 4, 4, 1))
    kernel = np.zeros((3, 3, 1, 1))
    kernel[0, 0] = 1
    conv.weights_.assign(kernel)
    outputs = np.asarray(conv.convolve(tf.ones((1, 4, 4, 1))))
    assert outputs.shape == (1, 2, 2, 1)
    assert outputs[0, 0, 0, 0] == 1 - expected
    assert outputs[0, 1, 1, 0] == 1


@pytest.mark.parametrize('size', [1, 3, 7])
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('pads_explicitly', [True, False])
@pytest.mark.parametrize('shape', [(2, 7, 8, 3), (2, 9, 1, 3)])
def test_convolution_knows_its_output_shape(size, stride, pads_explicitly, shape):
    for conv in (
        layers.Conv(5, size, stride, None, pads_explicitly),
        layers.DepthwiseConvBN(None, size, stride, None),
    ):
        outputs = conv(tf.ones(shape))
        assert conv.compute_output_shape(shape) == tuple(outputs.shape)
    _, _, _, channels = shape
    unknown = conv.compute_output_shape((None, None, None, channels))
    assert unknown == (None, None, None, channels)


def test_dense_knows_its_output_shape():
    dense = layers.Dense(3, batch_norm=layers.BatchNorm())
    assert dense.compute_output_shape((2, 5)) == tuple(dense(tf.ones((2, 5))).shape)


@pytest.mark.parametrize('net', ['resnet_v1_50', 'lunet', 'mobilenet_v1_025_224'])
def test_nets_are_built_without_a_trace_of_their_convolutions(net, monkeypatch):
    def fail(*_):
        raise AssertionError('a convolution was run while the net was built')

    # A trace draws the initial weights once more wherever they are used.
    monkeypatch.setattr(layers.Conv, 'convolve', fail)
    built = model.build_model(net, 'direct', 2, 'bfloat16')
    assert all(layer.built for layer in built._flatten_layers())
    body, _ = (layer for layer in built.layers if layer.variables)
    assert body.output.dtype == 'float32'  # Averages are, whatever the policy.


def test_dense_has_a_bias_or_a_batch_norm():
    plain, normed = layers.Dense(3), layers.Dense(3, batch_norm=layers.BatchNorm())
    inputs = tf.ones((2, 5))
    plain(inputs)
    normed(inputs)
    assert [v.name for v in plain.variables] == ['weights', 'biases']
    assert [v.name for v in normed.trainable_variables] == ['weights', 'gamma', 'beta']


def test_names_of_nested_layers_are_variable_scopes():
    conv = layers.ConvBN(2, 1, name='conv1')
    chain = layers.Chain([layers.Chain([conv], name='unit_1')], name='net')
    chain(keras.Input((4, 4, 3)))
    paths = {v.path for v in chain.variables}
    assert 'net/unit_1/conv1/weights' in paths
    assert 'net/unit_1/conv1/BatchNorm/moving_variance' in paths


def test_folded_layer_computes_what_layer_and_batch_norm_did():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(5, 3))
    biases, beta, gamma, mean = rng.normal(size=(4, 3))
    inv_std = rng.random(3)
    inputs = rng.normal(size=(7, 5))
    expected = (inputs @ kernel + biases - mean) * inv_std * gamma + beta
    folded, shifts = layers.fold_batch_norm(kernel, biases, beta, gamma, mean, inv_std)
    assert folded.dtype == shifts.dtype == np.float32
    # Kernel and shifts are rounded to float32 once, all else is float64.
    allowed = 2**-24 * (np.abs(inputs) @ np.abs(folded) + np.abs(shifts))
    np.testing.assert_array_less(np.abs(inputs @ folded + shifts - expected), allowed)


def test_folding_an_ordinary_net_leaves_its_output():
    conv = layers.ConvBN(4, 3, name='conv')
    inputs = tf.random.stateless_normal((2, 6, 5, 3), (1, 2))
    conv(inputs)
    for seed, variable in enumerate(conv.variables):
        variable.assign(0.5 + tf.random.stateless_uniform(variable.shape, (seed, 0)))
    norm = conv.batch_norm
    folded = layers.Conv(4, 3)
    folded.build(inputs.shape)
    kernel, biases = layers.fold_batch_norm(
        np.asarray(conv.weights_),
        0,
        *(np.asarray(v) for v in (norm.beta, norm.gamma, norm.moving_mean)),
        1 / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon),
    )
    folded.weights_.assign(kernel)
    folded.biases.assign(biases)
    error = np.abs(folded(inputs) - conv(inputs, training=False))
    # Sums of 27 products, scaled and shifted: at most 32 roundings either way, each of
    # at most 2**-24 of the sum of all terms' sizes, and independent: sqrt(64) of these.
    folded.weights_.assign(np.abs(kernel))
    folded.biases.assign(np.abs(norm.beta) + np.abs(biases - norm.beta))
    np.testing.assert_array_less(error, 8 * 2**-24 * folded(np.abs(inputs)))


def set_norm(norm, beta, gamma, mean, variance):
    norm.beta.assign(beta)
    norm.gamma.assign(gamma)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)


def test_folded_convolution_has_the_batch_norm_in_kernel_and_biases():
    conv = layers.ConvBN(1, 1, activation=None, epsilon=0.0, name='conv')
    inputs = np.float32([1, 2]).reshape(1, 1, 2, 1)
    conv(inputs)
    conv.weights_.assign([[[[3.0]]]])
    set_norm(conv.batch_norm, beta=[10], gamma=[2], mean=[1], variance=[4])
    conv.fold()
    kernel, biases = conv.folded
    # (3 x - 1) / sqrt(4) * 2 + 10 = 3 x + 9
    np.testing.assert_array_equal(kernel, [[[[3]]]])
    np.testing.assert_array_equal(biases, [9])
    np.testing.assert_array_equal(np.ravel(conv(inputs)), [12, 15])
    with pytest.raises(
        ValueError, match='conv is folded for inference; it cannot train'
    ):
        conv(inputs, training=True)


@pytest.mark.parametrize(
    'net, head, digits',
    [
        ('small_stripes', 'fc1024', 'float32'),
        ('mobilenet_v1_1_224', 'fc1024_normalize', 'float32'),
        ('small_stripes', 'fc1024', 'bfloat16'),
    ],
)
def test_folded_net_embeds_as_before(net, head, digits):
    network = model.build_model(net, head, 8, digits)
    rng = np.random.default_rng(0)
    for layer in network._flatten_layers():
        if isinstance(layer, layers.BatchNorm):
            beta, mean = rng.normal(0, 0.5, (2, *layer.gamma.shape))
            gamma, variance = rng.uniform(0.5, 1.5, (2, *layer.gamma.shape))
            set_norm(layer, beta, gamma, mean, variance)
    images = np.float32(rng.uniform(0, 255, (2, 64, 32, 3)))
    before = np.asarray(network(images)['emb'])
    layers.fold(network)
    is_folded = [
        layer.folded is not None
        for layer in network._flatten_layers()
        if getattr(layer, 'batch_norm', None) is not None
    ]
    assert is_folded
    assert all(is_folded)
    after = np.asarray(network(images)['emb'])
    # As far from each other as roundings in other places make them; in bfloat16, those
    # of the activations: eight digits, in eight layers.
    bound = roundings.bound_of_net(network.variables)
    tolerance = {'float32': bound, 'bfloat16': 8 * 2**-8}[digits]
    assert golden_recipe.error_in_rms(after, before) < tolerance
    assert (after != before).any()


def test_batch_norm_of_keras_is_not_taken_for_synchronised():
    inputs = keras.Input((4,))
    outputs = keras.layers.BatchNormalization(name='theirs')(layers.BatchNorm()(inputs))
    with pytest.raises(
        ValueError, match=r"not reach Keras' own .* 1 \(first: theirs\); leave it out"
    ):
        layers.synchronise_batch_norm(keras.Model(inputs, outputs))
