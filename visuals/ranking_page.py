"""Rankings as one HTML page that needs no other file and no network.

    ranking_page.write(file, title, summary, ranked, images, others)

Everything that comes from a data set is escaped, and the page forbids itself to load
anything (Content-Security-Policy). Its filter is a link, too: ranking.html#pid=0042. It
also finds the queries of which the page has a line only.
"""

import html
import json
import pathlib
import string
import typing
import urllib.parse

from visuals import thumbnails

# Sharp on a screen of high resolution: three quarters of it are shown, see CSS.
IMAGE_SIZE = 192

# HTML and JavaScript, with placeholders for style, title, summary and queries.
TEMPLATE = pathlib.Path(__file__).with_suffix('.html')
STYLE = pathlib.Path(__file__).with_suffix('.css')


def write(file, title, summary, ranked, images, others):
    """Write the page, query by query, so that memory holds one of them.

    Args:
        file: text file, UTF-8.
        title: of the page, plain text.
        summary: list of plain texts, a paragraph each.
        ranked: iterable of ranked_queries.RankedQuery.
        images: ranked_queries.RankedImages.
        others: list of ranked_queries.Score, of queries that get a line each.
    """
    head, _, foot = TEMPLATE.read_text(encoding='utf-8').partition('$queries')
    paragraphs = '\n'.join(f'<p>{html.escape(text)}</p>' for text in summary)
    file.write(
        string.Template(head).substitute(
            style=STYLE.read_text(encoding='utf-8'),
            title=html.escape(title),
            summary=paragraphs,
        )
    )
    for one in ranked:
        file.write(format_query(one, images))
    query = images.query
    lines = [
        [query.pids[one.row], format_score(one, query.fids[one.row])] for one in others
    ]
    # In JSON, a name must not end the element that the JSON is in.
    content = json.dumps(lines, ensure_ascii=False, separators=(',', ':'))
    file.write(string.Template(foot).substitute(others=content.replace('<', r'\u003c')))


def format_score(one, fid):
    """Return the line about a query, of a Score or a RankedQuery, as plain text."""
    if not one.is_known:
        return f'the gallery has no image of this PID · {fid}'
    if not one.num_matches:
        return f'all its matches are ignored · {fid}'
    matches = 'match' if one.num_matches == 1 else 'matches'
    return (
        f'AP {one.average_precision:.2%} · {one.num_matches} {matches}, the first at '
        f'rank {one.first_rank} · {fid}'
    )


def format_query(one, images):
    """Return the section of one RankedQuery as HTML."""
    query = choose_image(images.query, images.query_cids, one.row)
    pid = query.pid
    link = f'#pid={urllib.parse.quote(pid, safe="")}'
    return f"""<section data-pid="{html.escape(pid)}">
<h2><a href="{link}">{html.escape(pid)}</a>
<span>{html.escape(format_score(one, query.fid))}</span></h2>
<div>
{format_figure('query', '<b>query</b>', query, images.image_root)}
<div>
{format_neighbours(one, pid, images)}
</div>
</div>
</section>
"""


def format_neighbours(one, query_pid, images):
    """Return the gallery images beside a RankedQuery as HTML."""
    figures = []
    previous_rank = 0
    for row, rank, dist in zip(one.gallery_rows, one.ranks, one.dists, strict=True):
        if rank > previous_rank + 1:
            figures.append('<span class="gap">…</span>')
        previous_rank = max(previous_rank, rank)
        image = choose_image(images.gallery, images.gallery_cids, row)
        kind = name_kind(rank, one.is_known, image.pid == query_pid)
        place = format_place(kind, rank, dist)
        figures.append(format_figure(kind, place, image, images.image_root))
    return '\n'.join(figures)


def name_kind(rank, is_known, is_match):
    """Return the class of a gallery image in the page."""
    if rank == 0:
        return 'ignored'
    if not is_known:
        return 'unknown'
    return 'match' if is_match else 'wrong'


def format_place(kind, rank, dist):
    """Return what is first below a gallery image: rank, whether it is right, distance.

    The sign says in black and white what the border says in colour.
    """
    if kind == 'ignored':
        return f'ignored<br>{dist:#.4g}'
    sign = {'match': ' <i>✓</i>', 'wrong': ' <i>✗</i>', 'unknown': ''}[kind]
    return f'<b>{rank}</b>{sign} {dist:#.4g}'


class Image(typing.NamedTuple):
    """What is told of an image, plain texts; `cid` is None if no camera is known."""

    pid: str
    fid: str
    cid: str | None


def choose_image(dataset, cids, row):
    """Return the Image of a row of a data set.

    Args:
        dataset: embedding_files.EmbeddedDataset.
        cids: [N] of str, or None.
        row: int.
    """
    cid = None if cids is None else cids[row]
    return Image(dataset.pids[row], dataset.fids[row], cid)


def format_figure(kind, place, image, image_root):
    """Return an image with its caption as HTML.

    Args:
        kind: class of the figure.
        place: start of the caption, HTML.
        image: an Image.
        image_root: directory that its FID is relative to.
    """
    fid = image.fid
    pixels = thumbnails.read_image(image_root, fid)
    address = thumbnails.encode_data_uri(thumbnails.shrink(pixels, IMAGE_SIZE))
    lines = [place, html.escape(f'PID {image.pid}')]
    if image.cid is not None:
        lines.append(html.escape(f'cam {image.cid}'))
    return (
        f'<figure class="{kind}"><img src="{address}" alt="{html.escape(fid)}" '
        f'title="{html.escape(fid)}"><figcaption>{"<br>".join(lines)}</figcaption>'
        '</figure>'
    )
