"""Layers whose variables bear TF-Slim's names; nets/ and heads/ are built of them.

A layer's name is its variable scope: a `ConvBN` called `conv1` inside a `Chain`
called `resnet_v1_50` owns `resnet_v1_50/conv1/weights` and
`resnet_v1_50/conv1/BatchNorm/gamma`, exactly as in the checkpoints of TensorFlow 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import common
from precision import is_native

# slim's variance scaling: truncated normal, variance 2 / fan-in (He et al. 2015).
# Makers of initializers, not initializers: Keras draws the seed of one when it is made,
# so layers that share one would start with the same weights, and one made at import
# would take part in the random numbers of some runs but not of others.
HE_NORMAL = functools.partial(
    keras.initializers.VarianceScaling, 2.0, 'fan_in', 'truncated_normal'
)


class Composite(keras.layers.Layer):
    """A layer of layers; its `call` takes symbolic tensors of Keras as well.

    That is how it builds those within. Keras itself would trace the graph of each
    composite for that, once for every level it is nested in, and draw the initial
    weights anew wherever they are used: most of the time in which a ResNet-50 is built.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build the layers within, by running them on a symbolic tensor."""
        self.call(keras.KerasTensor(input_shape, self.compute_dtype))

    def compute_output_spec(
        self, inputs: keras.KerasTensor, training: bool = False
    ) -> keras.KerasTensor:
        """Return shape and dtype of the outputs."""
        return self.call(inputs, training)


class Chain(Composite):
    """Layers run one after another, in one variable scope."""

    def __init__(self, chained: Sequence[keras.layers.Layer], **kwargs: Any) -> None:
        # Links cast what they get: rounded to half precision before the mean colour
        # is subtracted, an image would lose its low bits.
        super().__init__(autocast=False, **kwargs)
        self.chained = chained

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the last layer's output; `training` reaches every layer."""
        outputs = inputs
        for layer in self.chained:
            outputs = layer(outputs, training=training)
        return outputs


class Function(keras.layers.Layer):
    """A function without variables as a link of a `Chain`."""

    def __init__(
        self, function: Callable[[tf.Tensor], tf.Tensor], **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.function = function

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return function(inputs), in training and at inference alike."""
        del training
        return self.function(inputs)


class Residual(Composite):
    """ReLU of the sum of a shortcut and a chain of layers.

    Args:
        shortcut: a layer, or None for the input itself.
        chained: layers run one after another beside it.
    """

    def __init__(
        self,
        shortcut: keras.layers.Layer | None,
        chained: Sequence[keras.layers.Layer],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shortcut = shortcut
        self.chained = chained

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [B, H, W, C] to what both branches map it to."""
        shortcut = inputs
        if self.shortcut is not None:
            shortcut = self.shortcut(inputs, training=training)
        residual = inputs
        for layer in self.chained:
            residual = layer(residual, training=training)
        return keras.ops.relu(shortcut + residual)


class BatchNorm(keras.layers.Layer):
    """Batch normalisation over all axes but the last, on TensorFlow's fused kernel.

    Keras 3 has an unfused one, slower by a quarter in a ResNet-50 step on a CPU.

    On several devices (training/devices.py) each takes the statistics of its own
    images, unless `is_synchronised` is set, see synchronise_batch_norm.

    Args:
        decay: weight of the old moving average in an update.
        epsilon: added to the variance.
    """

    def __init__(
        self,
        decay: float = 0.9,
        epsilon: float = 1e-5,
        name: str = 'BatchNorm',
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.decay = decay
        self.epsilon = epsilon
        self.is_synchronised = False

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create gamma, beta and the moving averages, float32 [C] each."""

        def vector(name: str, value: float, trainable: bool) -> keras.Variable:
            return self.add_weight(
                name=name,
                shape=(input_shape[-1],),
                dtype='float32',  # Statistics need the digits whatever the policy.
                initializer=keras.initializers.Constant(value),
                trainable=trainable,
                autocast=False,
            )

        self.gamma = vector('gamma', 1.0, True)
        self.beta = vector('beta', 0.0, True)
        self.moving_mean = vector('moving_mean', 0.0, False)
        self.moving_variance = vector('moving_variance', 1.0, False)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return input_shape

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalise [B, C] or [B, H, W, C]; in training, update the moving averages.

        The kernel divides by the batch's biased variance and reports the unbiased
        one, which is what the moving variance averages.
        """
        is_matrix = inputs.shape.rank == 2
        # The kernel knows images only: a vector is an image of one pixel.
        images = inputs[:, None, None] if is_matrix else inputs  # [B, H, W, C]
        if training and self.is_synchronised and count_replicas() > 1:
            outputs, mean, variance = self.normalise_together(images)
        else:
            outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
                x=images,
                scale=tf.convert_to_tensor(self.gamma),
                offset=tf.convert_to_tensor(self.beta),
                mean=[] if training else tf.convert_to_tensor(self.moving_mean),
                variance=[] if training else tf.convert_to_tensor(self.moving_variance),
                epsilon=self.epsilon,
                exponential_avg_factor=1.0,
                is_training=bool(training),
            )
        if training:
            for moving, current in (
                (self.moving_mean, mean),
                (self.moving_variance, variance),
            ):
                # The form of TF1's moving averages, for the same rounding.
                moving.assign_sub((moving - current) * (1 - self.decay))
        return outputs[:, 0, 0] if is_matrix else outputs

    def normalise_together(
        self, images: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Normalise by the statistics of all replicas' images.

        Args:
            images: a replica's [B / R, H, W, C].

        Returns:
            (outputs, mean, variance) as of the fused kernel for the whole batch.
        """
        replicas = tf.distribute.get_replica_context()
        inputs = tf.cast(images, tf.float32)
        own = tf.stack(tf.nn.moments(inputs, [0, 1, 2]))  # [2, C]
        moments = replicas.all_gather(own[None], axis=0)  # [R, 2, C]
        means, variances = moments[:, 0], moments[:, 1]
        mean = tf.reduce_mean(means, axis=0)  # [C]
        # Not the mean square minus the squared mean, which cancel where |mean| >> std.
        variance = tf.reduce_mean(variances + tf.square(means - mean), axis=0)
        mean, variance = (tf.ensure_shape(v, own[0].shape) for v in (mean, variance))
        outputs = tf.nn.batch_normalization(
            inputs,
            mean,
            variance,
            tf.convert_to_tensor(self.beta),
            tf.convert_to_tensor(self.gamma),
            self.epsilon,
        )
        count = tf.cast(tf.size(inputs[..., 0]) * count_replicas(), tf.float32)
        unbiased = variance * (count / tf.maximum(count - 1, 1))
        return tf.cast(outputs, images.dtype), mean, unbiased


def count_replicas() -> int:
    """Return the number of replicas that the code around runs on side by side.

    1 outside of tf.distribute, and where Keras only draws up a model.
    """
    replicas = tf.distribute.get_replica_context()
    return 1 if replicas is None else replicas.num_replicas_in_sync


def synchronise_batch_norm(model: keras.layers.Layer) -> None:
    """Let every BatchNorm of a model take the statistics of the whole batch.

    The same as on one device, but for rounding; two small exchanges a layer and step.

    Raises:
        ValueError: the model has batch norm that is not ours, as some of
            keras.applications have.
    """
    model_layers = model._flatten_layers()
    foreign = [
        layer
        for layer in model_layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if foreign:
        raise common.InputError(
            f"--sync_batch_norm does not reach Keras' own batch norm, of which this "
            f'network has {len(foreign)} (first: {foreign[0].name}); leave it out, or '
            'choose another --model_name'
        )
    for layer in model_layers:
        if isinstance(layer, BatchNorm):
            layer.is_synchronised = True


class Conv(keras.layers.Layer):
    """Convolution with biases, activation.

    Args:
        filters: number of output channels.
        size: height and width of the kernel.
        stride: step of the kernel in both directions.
        activation: applied last; None: nothing.
        pads_explicitly: a strided convolution pads (size - 1) // 2 pixels before and
            the rest after, whatever the image size, as slim's ResNets do; otherwise
            TensorFlow's 'SAME', whose padding depends on the image size.
        initializer: function that returns a new Keras initializer of the weights.
    """

    def __init__(
        self,
        filters: int | None,
        size: int,
        stride: int = 1,
        activation: Callable[[tf.Tensor], tf.Tensor] | None = tf.nn.relu,
        pads_explicitly: bool = True,
        initializer: Callable[[], keras.Initializer] = HE_NORMAL,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.size = size
        self.stride = stride
        self.activation = activation
        self.pads_explicitly = pads_explicitly
        self.initializer = initializer()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create kernel and biases."""
        self.add_kernel(input_shape)
        self.biases = self.add_weight(
            name='biases', shape=(self.filters,), initializer='zeros'
        )

    def add_kernel(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the kernel, float32 [size, size, C_in, filters]."""
        self.weights_ = self.add_weight(
            name='weights',
            shape=(self.size, self.size, input_shape[-1], self.filters),
            initializer=self.initializer,
        )

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Return (B, H', W', filters), every side a stride-th, rounded up."""
        batch, height, width, channels = input_shape
        height, width = (
            None if side is None else -(-side // self.stride)
            for side in (height, width)
        )
        return batch, height, width, self.filters or channels

    def convolve(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the convolution alone, [B, H', W', filters]."""
        kernel = tf.convert_to_tensor(self.weights_)
        return in_native_precision(self.multiply, inputs, kernel)

    def multiply(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Return the convolution of inputs and kernel, in their precision."""
        padding = 'SAME'
        if self.pads_explicitly and self.stride > 1 and self.size > 1:
            before = (self.size - 1) // 2
            margin = [before, self.size - 1 - before]
            # Not through conv2d's own explicit padding, whose gradients TensorFlow
            # does not leave to oneDNN: twice the time of a bfloat16 step.
            inputs = tf.pad(inputs, [[0, 0], margin, margin, [0, 0]])
            padding = 'VALID'
        return tf.nn.conv2d(inputs, kernel, self.stride, padding)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [B, H, W, C_in] to [B, H', W', filters]."""
        del training
        outputs = tf.nn.bias_add(
            self.convolve(inputs), tf.convert_to_tensor(self.biases)
        )
        return outputs if self.activation is None else self.activation(outputs)


class Foldable:
    """A layer that inference may run as one product with biases, without batch norm.

    The layer has `weights_`, `batch_norm` (perhaps None) and `multiply`, its product of
    inputs and kernel.
    """

    weights_: keras.Variable
    batch_norm: BatchNorm | None
    multiply: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    # Of Keras' layers.
    compute_dtype: str
    path: str

    # (kernel, biases), tensors of compute_dtype, once `fold` was called.
    folded: tuple[tf.Tensor, tf.Tensor] | None = None

    def fold(self) -> None:
        """Run from now on with the batch norm folded into the weights as they are."""
        norm = self.batch_norm
        if norm is None:
            return
        kernel, beta, gamma, mean, variance = (
            np.asarray(variable, np.float64)
            for variable in (
                self.weights_,
                norm.beta,
                norm.gamma,
                norm.moving_mean,
                norm.moving_variance,
            )
        )
        inv_std = 1 / np.sqrt(variance + norm.epsilon)
        arrays = self.fold_arrays(kernel, 0, beta, gamma, mean, inv_std)
        # Tensors: arrays would become constants of a graph, at no gain in speed, and
        # TensorFlow copies those until a ResNet-50 needs another gigabyte.
        self.folded = tuple(tf.constant(array, self.compute_dtype) for array in arrays)

    def fold_arrays(
        self, kernel: np.ndarray, *arrays: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return fold_batch_norm(kernel, *arrays)."""
        return fold_batch_norm(kernel, *arrays)

    def multiply_folded(self, inputs: tf.Tensor, training: bool) -> tf.Tensor:
        """Return the folded product plus biases, [B, ..., C] of [B, ..., C_in].

        Raises:
            ValueError: this is training.
        """
        if training:
            raise ValueError(f'{self.path} is folded for inference; it cannot train')
        assert self.folded is not None  # `call` asks before.
        kernel, biases = self.folded
        outputs = in_native_precision(self.multiply, inputs, kernel)
        return tf.nn.bias_add(outputs, biases)


class ConvBN(Foldable, Conv):
    """As Conv, with batch norm in the place of the biases.

    Args:
        epsilon: of the batch norm.
    """

    batch_norm: BatchNorm

    def __init__(self, *args: Any, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batch_norm = BatchNorm(epsilon=epsilon)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the kernel and the batch norm's variables."""
        self.add_kernel(input_shape)
        self.batch_norm.build(self.compute_output_shape(input_shape))

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [B, H, W, C_in] to [B, H', W', filters]."""
        if self.folded is None:
            outputs = self.batch_norm(self.convolve(inputs), training=training)
        else:
            outputs = self.multiply_folded(inputs, training)
        return outputs if self.activation is None else self.activation(outputs)


class DepthwiseConvBN(ConvBN):
    """As ConvBN, with one kernel per channel, `filters` being None; pads 'SAME'."""

    def add_kernel(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the kernels, float32 [size, size, C, 1]."""
        self.weights_ = self.add_weight(
            name='depthwise_weights',
            shape=(self.size, self.size, input_shape[-1], 1),
            initializer=self.initializer,
        )

    def multiply(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Return the depthwise convolution of [B, H, W, C], [B, H', W', C]."""
        return tf.nn.depthwise_conv2d(
            inputs, kernel, [1, self.stride, self.stride, 1], 'SAME'
        )

    def fold_arrays(
        self, kernel: np.ndarray, *arrays: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return fold_batch_norm of kernels [size, size, C, 1]: C is their output."""
        kernel, biases = fold_batch_norm(kernel.swapaxes(2, 3), *arrays)
        return kernel.swapaxes(2, 3), biases


class Dense(Foldable, keras.layers.Layer):
    """Fully connected layer: with a bias, or with batch norm in its place.

    Args:
        units: number of outputs.
        batch_norm: a BatchNorm layer that replaces the bias, or None.
        activation: applied last; None: nothing.
        initializer: function that returns a new Keras initializer of the weights.
    """

    def __init__(
        self,
        units: int,
        batch_norm: BatchNorm | None = None,
        activation: Callable[[tf.Tensor], tf.Tensor] | None = None,
        initializer: Callable[[], keras.Initializer] = keras.initializers.GlorotUniform,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.batch_norm = batch_norm
        self.activation = activation
        self.initializer = initializer()

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights, float32 [F, units], and the biases [units], if any."""
        self.weights_ = self.add_weight(
            name='weights',
            shape=(input_shape[-1], self.units),
            initializer=self.initializer,
        )
        if self.batch_norm is None:
            self.biases = self.add_weight(
                name='biases', shape=(self.units,), initializer='zeros'
            )
        else:
            self.batch_norm.build(self.compute_output_shape(input_shape))

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Return (B, units)."""
        return *input_shape[:-1], self.units

    def multiply(self, inputs: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Return the product of [B, F] and [F, units], in their precision."""
        return tf.matmul(inputs, weights)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Map [B, F] to [B, units]."""
        if self.folded is not None:
            outputs = self.multiply_folded(inputs, training)
        else:
            weights = tf.convert_to_tensor(self.weights_)
            outputs = in_native_precision(self.multiply, inputs, weights)
            if self.batch_norm is None:
                outputs += tf.convert_to_tensor(self.biases)
            else:
                outputs = self.batch_norm(outputs, training=training)
        return outputs if self.activation is None else self.activation(outputs)


def in_native_precision(
    product: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    inputs: tf.Tensor,
    weights: tf.Tensor,
) -> tf.Tensor:
    """Return product(inputs, weights), by way of float32 where that is faster.

    A product of half-precision numbers is summed in float32 and rounded once, on a
    device that has such an instruction and, by widening, on one that has not: the
    same numbers, 17 times as fast as TensorFlow's own fallback.
    """
    if is_native(inputs.dtype.name):
        return product(inputs, weights)
    outputs = product(tf.cast(inputs, tf.float32), tf.cast(weights, tf.float32))
    return tf.cast(outputs, inputs.dtype)


def global_average_pool(features: tf.Tensor) -> tf.Tensor:
    """Average [B, H, W, C] over the image: [B, C], float32 from any precision."""
    return tf.reduce_mean(tf.cast(features, tf.float32), axis=[1, 2])


def fold(model: keras.layers.Layer) -> None:
    """Fold every batch norm of a model into the product before it, for inference.

    The weights are taken as they are now; the embeddings differ by float32's rounding,
    and the model cannot be trained any more.

    Args:
        model: a Keras model or layer that is built.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, Foldable):
            layer.fold()


def fold_batch_norm(
    kernel: np.ndarray,
    biases: np.ndarray | int,
    beta: np.ndarray,
    gamma: np.ndarray,
    mean: np.ndarray,
    inv_std: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Put the batch norm that follows a convolution or dense layer into that layer.

    With s = gamma * inv_std,
        (x * kernel + biases - mean) * s + beta
            = x * (kernel * s) + ((biases - mean) * s + beta)

    Args:
        kernel: array [..., C], output channels last.
        biases: array [C], or 0.
        beta, gamma, mean: arrays [C].
        inv_std: array [C], 1 / sqrt(variance + epsilon).

    Returns:
        (kernel, biases), float32 [..., C] and [C].
    """
    scale = np.asarray(gamma, np.float64) * inv_std  # [C]; rounded once, at the end.
    shifts = (np.asarray(biases, np.float64) - mean) * scale + beta
    return (kernel * scale).astype(np.float32), shifts.astype(np.float32)
