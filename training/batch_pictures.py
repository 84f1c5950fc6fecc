"""A training batch as pictures: what the net sees, and the pairs that are hardest."""

import cv2
import numpy as np

from visuals import thumbnails

# Below this width, pixels, captions would not fit under the images.
MIN_WIDTH = 64
CAPTION_HEIGHT = 14
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.35
GAP = 4

# Rows of the picture of hardest pairs.
NUM_ANCHORS = 8


def draw_batch(images, pids, batch_k):
    """Draw a batch, a row of K images for each identity, its PID under each.

    Args:
        images: float32 [B, H, W, 3] in 0..255, augmented.
        pids: [B] of str.
        batch_k: K; images of a PID are together.

    Returns:
        uint8 [height, width, 3].
    """
    cells = [make_cell(image, pid) for image, pid in zip(images, pids, strict=True)]
    return draw_grid([cells[i : i + batch_k] for i in range(0, len(cells), batch_k)])


def draw_hardest(images, pids, dists):
    """Draw the anchors with the worst triplets: anchor, positive, negative.

    A row is an anchor, its farthest image of the same PID and its nearest of another,
    each with PID and distance. The anchors are those where the former is farthest
    beyond the latter, the worst first; at most 8.

    Args:
        images: float32 [B, H, W, 3] in 0..255, augmented.
        pids: [B] of str.
        dists: float32 [B, B].

    Returns:
        uint8 [height, width, 3], or None if no anchor has both.
    """
    pids = np.asarray(pids, object)
    rows = []
    for anchor, positive, negative in find_hardest(pids, dists)[:NUM_ANCHORS]:
        others = [
            make_cell(images[i], f'{dists[anchor, i]:.3g} {pids[i]}')
            for i in (positive, negative)
        ]
        rows.append([make_cell(images[anchor], pids[anchor]), *others])
    return draw_grid(rows) if rows else None


def find_hardest(pids, dists):
    """Return [(anchor, farthest positive, nearest negative)], the worst anchor first.

    Args:
        pids: object array [B].
        dists: float32 [B, B].
    """
    is_same = pids[:, None] == pids  # [B, B]
    is_positive = is_same & ~np.eye(len(pids), dtype=bool)
    to_positives = np.where(is_positive, dists, -np.inf)
    to_negatives = np.where(is_same, np.inf, dists)
    violation = to_positives.max(axis=1) - to_negatives.min(axis=1)  # [B]
    return [
        (anchor, to_positives[anchor].argmax(), to_negatives[anchor].argmin())
        for anchor in np.argsort(-violation, kind='stable')
        if np.isfinite(violation[anchor])
    ]


def make_cell(image, caption):
    """Return an image, uint8, with a caption under it, enlarged if it is small."""
    image = np.clip(image, 0, 255).astype(np.uint8)
    factor = -(-MIN_WIDTH // image.shape[1])
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    strip = np.full((CAPTION_HEIGHT, image.shape[1], 3), 255, np.uint8)
    # OpenCV's fonts know no other letters.
    caption = caption.encode('ascii', 'replace').decode()
    cv2.putText(
        strip,
        shorten(caption, image.shape[1]),
        (1, CAPTION_HEIGHT - 4),
        FONT,
        FONT_SCALE,
        (0, 0, 0),
        lineType=cv2.LINE_AA,
    )
    return np.concatenate([image, strip])


def shorten(caption, width):
    """Return the beginning of a caption that is at most `width` pixels wide."""
    while cv2.getTextSize(caption, FONT, FONT_SCALE, 1)[0][0] > width - 2:
        caption = caption[:-1]
    return caption


def encode_png(picture):
    """Return the bytes of an RGB picture [H, W, 3] as a PNG file, compressed fast."""
    return thumbnails.encode(picture, '.png', cv2.IMWRITE_PNG_COMPRESSION, 1)


def draw_grid(rows):
    """Return cells of one size as a picture, white between them.

    Args:
        rows: list of lists of uint8 [H, W, 3]; the last may be shorter.
    """
    shape = len(rows), max(map(len, rows))
    return thumbnails.draw_grid(rows, rows[0][0].shape[:2], shape, GAP)
