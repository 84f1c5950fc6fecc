"""Number formats: what is rounded, what is not, and what happens without hardware."""

import numpy as np
import pytest
import tensorflow as tf

import layers
import model
import precision
import tiny_run


@pytest.mark.parametrize('name', ['bfloat16', 'float16'])
def test_products_are_half_and_embeddings_and_variables_float32(name):
    embedder = model.build_model('small_stripes', 'fc1024', 8, name)
    conv = embedder.layers[1].chained[1]
    assert conv.compute_dtype == name
    assert {variable.dtype for variable in embedder.variables} == {'float32'}
    images = tf.random.stateless_uniform((2, 32, 16, 3), [1, 2], 0, 255)
    assert embedder(images)['emb'].dtype == tf.float32
    assert tf.keras.config.dtype_policy().name == 'float32'  # As it was before.


@pytest.mark.parametrize(
    'name, digits',
    # Bits of the significand, and a factor of 8 for the roundings of seven layers.
    [('bfloat16', 8 * 2**-8), ('float16', 8 * 2**-11)],
)
def test_half_embeddings_are_as_near_as_their_digits(name, digits):
    embedders = [
        model.build_model('small_stripes', 'fc1024', 8, each)
        for each in ('float32', name)
    ]
    embedders[1].set_weights(embedders[0].get_weights())
    images = tf.random.stateless_uniform((4, 64, 32, 3), [1, 2], 0, 255)
    exact, rounded = (embedder(images)['emb'].numpy() for embedder in embedders)
    error = np.abs(rounded - exact).max() / np.sqrt(np.mean(exact**2))
    assert 0 < error < digits


def test_images_keep_their_low_bits_until_the_mean_colour_is_subtracted():
    embedder = model.build_model('resnet_v1_50', 'direct', 8, 'bfloat16')
    normalise = embedder.layers[1].chained[0]
    # Near 123.68, bfloat16 has steps of a half: 123.75 - 123.68 would become 0.
    pixel = tf.constant([[[[123.75, 116.78, 103.94]]]])
    np.testing.assert_allclose(normalise(pixel)[0, 0, 0, 0], 0.07, atol=1e-4)


def test_products_without_hardware_are_summed_in_float32(monkeypatch):
    monkeypatch.setattr(layers, 'is_native', lambda name: name == 'float32')
    ones = tf.ones((1, 300), tf.bfloat16)
    # 300 ones: a sum kept in bfloat16 would stop at 256, where its steps are 2.
    total = layers.in_native_precision(tf.matmul, ones, tf.transpose(ones))
    assert total.dtype == tf.bfloat16
    assert float(total[0, 0]) == 300


@pytest.mark.parametrize(
    'flags, name, expected',
    [
        ('fpu avx2', 'float32', True),
        ('fpu avx2', 'bfloat16', False),
        ('fpu avx2 avx512f', 'bfloat16', True),
        ('fpu avx2 avx512f', 'float16', False),
        ('fpu avx512_fp16', 'float16', True),
        ('', 'bfloat16', True),
    ],
)
def test_processor_flags_say_what_is_native(monkeypatch, flags, name, expected):
    monkeypatch.setattr(precision, 'processor_flags', lambda: set(flags.split()))
    assert precision.is_native(name) == expected


def test_processor_flags_are_read_or_unknown(tmp_path):
    file = tmp_path / 'cpuinfo'
    file.write_text('processor : 0\nflags\t\t: fpu avx2\n')
    assert precision.processor_flags(file) == {'fpu', 'avx2'}
    assert precision.processor_flags(tmp_path / 'none') == set()


def test_unknown_precision_names_the_choices():
    with pytest.raises(ValueError, match='expected one of float32, bfloat16, float16'):
        model.build_model('small_stripes', 'direct', 8, 'int8')


def test_bfloat16_run_trains_and_resumes_bit_for_bit(tmp_path):
    tiny_run.write_dataset(tmp_path)
    more = ('--model_name', 'small_stripes', '--precision', 'bfloat16')
    tiny_run.start(tmp_path, tmp_path / 'whole', *more, '--train_iterations', '2')
    tiny_run.start(tmp_path, tmp_path / 'parts', *more, '--train_iterations', '1')
    tiny_run.resume(tmp_path / 'parts', '--train_iterations', '2')
    whole = tiny_run.read_checkpoint(tmp_path / 'whole', 2)
    del whole['save_counter']  # The interrupted run saved once more.
    parts = tiny_run.read_checkpoint(tmp_path / 'parts', 2)
    assert whole.keys() == parts.keys() - {'save_counter'}
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)
