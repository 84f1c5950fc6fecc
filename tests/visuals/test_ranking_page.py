import html.parser
import io
import json
import re
import urllib.parse

import cv2
import numpy as np
import pytest

import chromium
import embedding_files
from visuals import ranked_queries, ranking_page

NASTY_PID = '<b>&"+%'
NASTY_FID = '"><img src=x onerror=alert(1)>.png'

# Runs after the page's own script: tells the width that the window lacks, then types.
PROBE = """<script>
const root = document.documentElement;
document.body.dataset.overflow = root.scrollWidth - root.clientWidth;
document.body.dataset.height = document.querySelector('.ignored img').offsetHeight;
if (location.hash === '#type') {
  input.value = '004';
  input.dispatchEvent(new Event('input'));
  document.body.dataset.hash = location.hash;
}
</script>"""


class Page(html.parser.HTMLParser):
    """What a page consists of.

    Attributes:
        tags: list of (tag, {attribute: value}).
        text: all text outside of style and script, spaces collapsed.
        style: the style sheet.
        inside: the tag that began last, None behind style and script.
    """

    def __init__(self, content):
        super().__init__()
        self.tags, self.text, self.style, self.inside = [], '', '', None
        self.feed(content)
        self.text = ' '.join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += ' '
        self.inside = tag

    def handle_data(self, data):
        # Of both, the parser gives the content as it is, tags in it included.
        if self.inside == 'style':
            self.style += data
        elif self.inside != 'script':
            self.text += data

    def handle_endtag(self, tag):
        if tag in ('style', 'script'):
            self.inside = None

    def all(self, tag, key):
        """Return the attribute `key` of each tag of a kind."""
        return [attrs.get(key) for name, attrs in self.tags if name == tag]


@pytest.fixture
def images(tmp_path):
    """Four queries (two of one PID) and five gallery images."""
    query_pids = ['0042', '0042', '0043', NASTY_PID]
    gallery_pids = ['0042', '0042', '-1', NASTY_PID, '0007']

    def save(pids, fids):
        for i, fid in enumerate(fids):
            # The last is wide: even so, nothing may stick out of a narrow window.
            width = 400 if i == 3 else 32
            image = np.full((64, width, 3), 40 * i, np.uint8)
            (tmp_path / fid).write_bytes(cv2.imencode('.png', image)[1].tobytes())
        pids, fids = (np.array(texts, object) for texts in (pids, fids))
        return embedding_files.EmbeddedDataset(pids, fids, None, None)

    return ranked_queries.RankedImages(
        save(query_pids, [f'query_{i}.png' for i in range(4)]),
        save(gallery_pids, [f'gallery_{i}.png' for i in range(4)] + [NASTY_FID]),
        query_cids=['<3>'] * 4,
        gallery_cids=['<3>'] * 4 + [None],
        image_root=tmp_path,
    )


def write_page(images, others=(), is_known=True):
    """Return the page's HTML; beside each query a match, an ignored, a late match."""
    ranked = [
        ranked_queries.RankedQuery(
            row,
            average_precision=0.125,
            is_known=is_known,
            num_matches=2,
            first_rank=1,
            gallery_rows=np.array([0, 2, 4, 3]),
            ranks=np.array([1, 0, 2, 37]),
            dists=np.float32([0.5, 1, 2, 30]),
        )
        for row in range(4)
    ]
    file = io.StringIO()
    ranking_page.write(
        file, '<Title>', ['5 < 6 $title'], iter(ranked), images, list(others)
    )
    return file.getvalue()


def test_each_query_has_its_images_with_rank_distance_pid_and_camera(images):
    page = Page(write_page(images))
    assert page.all('section', 'data-pid') == ['0042', '0042', '0043', NASTY_PID]
    kinds = page.all('figure', 'class')
    assert kinds[:5] == ['query', 'match', 'ignored', 'wrong', 'wrong']
    assert kinds[15:] == ['query', 'wrong', 'ignored', 'wrong', 'match']
    assert page.text.count('AP 12.50% · 2 matches, the first at rank 1 · query_') == 4
    first = page.text.partition('query_0.png')[2].partition(' 0042 AP')[0]
    assert (
        first.replace('cam <3>', 'C').split()
        == (
            'query PID 0042 C  1 ✓ 0.5000 PID 0042 C  ignored 1.000 PID -1 C  '
            f'2 ✗ 2.000 PID 0007  … 37 ✗ 30.00 PID {NASTY_PID} C'
        ).split()
    )


def test_beside_a_query_of_unknown_pid_nothing_is_right_or_wrong(images):
    page = Page(write_page(images, is_known=False))
    kinds = page.all('figure', 'class')
    assert kinds[:5] == ['query', 'unknown', 'ignored', 'unknown', 'unknown']
    for scheme in ('light', 'dark'):
        styles = read_styles(page.style, scheme)
        assert styles['.unknown img']['border-color'] == 'transparent'
    assert '0042 the gallery has no image of this PID · query_0.png query' in page.text
    assert '1 0.5000 PID 0042' in page.text
    assert 'AP' not in page.text
    assert not {'✓', '✗'} & set(page.text)


@pytest.mark.parametrize(
    'fields, line',
    [
        ((0.5, True, 1, 2), 'AP 50.00% · 1 match, the first at rank 2 · a.png'),
        ((1, True, 3, 1), 'AP 100.00% · 3 matches, the first at rank 1 · a.png'),
        ((np.nan, True, 0, 0), 'all its matches are ignored · a.png'),
        ((np.nan, False, 0, 0), 'the gallery has no image of this PID · a.png'),
    ],
)
def test_what_is_told_of_a_query(fields, line):
    score = ranked_queries.Score(0, *fields)
    assert ranking_page.format_score(score, 'a.png') == line


def test_names_are_escaped(images):
    content = write_page(images, others=[ranked_queries.Score(3, 0.5, True, 1, 2)])
    page = Page(content)
    assert content.count('<script') == 2
    (lines,) = re.findall('(?s)<script type="application/json".*?>(.*?)<', content)
    assert json.loads(lines) == [
        [NASTY_PID, 'AP 50.00% · 1 match, the first at rank 2 · query_3.png']
    ]
    assert '<b>&"' not in content
    assert set(page.all('img', 'onerror')) == {None}
    assert NASTY_FID in page.all('img', 'alt')
    assert f'#pid={urllib.parse.quote(NASTY_PID)}' in page.all('a', 'href')
    assert page.text.startswith('<Title> <Title> 5 < 6 $title ')


def test_the_page_needs_no_other_file(images):
    content = write_page(images)
    page = Page(content)
    assert len(page.all('img', 'src')) == 4 * 5
    assert all(
        uri.startswith('data:image/jpeg;base64,') for uri in page.all('img', 'src')
    )
    assert all(address.startswith('#') for address in page.all('a', 'href'))
    assert not {'link', 'iframe', 'object'} & {tag for tag, _ in page.tags}
    assert "default-src 'none'" in ' '.join(filter(None, page.all('meta', 'content')))
    assert not re.search(r'https?:|url\(|@import|fetch', content)


def test_headings_are_links_that_a_keyboard_reaches(images):
    page = Page(write_page(images))
    assert page.all('a', 'href')[:3] == ['#', '#pid=0042', '#pid=0042']
    assert page.all('input', 'id') == page.all('label', 'for') == ['pid']
    assert page.all('a', 'tabindex') == [None] * len(page.all('a', 'href'))
    assert read_styles(page.style)[':focus-visible']['outline'].startswith('3px solid')


def test_the_page_is_written_from_any_directory(images, tmp_path, monkeypatch):
    here = write_page(images)
    monkeypatch.chdir(tmp_path)
    assert write_page(images) == here


def read_rules(sheet):
    """Return [(media or '', selector, {property: value})] of a style sheet."""
    rules, blocks, text = [], [], ''
    # A comment ends at the first */ after its beginning.
    first, *others = sheet.split('/*')
    for char in first + ''.join(other.partition('*/')[2] for other in others):
        if char == '{':
            blocks.append(' '.join(text.split()))
            text = ''
        elif char == '}':
            selectors = blocks.pop()
            pairs = [part.partition(':')[::2] for part in text.split(';')]
            values = {name.strip(): value.strip() for name, value in pairs if value}
            if values:
                rules += [
                    (''.join(blocks), selector.strip(), values)
                    for selector in selectors.split(',')
                ]
            text = ''
        else:
            text += char
    return rules


def read_styles(sheet, scheme='light'):
    """Return {selector: {property: value}} of a style sheet, variables resolved."""
    styles = {}
    for media, selector, values in read_rules(sheet):
        if media in ('', f'@media (prefers-color-scheme: {scheme})'):
            styles.setdefault(selector, {}).update(values)
    for values in styles.values():
        for name, value in values.items():
            for variable in styles[':root']:
                value = value.replace(f'var({variable})', styles[':root'][variable])
            values[name] = value
    return styles


def luminance(colour):
    """Return the relative luminance of #rgb or #rrggbb, as WCAG 2 defines it."""
    assert colour[0] == '#'
    digits = colour[1:] if len(colour) == 7 else ''.join(2 * d for d in colour[1:])
    channels = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(
        channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
    )
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    """Return the contrast of two colours, as WCAG 2 defines it."""
    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_each_kind_of_image_has_a_border_of_its_own_colour(scheme, images):
    page = Page(write_page(images))
    styles = read_styles(page.style, scheme)
    kinds = sorted(set(page.all('figure', 'class')))
    assert kinds == ['ignored', 'match', 'query', 'wrong']
    assert styles['figure img']['border'] == '4px solid'
    colours = {kind: styles[f'.{kind} img']['border-color'] for kind in kinds}
    assert len(set(colours.values())) == len(kinds)
    # What WCAG 2 asks of graphics; the ignored are faint on purpose.
    for kind in ('match', 'query', 'wrong'):
        assert contrast(colours[kind], styles['body']['background']) >= 3


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize(
    'text, ground',
    [
        ('body', 'body'),
        ('body', 'form'),
        ('a', 'body'),
        ('a', 'form'),
        ('h2 span', 'body'),
        ('figure', 'body'),
        ('figcaption b', 'body'),
        ('.match i', 'body'),
        ('.wrong i', 'body'),
        ('.gap', 'body'),
        ('aside span', 'body'),
    ],
)
def test_contrast_of_texts_is_that_of_wcag_aa(scheme, text, ground, images):
    styles = read_styles(Page(write_page(images)).style, scheme)
    assert contrast(styles[text]['color'], styles[ground]['background']) >= 4.5


# Queries that the page has no pictures of; the last PID has none there at all.
OTHERS = [
    ranked_queries.Score(row, 0.25, True, 1, 4) for row in [0, 3, *range(4, 4 + 600)]
]
LINE = 'AP 25.00% · 1 match, the first at rank 4 · '


@pytest.mark.skipif(chromium.CHROMIUM is None, reason='Chromium is not installed')
@pytest.mark.parametrize(
    'fragment, pids, listed, text',
    [
        (
            '',
            ['0042', '0042', '0043', NASTY_PID],
            [],
            '4 of 4 queries on this page; a PID also finds the other 602',
        ),
        (
            '#pid=0042',
            ['0042', '0042'],
            [f'0042 {LINE}query_0.png'],
            '2 of 4 queries on this page, 1 more listed below',
        ),
        (
            f'#pid={urllib.parse.quote(NASTY_PID)}',
            [NASTY_PID],
            [f'{NASTY_PID} {LINE}query_3.png'],
            '1 of 4 queries on this page, 1 more listed below',
        ),
        ('#pid=0043', ['0043'], [], '1 of 4 queries on this page'),
        # Of a PID that is listed alone, and no longer one that begins like it.
        ('#pid=00', [], [f'00 {LINE}query_{row}.png' for row in range(4, 504)], None),
        # 004: no PID, but the start of some.
        ('#type', ['0042', '0042', '0043'], [f'0042 {LINE}query_0.png'], None),
    ],
)
def test_a_browser_finds_the_queries_of_the_pid(
    fragment, pids, listed, text, images, tmp_path
):
    rows = np.arange(4 + 600)
    query = images.query._replace(
        pids=np.append(images.query.pids, np.full(600, '00', object)),
        fids=np.array([f'query_{row}.png' for row in rows], object),
    )
    page = write_page(images._replace(query=query, query_cids=['<3>'] * 604), OTHERS)
    filename = tmp_path / 'ranking.html'
    filename.write_text(page.replace('</body>', f'{PROBE}</body>'), encoding='utf-8')
    content = chromium.dump(filename.as_uri() + fragment, tmp_path / 'profile')
    page = Page(content)
    sections = [attrs for tag, attrs in page.tags if tag == 'section']
    assert [s['data-pid'] for s in sections if 'hidden' not in s] == pids
    lines = [Page(line).text for line in re.findall('<li>(.*?)</li>', content)]
    assert lines == listed
    (aside,) = (attrs for tag, attrs in page.tags if tag == 'aside')
    assert ('hidden' in aside) == (not listed)
    if text is not None:
        assert f' {text} ' in page.text
    if len(listed) == 500:
        assert page.text.endswith(' and 100 more')
    (body,) = (attrs for tag, attrs in page.tags if tag == 'body')
    assert body['data-overflow'] == '0'  # Nothing to scroll sideways.
    if '0042' in pids:
        assert int(body['data-height']) > 100  # The image was decoded and laid out.
    if fragment == '#type':
        assert body['data-hash'] == '#pid=004'
