"""What was found, for people, for programs, and as a picture."""

import os
import typing

from searching import gallery
from visuals import ranking_figure, texts, thumbnails

SAME_COLOUR, OTHER_COLOUR = ranking_figure.MATCH_COLOUR, 'silver'


class Found(typing.NamedTuple):
    """A gallery image, or an identity of which it is the nearest image.

    Attributes:
        pid: str, or None: nobody tells.
        fid: str.
        path: of its file, or None: no image root is known.
        distance: float.
        is_same: whether the threshold says that it is the query's identity; None:
            there is no threshold.
    """

    pid: str | None
    fid: str
    path: str | None
    distance: float
    is_same: bool | None


class Answer(typing.NamedTuple):
    """What a query has found, nearest first.

    Attributes:
        query: its name.
        found: list of Found.
    """

    query: str
    found: list

    @property
    def verdict(self):
        """'same', 'unknown' (nothing is near enough), or None without a threshold."""
        if not self.found:
            return 'unknown'
        is_same = self.found[0].is_same
        return None if is_same is None else 'same' if is_same else 'unknown'


def make(query, nearest, images, limit, image_root):
    """Return the Answer of a query.

    Args:
        query: its name.
        nearest: nearest.Nearest.
        images: gallery.Gallery.
        limit: verdicts.Limit, or None.
        image_root: directory of the gallery's FIDs, or None: what its files say.
    """
    found = []
    for row, dist in zip(nearest.rows.tolist(), nearest.dists.tolist(), strict=True):
        root = image_root or images.roots[row]
        fid = images.fids[row]
        found.append(
            Found(
                images.pids[row],
                fid,
                None if root is None else os.path.join(root, fid),
                dist,
                None if limit is None else limit.accepts(dist),
            )
        )
    return Answer(query, found)


def to_json(answer, limit):
    """Return an Answer as what JSON can say."""
    return {
        'query': answer.query,
        'verdict': answer.verdict,
        'threshold': None if limit is None else limit._asdict(),
        'found': [
            {'rank': rank, **found._asdict()}
            for rank, found in enumerate(answer.found, start=1)
        ],
    }


def format_answer(answer, limit):
    """Return an Answer as lines: the verdict, then a table."""
    lines = [format_verdict(answer, limit)]
    if not answer.found:
        return lines
    pids = [found.pid or gallery.NO_PID for found in answer.found]
    width = max(3, *map(len, pids))
    lines.append(f'  rank  {"PID":<{width}}  {"distance":>9}  verdict  FID')
    for rank, (found, pid) in enumerate(zip(answer.found, pids, strict=True), start=1):
        word = {True: 'same', False: 'other', None: '-'}[found.is_same]
        lines.append(
            f'  {rank:4}  {pid:<{width}}  {found.distance:9.4f}  {word:<7}  {found.fid}'
        )
    return lines


def format_verdict(answer, limit):
    """Return the line above an Answer's table."""
    if not answer.found:
        return f'{answer.query}: the gallery is empty'
    nearest = answer.found[0]
    if answer.verdict is None:
        return (
            f'{answer.query}: nearest is {nearest.pid or nearest.fid}; no threshold '
            'says whether that is near enough'
        )
    if answer.verdict == 'unknown':
        return (
            f'{answer.query}: unknown; the nearest is {nearest.distance:.4g} away, '
            f'{limit.distance:.4g} is the most for the same identity'
        )
    return f'{answer.query}: {nearest.pid or nearest.fid}, {nearest.distance:.4g} away'


def draw(answers, query_paths, limit, metric):
    """Return a matplotlib figure of Answers: a row each.

    Args:
        answers: list of Answer.
        query_paths: list of str, an image of each query.
        limit: verdicts.Limit, or None.
        metric: of the distances.

    Raises:
        FileNotFoundError, ValueError: an image is missing, or cannot be decoded.
    """
    rows = []
    for answer, path in zip(answers, query_paths, strict=True):
        verdict = answer.verdict or ''
        name = fit(os.path.basename(answer.query))
        cells = [new_cell(path, 'black', f'{name}\n{verdict}')]
        for found in answer.found:
            sign = {True: '✓ ', False: '', None: ''}[found.is_same]
            name = fit(found.pid or os.path.basename(found.fid))
            colour = SAME_COLOUR if found.is_same else OTHER_COLOUR
            caption = f'{name}\n{sign}{found.distance:#.4g}'
            cells.append(new_cell(found.path, colour, caption))
        rows.append(cells)
    signs = {'query: file, verdict': 'black'}
    if limit is not None:
        signs[f'✓ same identity: at most {limit.distance:.4g} away'] = SAME_COLOUR
    signs['gallery: PID, distance'] = OTHER_COLOUR
    title = f'Nearest first by {metric} distance.'
    if limit is not None:
        title += f' {limit.describe().capitalize()}.'
    most = max(len(answer.found) for answer in answers)
    return ranking_figure.draw_rows(rows, most, title, signs)


def fit(name):
    """Return a name in lines that fit below an image."""
    return texts.wrap(name, ranking_figure.CELL_WIDTH, ranking_figure.CAPTION_SIZE)


def new_cell(path, colour, caption):
    """Return the ranking_figure.Cell of an image file."""
    return ranking_figure.Cell(thumbnails.read_image('', path), colour, caption)
