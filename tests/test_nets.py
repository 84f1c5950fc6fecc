"""Nets and heads against the golden numbers of the original."""

import functools

import keras
import numpy as np
import pytest

import golden_recipe
import model
from heads import HEAD_CHOICES
from nets import NET_CHOICES

GOLDEN_NETS = ('mobilenet_v1_1_224', 'resnet_v1_50', 'resnet_v1_101')
GOLDEN_HEADS = ('direct', 'direct_normalize', 'fc1024', 'fc1024_normalize')
CASES = {  # name: (seed, images, height, width)
    'a_2x64x32': (11, 2, 64, 32),
    'b_2x256x128': (12, 2, 256, 128),
    'c_2x75x37': (13, 2, 75, 37),
}
TRAINING_CASE = 't_8x64x32'

# Spread of the original against itself, in rms, and our distance to it at most: ten
# times as much. The golden README says where the numbers come from.
TRAINING_SPREAD = {
    'mobilenet_v1_1_224': 8e-4,
    'resnet_v1_50': 6e-5,
    'resnet_v1_101': 1.8e-4,
}
HEAD_OUTPUT_SPREAD = {
    'mobilenet_v1_1_224': 3.4e-3,
    'resnet_v1_50': 2.3e-4,
    'resnet_v1_101': 6e-4,
}
MOVING_SPREAD = {
    'mobilenet_v1_1_224': 3.4e-5,
    'resnet_v1_50': 6e-6,
    'resnet_v1_101': 1.5e-5,
}
SPREADS_ALLOWED = 10


@pytest.fixture(scope='module')
def golden():
    """Return the golden arrays of nets.npz."""
    with np.load(golden_recipe.GOLDEN / 'nets.npz') as arrays:
        return dict(arrays)


@functools.cache
def golden_model(net, head):
    """Return a model with the recipe's weights; callers must not change it."""
    built = model.build_model(net, head, embedding_dim=128)
    golden_recipe.fill(built.variables)
    return built


def body_of(built):
    """Return the net inside a model."""
    return built.layers[1]


def record_outputs(built, images):
    """Return {layer path: output} of every layer in one forward pass."""
    outputs = {}
    call = keras.layers.Layer.__call__

    def recording_call(layer, *args, **kwargs):
        outputs[layer.path] = result = call(layer, *args, **kwargs)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.layers.Layer, '__call__', recording_call)
        outputs.update(built(images))
    return outputs


@pytest.mark.parametrize(
    'net, head',
    [(net, 'direct') for net in NET_CHOICES]
    + [('mobilenet_v1_1_224', head) for head in HEAD_CHOICES],
)
def test_every_net_and_head_maps_images_to_embeddings(net, head):
    built = model.build_model(net, head, embedding_dim=7)
    # In training mode: an untrained MobileNet's averages shrink an image to nothing.
    outputs = built(golden_recipe.images(1, 2, 64, 32), training=True)
    assert outputs['emb'].shape == outputs['emb_raw'].shape == (2, 7)
    assert outputs['emb'].dtype == 'float32'
    lengths = np.linalg.norm(outputs['emb'], axis=1)
    if head.endswith('normalize'):
        np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    else:
        np.testing.assert_array_equal(outputs['emb'], outputs['emb_raw'])


@pytest.mark.parametrize('net', GOLDEN_NETS)
@pytest.mark.parametrize('head', GOLDEN_HEADS)
def test_variables_are_those_of_the_original_checkpoint(net, head):
    stored = golden_recipe.load_json('variables.json')['nets'][net]
    shapes = stored['heads'][head]['checkpoint_variables']
    unbuilt = ('MobilenetV1/Logits/', 'beta1_power', 'beta2_power', 'global_step')
    expected = {
        name: tuple(shape)
        for name, (shape, _) in shapes.items()
        if not name.startswith(unbuilt) and '/Adam' not in name
    }
    built = golden_model(net, head)
    assert {v.path: tuple(v.shape) for v in built.variables} == expected
    trainable = stored['heads'][head]['trainable_in_creation_order']
    assert {v.path for v in built.trainable_variables} == {
        name for name in trainable if not name.startswith(unbuilt)
    }


@pytest.mark.parametrize('net', GOLDEN_NETS)
@pytest.mark.parametrize('case', CASES)
def test_inference_equals_the_original(golden, net, case):
    images = golden_recipe.images(*CASES[case])
    for head in GOLDEN_HEADS:
        key = f'{net}/{case}/{head}'
        outputs = record_outputs(golden_model(net, head), images)
        name = 'emb' if head.endswith('normalize') else 'emb_raw'
        assert golden_recipe.error_in_rms(outputs[name], golden[f'{key}/{name}']) < 1e-4
        if head == 'fc1024':
            error = golden_recipe.error_in_rms(
                outputs['fully_connected'], golden[f'{key}/head_output']
            )
            assert error < 1e-4
    scope = body_of(golden_model(net, 'direct')).name
    error = golden_recipe.error_in_rms(
        outputs[scope], golden[f'{net}/{case}/model_output']
    )
    assert error < 1e-4


@pytest.mark.parametrize('net', GOLDEN_NETS)
def test_every_layer_equals_the_original(net):
    stats = golden_recipe.load_json('endpoint_stats.json')[net]
    built = golden_model(net, 'fc1024')
    scope = body_of(built).name
    for case, endpoints in stats.items():
        outputs = record_outputs(built, golden_recipe.images(*CASES[case]))
        outputs = {name.removeprefix('MobilenetV1/'): v for name, v in outputs.items()}
        compared = 0
        for endpoint, (shape, total, l2_norm, largest) in endpoints.items():
            if endpoint in ('emb', 'emb_raw', 'head_output', 'AvgPool_1a'):
                # Of which head, the file does not say; tested above. The last one is
                # a 7x7 pool on the way to MobileNet's logits, which nobody uses.
                continue
            if endpoint in ('model_output', 'global_pool'):
                value = np.asarray(outputs[scope]).reshape(shape)
            else:
                value = np.asarray(outputs[endpoint], np.float64)
            assert list(value.shape) == shape, endpoint
            message = f'{net} {case} {endpoint}'
            np.testing.assert_allclose(
                np.linalg.norm(value), l2_norm, rtol=1e-4, err_msg=message
            )
            np.testing.assert_allclose(
                np.abs(value).max(), largest, rtol=1e-4, err_msg=message
            )
            # A sum cancels, so its error is that of its terms: 1e-4 of their norm.
            assert abs(value.sum() - total) < 1e-4 * l2_norm * np.sqrt(value.size), (
                message
            )
            compared += 1
        assert compared > 25


@pytest.mark.parametrize('net', GOLDEN_NETS)
def test_training_mode_equals_the_original(golden, net):
    images = golden_recipe.images(14, 8, 64, 32)
    for head in GOLDEN_HEADS:
        key = f'{net}/{TRAINING_CASE}/{head}'
        built = golden_model(net, head)
        golden_recipe.fill(built.variables)
        dense = [layer for layer in built.layers if layer.name == 'fully_connected']
        probe = keras.Model(built.input, [built.output, [d.output for d in dense]])
        outputs, hidden = probe(images, training=True)
        name = 'emb' if head.endswith('normalize') else 'emb_raw'
        error = golden_recipe.error_in_rms(outputs[name], golden[f'{key}/{name}'])
        assert error < SPREADS_ALLOWED * TRAINING_SPREAD[net], head
        if head == 'direct':
            check_moving_averages(golden, net, built)
        if head == 'fc1024':
            error = golden_recipe.error_in_rms(
                hidden[0][:4], golden[f'{key}/head_output']
            )
            assert error < SPREADS_ALLOWED * HEAD_OUTPUT_SPREAD[net]
            by_name = {v.path: v for v in built.variables}
            for leaf in ('moving_mean', 'moving_variance'):
                value = by_name[f'fully_connected/BatchNorm/{leaf}']
                error = golden_recipe.error_in_rms(value, golden[f'{key}/{leaf}'])
                assert error < SPREADS_ALLOWED * TRAINING_SPREAD[net], leaf
        golden_recipe.fill(built.variables)


def check_moving_averages(golden, net, built):
    """Assert that one training pass moved the averages as the original's did."""
    allowed = SPREADS_ALLOWED * MOVING_SPREAD[net]
    key = f'{net}/{TRAINING_CASE}'
    by_name = {v.path: np.asarray(v, np.float64) for v in built.variables}
    names = [str(name) for name in golden[f'{key}/moving_names']]
    for name, (total, l2_norm) in zip(
        names, golden[f'{key}/moving_sum_l2'], strict=True
    ):
        value = by_name[name]
        np.testing.assert_allclose(
            np.linalg.norm(value), l2_norm, rtol=allowed, err_msg=name
        )
        assert abs(value.sum() - total) < allowed * l2_norm * np.sqrt(value.size), name
        stored = golden.get(f'{key}/moving/{name}')
        if stored is not None:
            assert golden_recipe.error_in_rms(value, stored) < allowed, name


def test_build_model_names_the_choices_when_the_net_is_unknown():
    with pytest.raises(ValueError, match='--model_name vgg is unknown; .*resnet_v1_50'):
        model.build_model('vgg', 'direct', 128)
    with pytest.raises(ValueError, match='--head_name fc2 is unknown; .*fc1024'):
        model.build_model('resnet_v1_50', 'fc2', 128)
