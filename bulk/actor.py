"""An Embedder in a process of Ray's, which embeds one part after another."""

import contextlib
import itertools
import json

import numpy as np

import aggregators
import batches
import checkpoints
import common
import embedder
import embedding_files
from bulk import inputs, parts

tf = common.lazy_import('tensorflow')


class PartEmbedder:
    """Embeds parts and writes them; what Ray Data's map_batches makes its actors of.

    Args:
        experiment_root: of the run.
        checkpoint: name of one.
        view: (flip, crop, aggregator), see Embedder.embed.
        batch_size: images per pass through the net.
        loading_threads: images read at the same time.
        num_threads: that TensorFlow computes with; None: one for each core.
        output: directory of the parts.
        attributes: {name: str} of their files.
        weights: checkpoints.fingerprint that the network must have.
    """

    def __init__(
        self,
        experiment_root,
        checkpoint,
        view,
        batch_size,
        loading_threads,
        num_threads,
        output,
        attributes,
        weights,
    ):
        common.start_tensorflow()
        for device in tf.config.list_physical_devices('GPU'):
            # Others may share it.
            tf.config.experimental.set_memory_growth(device, True)
        if num_threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(num_threads)
            tf.config.threading.set_inter_op_parallelism_threads(num_threads)
        self.ours = embedder.Embedder.load(experiment_root, checkpoint, threshold=0.0)
        found = checkpoints.fingerprint(
            checkpoints.variables_by_name(self.ours.network)
        )
        if found != weights:
            raise common.InputError(
                f'{experiment_root} has other weights here than where the job was '
                'started; copy the run to this machine again'
            )
        self.view = self.ours.view(*view)
        self.batch_size = batch_size
        self.loading_threads = loading_threads
        self.output = output
        self.attributes = attributes

    def __call__(self, batch):
        """Embed and write the parts of a batch; return how they went.

        Args:
            batch: {'number': [n], 'part': [n] of inputs.Part as JSON}.

        Returns:
            {'number', 'num_images', 'num_skipped', 'first_skipped'}: lists [n].
        """
        told = {'number': [], 'num_images': [], 'num_skipped': [], 'first_skipped': []}
        for number, fields in zip(batch['number'], batch['part'], strict=True):
            rows, embs = self.embed(inputs.Part(*json.loads(fields)))
            parts.write_part(self.output, int(number), rows, embs, self.attributes)
            skipped = [f'{fid}: {why}' for fid, _, why in rows if why is not None]
            told['number'].append(int(number))
            told['num_images'].append(len(rows))
            told['num_skipped'].append(len(skipped))
            told['first_skipped'].append(skipped[0] if skipped else '')
        return told

    def embed(self, part):
        """Return (rows, embeddings float32 [n, D]) of a part; see parts.write_part."""
        decode = batches.compile_decoder(*self.view.image_size)

        def prepare(item):
            try:
                return item, decode(item.read()), None
            except tf.errors.OpError as error:
                return item, None, common.tensorflow_reason(error)
            except FileNotFoundError as error:  # Another error may pass: no row of it.
                return item, None, str(error)

        rows, embs = [], []
        ahead = batches.read_ahead(
            prepare, inputs.read(part), self.loading_threads, 2 * self.batch_size
        )
        with contextlib.closing(ahead) as futures:
            while some := list(itertools.islice(futures, self.batch_size)):
                done = [future.result() for future in some]
                rows += [(item.fid, item.pid, why) for item, _, why in done]
                embs.append(self.embed_batch([(i.fid, image) for i, image, _ in done]))
        if not rows:
            raise common.InputError(f'{part.where} has no images')
        if all(why is not None for _, _, why in rows):
            fid, _, why = rows[0]
            raise common.InputError(
                f'none of the {len(rows)} images of a part of {part.where} can be read '
                f'(first: {fid}: {why}); check --input and --image_root'
            )
        return rows, np.concatenate(embs)

    def embed_batch(self, named):
        """Return the embeddings of (FID, image) pairs, float32 [n, D].

        NaN where the image is None.
        """
        images = [image for _, image in named]
        missing = {i for i, image in enumerate(images) if image is None}
        kept = [i for i in range(len(images)) if i not in missing]
        embs = np.full((len(images), self.ours.embedding_dim), np.nan, np.float32)
        if kept:
            batch = tf.stack([images[i] for i in kept])
            embs[kept] = aggregators.join(
                self.ours.embed_batch(batch, self.view), self.view.aggregator
            )
        fids = [fid for fid, _ in named]
        embedding_files.refuse_diverged(embs, range(len(fids)), fids, missing)
        return embs
