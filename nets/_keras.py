"""Networks of keras.applications as nets.

Sources: Tan, Le 2021, arXiv:2104.00298 (EfficientNetV2); Liu et al. 2022,
arXiv:2201.03545 (ConvNeXt); Howard et al. 2019, arXiv:1905.02244 (MobileNet v3).
"""

import functools
import re

import keras

# Computed in float32 whatever the policy: rounded before its mean is subtracted, an
# image loses its low bits; averages need digits as well.
EXACT_LAYERS = (
    keras.layers.Rescaling,
    keras.layers.Normalization,
    keras.layers.GlobalAveragePooling2D,
)


class LayerScale(keras.layers.Layer):
    """ConvNeXt's factor per channel; that of Keras does not name its weights.

    Args:
        initial: factor to start with.
    """

    def __init__(self, initial, **kwargs):
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape):
        """Create the factors, float32 [C]."""
        self.gamma = self.add_weight(
            name='gamma',
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial),
        )

    def call(self, inputs):
        """Scale [B, H, W, C]."""
        return inputs * self.gamma


def application_body(scope, application):
    """Return a Keras application's body: [B, H, W, 3] in 0..255 -> [B, F].

    Args:
        scope: of its variables.
        application: name of a function of keras.applications whose model normalises
            its input itself.
    """
    source = getattr(keras.applications, application)(
        weights=None, include_top=False, pooling='avg', input_shape=(None, None, 3)
    )
    return adapt(scope, source)


def adapt(scope, source):
    """Return a net like a model of keras.applications, its weights random."""
    # Variables take their names from the scope that they are made in.
    with keras.name_scope(scope):
        body = keras.models.clone_model(source, clone_function=adapt_layer)
    body.name = scope
    return body


def adapt_layer(layer):
    """Return a new layer like one of a Keras application, as a net needs it."""
    config = layer.get_config()
    if type(layer).__name__ == 'LayerScale':
        return LayerScale(
            config['init_values'], name=layer.name, dtype=layer.dtype_policy
        )
    if isinstance(layer, keras.layers.LayerNormalization):
        # ConvNeXt leaves it to Keras to name the last one, by a counter that grows with
        # every net built.
        config['name'] = re.sub(r'^(layer_normalization)_\d+$', r'\1', layer.name)
    if isinstance(layer, EXACT_LAYERS):
        config['dtype'] = 'float32'
    if isinstance(layer, keras.layers.Dropout):
        # Its random numbers would depend on what was drawn before: a resumed run would
        # not go on as if it had not stopped.
        config['rate'] = 0.0
    return type(layer).from_config(config)


def rename_weights(scope, source):
    """Return the weights of a model of keras.applications under our names."""
    ours = adapt(scope, source).weights
    return {
        our.path: their.numpy() for our, their in zip(ours, source.weights, strict=True)
    }


def variant(scope, application):
    """Return build and from_keras of a Keras application; see nets."""
    return (
        functools.partial(application_body, scope, application),
        functools.partial(rename_weights, scope),
    )
