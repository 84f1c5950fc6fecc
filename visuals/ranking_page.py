"""Rankings as one HTML page that needs no other file and no network.

    ranking_page.write(file, title, summary, ranked, images)

Everything that comes from a data set is escaped, and the page forbids itself to load
anything (Content-Security-Policy). Its filter is a link, too: ranking.html#pid=0042.
"""

import html
import string
import typing
import urllib.parse

from visuals import thumbnails

# Sharp on a screen of high resolution: three quarters of it are shown, see CSS.
IMAGE_SIZE = 192

HEAD = string.Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
 img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --page: #fff; --bar: #f3f4f6; --text: #1f2328; --faint: #57606a; --line: #c4c9d0;
  --match: #17803d; --wrong: #cf222e; --link: #0550ae;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171c; --bar: #1f242b; --text: #e6e9ee; --faint: #a0a9b4; --line: #454d57;
    --match: #3fb950; --wrong: #ff6a62; --link: #79b8ff;
  }
}
/* What gets the focus must not end up below the bar, which stays at the top. */
html { scroll-padding-top: 4rem; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 0.875rem/1.35 system-ui, sans-serif; font-variant-numeric: tabular-nums;
}
header, main { padding: 0 1rem; }
h1 { font-size: 1.25rem; margin: 1rem 0 0.25rem; overflow-wrap: anywhere; }
header p { margin: 0.25rem 0; max-width: 60rem; }
form {
  position: sticky; top: 0; z-index: 1; padding: 0.5rem 1rem; margin-top: 0.5rem;
  display: flex; flex-wrap: wrap; gap: 0.25rem 0.75rem; align-items: baseline;
  background: var(--bar); border-block: 1px solid var(--line);
}
input { font: inherit; width: 9rem; padding: 0.2rem 0.4rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
section {
  padding: 0.75rem 0; border-bottom: 1px solid var(--line);
  content-visibility: auto; contain-intrinsic-size: auto 14rem;
}
h2 { font-size: 1rem; margin: 0 0 0.5rem; overflow-wrap: anywhere; }
h2 span { font-weight: normal; color: var(--faint); }
section div { display: flex; gap: 0.5rem; align-items: flex-start; }
section div div { flex-wrap: wrap; }
figure { margin: 0; width: min-content; min-width: 4.9rem; color: var(--faint); }
figure img {
  display: block; height: 9rem; max-width: min(16rem, 40vw); box-sizing: border-box;
  border: 4px solid; object-fit: contain;
}
figcaption { font-size: 0.75rem; overflow-wrap: anywhere; }
figcaption b { color: var(--text); }
.query { margin-right: 1rem; }
.query img { border-color: var(--text); }
.match img { border-color: var(--match); }
.wrong img { border-color: var(--wrong); }
.match i { color: var(--match); font: inherit; font-weight: bold; }
.wrong i { color: var(--wrong); font: inherit; font-weight: bold; }
.ignored img { border-color: var(--line); filter: grayscale(1); opacity: 0.45; }
.gap { align-self: center; color: var(--faint); font-size: 1.5rem; }
</style>
</head>
<body>
<header>
<h1>$title</h1>
$summary
</header>
<form role="search">
<label for="pid">Queries of PID</label>
<input id="pid" type="search" autocomplete="off" spellcheck="false">
<a href="#">all</a>
<span id="shown" role="status"></span>
</form>
<main>
""")

FOOT = """</main>
<script>
const input = document.getElementById('pid');
const queries = Array.from(document.querySelectorAll('section'));

// A PID that exists shows its queries alone; a part of one, all that begin with it.
function show(pid) {
  const isWhole = queries.some(query => query.dataset.pid === pid);
  for (const query of queries) {
    const other = query.dataset.pid;
    query.hidden = isWhole ? other !== pid : !other.startsWith(pid);
  }
  const shown = queries.filter(query => !query.hidden).length;
  document.getElementById('shown').textContent =
    `${shown} of ${queries.length} queries on this page`;
}

function readAddress() {
  input.value = new URLSearchParams(location.hash.slice(1)).get('pid') ?? '';
  show(input.value);
}

input.addEventListener('input', () => {
  const hash = input.value ? '#pid=' + encodeURIComponent(input.value) : '#';
  history.replaceState(null, '', hash);
  show(input.value);
});
input.form.addEventListener('submit', event => event.preventDefault());
addEventListener('hashchange', readAddress);
readAddress();
</script>
</body>
</html>
"""


def write(file, title, summary, ranked, images):
    """Write the page, query by query, so that memory holds one of them.

    Args:
        file: text file, UTF-8.
        title: of the page, plain text.
        summary: list of plain texts, a paragraph each.
        ranked: iterable of ranked_queries.RankedQuery.
        images: ranked_queries.RankedImages.
    """
    paragraphs = '\n'.join(f'<p>{html.escape(text)}</p>' for text in summary)
    file.write(HEAD.substitute(title=html.escape(title), summary=paragraphs))
    for one in ranked:
        file.write(format_query(one, images))
    file.write(FOOT)


def format_query(one, images):
    """Return the section of one RankedQuery as HTML."""
    query = choose_image(images.query, images.query_cids, one.row)
    pid, fid = query.pid, query.fid
    link = f'#pid={urllib.parse.quote(pid, safe="")}'
    matches = 'match' if one.num_matches == 1 else 'matches'
    return f"""<section data-pid="{html.escape(pid)}">
<h2><a href="{link}">{html.escape(pid)}</a> <span>AP {one.average_precision:.2%} ·
{one.num_matches} {matches}, the first at rank {one.first_rank} ·
{html.escape(fid)}</span></h2>
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
        kind = name_kind(rank, image.pid == query_pid)
        place = format_place(kind, rank, dist)
        figures.append(format_figure(kind, place, image, images.image_root))
    return '\n'.join(figures)


def name_kind(rank, is_match):
    """Return the class of a gallery image in the page."""
    if rank == 0:
        return 'ignored'
    return 'match' if is_match else 'wrong'


def format_place(kind, rank, dist):
    """Return what is first below a gallery image: rank, whether it is right, distance.

    The sign says in black and white what the border says in colour.
    """
    if kind == 'ignored':
        return f'ignored<br>{dist:#.4g}'
    return f'<b>{rank}</b> <i>{"✓" if kind == "match" else "✗"}</i> {dist:#.4g}'


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
