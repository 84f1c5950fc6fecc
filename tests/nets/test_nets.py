"""Nets and heads against the golden numbers of the original."""

import functools
import importlib
import itertools

import keras
import numpy as np
import pytest

import checkpoints
import golden_recipe
import model
import nets._keras
import nets._resnet
import nets.lunet
import roundings
from heads import HEAD_CHOICES
from nets import NET_CHOICES

GOLDEN_NETS = ('mobilenet_v1_1_224', 'resnet_v1_50', 'resnet_v1_101')
# resnet_v1_101 is resnet_v1_50 with more units: `inference` and `variables` are quick.
MOST_GOLDEN_NETS = [
    *GOLDEN_NETS[:2],
    pytest.param(GOLDEN_NETS[2], marks=pytest.mark.slow('half a minute')),
]
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


# A ResNet-152 takes as long to build as all other nets: the tests build a short one.
SHORT_RESNET_152 = (1, 1, 2, 1)

# Weights of a net with its moving averages. Those of the ResNets are what Keras
# documents without the classifier, 23587712, 42658176 and 58370944, less the biases of
# convolutions, which slim has not; the others of known nets are as documented there.
NUM_WEIGHTS = {
    'convnext_tiny': 27820128,
    'efficientnet_v2_b0': 5919312,
    'mobilenet_v1_025_224': 218544,
    'mobilenet_v1_050_224': 829536,
    'mobilenet_v1_075_224': 1832976,
    'mobilenet_v1_1_224': 3228864,
    'mobilenet_v3_small': 939120,
    'resnet_v1_101': 42658176 - 52672,
    'resnet_v1_152': 58370944 - 75712,
    'resnet_v1_50': 23587712 - 26560,
}
KERAS_NETS = ('convnext_tiny', 'efficientnet_v2_b0', 'mobilenet_v3_small')


def random_model(net, head='direct', precision='float32', last_stride=2):
    """Return a model with random weights, D = 7; callers must not change it."""
    return cached_model(net, head, precision, last_stride)


@functools.cache
def cached_model(net, head, precision, last_stride):
    """Build what random_model returns."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(nets._resnet.NUM_UNITS, 152, SHORT_RESNET_152)
        return model.build_model(net, head, 7, precision, last_stride)


@pytest.mark.parametrize(
    'net, head',
    [(net, 'direct') for net in NET_CHOICES]
    + [('mobilenet_v1_1_224', head) for head in HEAD_CHOICES],
)
def test_every_net_and_head_maps_images_to_embeddings(net, head):
    built = random_model(net, head)
    # In training mode: an untrained MobileNet's averages shrink an image to nothing.
    outputs = built(golden_recipe.images(1, 2, 64, 32), training=True)
    assert outputs['emb'].shape == outputs['emb_raw'].shape == (2, 7)
    assert outputs['emb'].dtype == 'float32'
    lengths = np.linalg.norm(outputs['emb'], axis=1)
    if head.endswith('normalize'):
        # Seven squares, their sum, a root and a division: ten roundings, here and
        # in the kernel.
        np.testing.assert_allclose(lengths, 1, rtol=20 * roundings.UNIT)
    else:
        seen_by_loss = model.training_embs(outputs)
        np.testing.assert_array_equal(seen_by_loss, outputs['emb_raw'])
    is_split = 'emb_train' in outputs
    assert is_split == (head == 'bnneck')


def count_resnet_weights(num_units):
    """Return the number of weights of a ResNet, moving averages included."""

    def conv_bn(size, num_in, num_out):
        return size * size * num_in * num_out + 4 * num_out

    total, width = conv_bn(7, 3, 64), 64
    for depth, n in zip((64, 128, 256, 512), num_units, strict=True):
        total += conv_bn(1, width, 4 * depth)  # The first unit's shortcut.
        for _ in range(n):
            total += conv_bn(1, width, depth) + conv_bn(3, depth, depth)
            total += conv_bn(1, depth, 4 * depth)
            width = 4 * depth
    return total


@pytest.mark.parametrize('net', NUM_WEIGHTS)
def test_nets_are_as_large_as_they_are_elsewhere(net):
    num_weights = random_model(net).layers[1].count_params()
    if net == 'resnet_v1_152':
        assert num_weights == count_resnet_weights(SHORT_RESNET_152)
        num_weights = count_resnet_weights(nets._resnet.NUM_UNITS[152])
    assert num_weights == NUM_WEIGHTS[net]


def test_lunet_with_the_papers_layers_behind_it_has_4_9_million_parameters():
    paper = model.build_model('lunet', 'fc512', 128)
    variables = {v.path: tuple(v.shape) for v in paper.trainable_variables}
    behind = {k: v for k, v in variables.items() if not k.startswith('lunet/')}
    assert behind == {
        'fully_connected/weights': (1024, 512),
        'fully_connected/BatchNorm/gamma': (512,),
        'fully_connected/BatchNorm/beta': (512,),
        'emb/weights': (512, 128),
        'emb/biases': (128,),
    }
    total = sum(int(np.prod(shape)) for shape in variables.values())
    trainable = total - sum(int(np.prod(shape)) for shape in behind.values())
    expected, width = 7 * 7 * 3 * 128 + 128, 128
    for depth, filters in [block for stage in nets.lunet.STAGES for block in stage]:
        expected += 2 * width + width * depth  # Batch norm before, then 1x1.
        expected += 2 * depth + 9 * depth * depth + 2 * depth  # 3x3.
        expected += (depth + 1) * filters
        if filters != width:
            expected += (width + 1) * filters
        width = filters
    assert trainable == expected + 2 * width == 4302848
    assert total == trainable + 1024 * 512 + 2 * 512 + 513 * 128 == 4893824


def test_lunet_halves_the_resolution_five_times():
    outputs = record_outputs(random_model('lunet'), golden_recipe.images(1, 1, 64, 32))
    assert outputs['lunet/stage6'].shape == (1, 2, 1, 1024)
    assert outputs['lunet'].shape == (1, 1024)
    np.testing.assert_allclose(nets.lunet.leaky_relu([-10.0, 10.0]), [-3, 10])


# --- where training starts ---------------------------------------------------------

# What a truncated normal, cut at two deviations, keeps of its deviation: the root of
# 1 - 2 * 2 * phi(2) / (Phi(2) - Phi(-2)), phi(2) = 0.0539910, Phi(2) = 0.9772499.
KEPT_BY_CUT = np.sqrt(1 - 4 * 0.0539910 / (2 * 0.9772499 - 1))


def kernel_deviation(net, shape):
    """Return the deviation that slim draws a convolution's kernel with, before the cut.

    MobileNet's is 0.09 as it is cut; the others' leaves 2 / fan-in after the cut.
    """
    if net.startswith('mobilenet_v1'):
        return 0.09
    return np.sqrt(2 / np.prod(shape[:-1])) / KEPT_BY_CUT


@pytest.mark.parametrize('net', sorted({*NET_CHOICES} - {*KERAS_NETS}))
def test_kernels_start_as_slim_draws_them(net):
    variables = body_of(random_model(net)).trainable_variables
    kernels = [v for v in variables if len(v.shape) == 4]
    assert len(kernels) > 5
    for kernel in kernels:
        units = kernel.numpy() / kernel_deviation(net, kernel.shape)
        # Cut off, and not somewhere further out: a twentieth would lie beyond.
        assert 1.5 < np.abs(units).max() <= 2 * (1 + 1e-6), kernel.path
        # A normal's sample variance deviates by the root of 2 / n, a cut one's by less.
        slack = 6 * np.sqrt(2 / units.size)
        variance = np.mean(units**2.0) / KEPT_BY_CUT**2
        assert abs(variance - 1) < slack, kernel.path
        assert abs(units.mean()) < 6 / np.sqrt(units.size), kernel.path
    # No two start with the same numbers.
    assert len({k.numpy().ravel()[:9].tobytes() for k in kernels}) == len(kernels)
    constants = {'gamma': 1, 'beta': 0, 'biases': 0}
    for variable in variables:
        if len(variable.shape) == 1:
            value = constants[variable.path.rpartition('/')[2]]
            np.testing.assert_array_equal(variable, np.full(variable.shape, value))


@pytest.mark.parametrize('head', HEAD_CHOICES)
def test_embedding_starts_orthogonal(head):
    variables = {v.path: v for v in random_model('mobilenet_v1_1_224', head).variables}
    weights = variables['emb/weights']
    # Those of a Glorot start would be 1.3 to 1.5.
    singular_values = np.linalg.svd(weights, compute_uv=False)
    allowed = roundings.bound_of_net([weights])
    np.testing.assert_allclose(singular_values, [1] * 7, rtol=allowed)
    np.testing.assert_array_equal(variables['emb/biases'], [0] * 7)


@pytest.mark.parametrize('head', [head for head in HEAD_CHOICES if head[:2] == 'fc'])
def test_hidden_layers_start_after_glorot(head):
    variables = random_model('mobilenet_v1_1_224', head).trainable_variables
    hidden = [
        v for v in variables if v.path.endswith('weights') and 'connected' in v.path
    ]
    assert hidden
    for weights in hidden:
        limit = np.sqrt(6 / sum(weights.shape))
        units = weights.numpy() / limit  # Uniform in -1..1, of variance 1 / 3.
        assert 0.999 < np.abs(units).max() <= 1
        # A uniform's sample variance deviates by the root of 0.8 / n.
        slack = 6 * np.sqrt(0.8 / units.size)
        assert abs(3 * np.mean(units**2.0) - 1) < slack


# --- the last stride --------------------------------------------------------------


def test_last_stride_of_1_doubles_the_resolution_with_the_same_weights():
    images = golden_recipe.images(1, 2, 64, 32)
    names = []
    for last_stride, size in ((2, (2, 1)), (1, (4, 2))):
        built = random_model('resnet_v1_152', last_stride=last_stride)
        outputs = record_outputs(built, images)
        assert outputs['resnet_v1_152/block4'].shape == (2, *size, 2048)
        names.append([(v.path, v.shape) for v in built.variables])
    assert names[0] == names[1]


def test_last_stride_is_refused_by_nets_without_a_choice():
    with pytest.raises(
        ValueError,
        match='last_stride 1 is not for the net small_stripes, whose strides',
    ):
        model.build_model('small_stripes', 'direct', 7, last_stride=1)


# --- heads -----------------------------------------------------------------------


def test_bnneck_embeds_behind_a_batch_norm_that_learns_nothing():
    built = model.build_model('small_stripes', 'bnneck', 7)
    names = {v.path for v in built.trainable_variables}
    assert not any(name.startswith('bnneck/') for name in names)
    images = golden_recipe.images(1, 4, 32, 16)
    outputs = built(images, training=True)
    np.testing.assert_array_equal(outputs['emb_train'], outputs['emb_raw'])
    variables = {v.path: v for v in built.variables}
    raw = outputs['emb_raw'].numpy().astype(np.float64)
    # The mean of four numbers is rounded four times, the difference to it and its
    # quotient, or a product and a sum, two times; and so is what is taken off it.
    rounded = 8 * roundings.UNIT * np.abs(raw).max(axis=0)
    shift = np.abs(np.mean(outputs['emb'], axis=0, dtype=np.float64))
    np.testing.assert_array_less(shift, rounded / np.sqrt(raw.var(axis=0) + 1e-5))
    error = np.abs(variables['bnneck/moving_mean'] - 0.1 * raw.mean(axis=0))
    np.testing.assert_array_less(error, 0.1 * rounded)
    variables['bnneck/moving_mean'].assign([1.0] * 7)
    variables['bnneck/moving_variance'].assign([4.0] * 7)
    outputs = built(images, training=False)
    raw = outputs['emb_raw'].numpy().astype(np.float64)
    error = np.abs(outputs['emb'] - (raw - 1) / np.sqrt(4 + 1e-5))
    # However it is multiplied out: a root, a quotient, two products, two sums.
    np.testing.assert_array_less(error, 8 * roundings.UNIT * (np.abs(raw) + 1) / 2)


# --- applications of Keras -------------------------------------------------------


@functools.cache
def keras_source(net):
    """Return the application behind a net, no weight of it 0 or 1; do not change it."""
    module = importlib.import_module(f'nets.{net}')
    source = getattr(keras.applications, module.KERAS_APPLICATION)(
        weights=None,
        include_top=False,
        pooling='avg',
        input_shape=(64, 32, 3),
        **getattr(module, 'KERAS_ARGUMENTS', {}),
    )
    rng = np.random.default_rng(0)
    source.set_weights(
        [
            rng.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else w
            for w in source.get_weights()
        ]
    )
    return source


@pytest.mark.parametrize('net', [*KERAS_NETS, 'mobilenet_v1_025_224'])
def test_imagenet_gives_the_net_the_weights_of_its_application(net, monkeypatch):
    source, calls = keras_source(net), []
    module = importlib.import_module(f'nets.{net}')
    built = random_model(net)

    def downloaded(**arguments):
        calls.append(arguments)
        return source

    monkeypatch.setattr(keras.applications, module.KERAS_APPLICATION, downloaded)
    before = built.get_weights()
    report = checkpoints.load_body(
        built, checkpoints.imagenet_weights(module, net), 'imagenet'
    )
    asked = {'weights': 'imagenet', 'include_top': False}
    assert calls == [asked | getattr(module, 'KERAS_ARGUMENTS', {})]
    assert len(report.loaded) == len(source.weights)
    assert report.random == ['emb/biases', 'emb/weights']
    if net in KERAS_NETS:  # Of MobileNet v1, tests/test_checkpoints.py tells.
        images = golden_recipe.images(3, 2, 64, 32)
        features = built.layers[1](images, training=False)
        expected = source(images, training=False)
        # The same operations on the same numbers.
        np.testing.assert_array_equal(features, expected)
    built.set_weights(before)


@pytest.mark.parametrize('net', KERAS_NETS)
def test_keras_net_has_the_same_names_however_many_were_built(net):
    exact, half = (random_model(net, precision=p) for p in ('float32', 'bfloat16'))
    names = [v.path for v in exact.variables]
    assert names == [v.path for v in half.variables]
    # So that an optimizer's slots, which Keras names with underscores, differ as well.
    assert len({name.replace('/', '_') for name in names}) == len(names)
    scope = f'{net}/'
    assert all(name.startswith((scope, 'emb/')) for name in names)
    # No state of random numbers, and no name by a counter.
    assert len(names) == len(exact.weights)
    assert not any('variable' in name or 'normalization_' in name for name in names)


@pytest.mark.parametrize('net', KERAS_NETS)
def test_keras_net_keeps_the_digits_that_matter_in_half_precision(net):
    built = random_model(net, precision='bfloat16')
    assert {v.dtype for v in built.variables} == {'float32'}
    dtypes = {type(layer): layer.compute_dtype for layer in built.layers[1].layers}
    for kind, dtype in dtypes.items():
        expected = (
            'float32' if issubclass(kind, nets._keras.EXACT_LAYERS) else 'bfloat16'
        )
        assert kind is keras.layers.InputLayer or dtype == expected, kind


def test_keras_net_trains_without_random_numbers():
    # What dropout draws would depend on the calls before: no exact resuming.
    built = random_model('efficientnet_v2_b0')
    images = golden_recipe.images(1, 4, 32, 32)
    first, second = (built(images, training=True)['emb'].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    moved = dict(zip([v.path for v in built.variables], built.variables, strict=True))
    assert np.any(moved['efficientnet_v2_b0/stem_bn/moving_mean'] != 0)


# --- the original's numbers ------------------------------------------------------


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


def allow_roundings(built):
    """Return what an output may be off by, in rms: less than the 1e-4 promised."""
    allowed = roundings.bound_of_net(built.variables)
    assert allowed < 1e-4
    return allowed


LARGE = ('resnet_v1_101', 'b_2x256x128')


@pytest.mark.parametrize(
    'net, case',
    [
        pytest.param(
            *pair,
            marks=pytest.mark.slow('a minute; the others cover it')
            if pair == LARGE
            else (),
        )
        for pair in itertools.product(GOLDEN_NETS, CASES)
    ],
)
def test_inference_equals_the_original(golden, net, case):
    images = golden_recipe.images(*CASES[case])
    for head in GOLDEN_HEADS:
        key = f'{net}/{case}/{head}'
        outputs = record_outputs(golden_model(net, head), images)
        name = 'emb' if head.endswith('normalize') else 'emb_raw'
        allowed = allow_roundings(golden_model(net, head))
        error = golden_recipe.error_in_rms(outputs[name], golden[f'{key}/{name}'])
        assert error < allowed
        if head == 'fc1024':
            error = golden_recipe.error_in_rms(
                outputs['fully_connected'], golden[f'{key}/head_output']
            )
            assert error < allowed
    body = body_of(golden_model(net, 'direct'))
    error = golden_recipe.error_in_rms(
        outputs[body.name], golden[f'{net}/{case}/model_output']
    )
    assert error < allow_roundings(body)


@pytest.mark.parametrize('net', MOST_GOLDEN_NETS)
def test_every_layer_equals_the_original(net):
    stats = golden_recipe.load_json('endpoint_stats.json')[net]
    built = golden_model(net, 'fc1024')
    scope = body_of(built).name
    allowed = allow_roundings(built)
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
                np.linalg.norm(value), l2_norm, rtol=allowed, err_msg=message
            )
            np.testing.assert_allclose(
                np.abs(value).max(), largest, rtol=allowed, err_msg=message
            )
            # A sum cancels, so its error is that of its terms, a share of their norm.
            slack = allowed * l2_norm * np.sqrt(value.size)
            assert abs(value.sum() - total) < slack, message
            compared += 1
        assert compared > 25


@pytest.mark.parametrize('net', MOST_GOLDEN_NETS)
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
