"""What export.py makes of a network, one public module per --format.

Each defines
    SUFFIX     the end of the file's name
    TOLERANCE  how far an embedding may be from TensorFlow's, relative to their rms
    NEEDS      distributions that have to be installed, of requirements-export.txt
    write(exported, target, calibration)
               writes an _exported.Exported under a name; `calibration` float32
               [C, H, W, 3] are images like those that will be embedded
    load(target)
               returns a function of images float32 [B, H, W, 3] to embeddings float32
               [B, D], any B, that several threads may call

All files keep one contract: the input `images` is float32 RGB in 0..255, of the size
that the network sees, and normalised inside; the output `embeddings` is float32. `load`
imports the runtime of the format and, but for TensorFlow's own formats, nothing of
TensorFlow. Optional:
    IS_DIRECTORY    true where an empty directory is written into
    OF_RUN          true where what is written is made of the run's own files: `write`
                    gets a _run.Run in the place of `exported`
    write_encoded(exported, target), load_encoded(target)
                    likewise, of the content of image files in the place of images
"""

import importlib
import pkgutil
import types

FORMAT_CHOICES = tuple(
    sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name[0] != '_')
)


def load(name: str) -> types.ModuleType:
    """Return the module of a format."""
    return importlib.import_module(f'{__name__}.{name}')
