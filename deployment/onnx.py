"""ONNX, for onnxruntime, in Python without TensorFlow, C++, C#, Java and browsers."""

import contextlib
import io
import logging
import warnings

SUFFIX = '.onnx'
NEEDS = ('tf2onnx', 'onnx', 'onnxruntime')
TOLERANCE = 1e-4  # Other kernels of the same products, in float32.

# Version of ONNX's operations: the newest that tf2onnx writes.
OPSET = 18


def write(exported, target, calibration):
    """Write a file; see deployment."""
    del calibration
    import onnx

    frozen = exported.freeze()
    model = convert(frozen)
    names = frozen.inputs[0].name, frozen.outputs[0].name
    rename(model.graph, dict(zip(names, ('images', 'embeddings'), strict=True)))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = 'batch'
    onnx.checker.check_model(model)
    onnx.save(model, target)


def convert(frozen):
    """Return the onnx.ModelProto of a frozen concrete function."""
    import tf2onnx

    # It logs, warns of what is deprecated, and prints.
    logger = logging.getLogger('tf2onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        try:
            model, _ = tf2onnx.convert.from_graph_def(
                frozen.graph.as_graph_def(),
                input_names=[frozen.inputs[0].name],
                output_names=[frozen.outputs[0].name],
                opset=OPSET,
            )
        finally:
            logger.setLevel(level)
    return model


def rename(graph, names):
    """Give values of an onnx.GraphProto other names, {old: new}."""
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]


def load(target):
    """Return a function of images to embeddings; see deployment."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        target, providers=onnxruntime.get_available_providers()
    )
    return lambda images: session.run(['embeddings'], {'images': images})[0]
