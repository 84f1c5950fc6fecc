import html.parser
import io
import re
import shutil
import subprocess
import urllib.parse

import cv2
import numpy as np
import pytest

import embedding_files
from visuals import ranked_queries, ranking_page

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
    None,
)
# No window, no network, nothing of the user's.
CHROMIUM_FLAGS = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--window-size=500,800',
]

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
    """

    def __init__(self, content):
        super().__init__()
        self.tags, self.text = [], ''
        self.feed(re.sub(r'(?s)<(style|script)>.*?</\1>', '', content))
        self.text = ' '.join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

        self.text += ' '

    def handle_data(self, data):
        self.text += data

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


def write_page(images):
    """Return the page's HTML; beside each query a match, an ignored, a late match."""
    ranked = [
        ranked_queries.RankedQuery(
            row,
            average_precision=0.125,
            num_matches=2,
            first_rank=1,
            gallery_rows=np.array([0, 2, 4, 3]),
            ranks=np.array([1, 0, 2, 37]),
            dists=np.float32([0.5, 1, 2, 30]),
        )
        for row in range(4)
    ]
    file = io.StringIO()
    ranking_page.write(file, '<Title>', ['5 < 6'], iter(ranked), images)
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


def test_names_are_escaped(images):
    content = write_page(images)
    page = Page(content)
    assert content.count('<script') == 1
    assert '<b>&"' not in content
    assert set(page.all('img', 'onerror')) == {None}
    assert NASTY_FID in page.all('img', 'alt')
    assert f'#pid={urllib.parse.quote(NASTY_PID)}' in page.all('a', 'href')
    assert '<Title> 5 < 6' in page.text


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
    template = ranking_page.TEMPLATE.read_text('utf-8')
    assert ':focus-visible' in template
    assert 'tabindex' not in template


def luminance(colour):
    """Return the relative luminance of #rgb or #rrggbb, as WCAG 2 defines it."""
    digits = colour if len(colour) == 6 else ''.join(2 * digit for digit in colour)
    channels = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    linear = np.where(
        channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
    )
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize('scheme', [0, 1], ids=['light', 'dark'])
@pytest.mark.parametrize(
    'foreground, background',
    [(f, 'page') for f in ('text', 'faint', 'match', 'wrong', 'link')]
    + [('text', 'bar'), ('link', 'bar')],
)
def test_contrast_is_that_of_wcag_aa(scheme, foreground, background):
    template = ranking_page.TEMPLATE.read_text('utf-8')
    block = re.findall(r':root \{(.*?)\}', template, re.DOTALL)[scheme]
    colours = dict(re.findall(r'--(\w+): #(\w+);', block))
    darker, lighter = sorted(luminance(colours[n]) for n in (foreground, background))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@pytest.mark.skipif(CHROMIUM is None, reason='Chromium is not installed')
@pytest.mark.parametrize(
    'fragment, pids',
    [
        ('', ['0042', '0042', '0043', NASTY_PID]),
        ('#pid=0042', ['0042', '0042']),
        (f'#pid={urllib.parse.quote(NASTY_PID)}', [NASTY_PID]),
        ('#type', ['0042', '0042', '0043']),  # 004: no PID, but the start of some.
    ],
)
def test_a_browser_shows_the_queries_of_the_pid(fragment, pids, images, tmp_path):
    filename = tmp_path / 'ranking.html'
    filename.write_text(
        write_page(images).replace('</body>', f'{PROBE}</body>'), encoding='utf-8'
    )
    command = [CHROMIUM, *CHROMIUM_FLAGS, f'--user-data-dir={tmp_path / "profile"}']
    result = subprocess.run(
        [*command, '--dump-dom', filename.as_uri() + fragment],
        capture_output=True,
        timeout=120,
        check=True,
    )
    page = Page(result.stdout.decode())
    sections = [attrs for tag, attrs in page.tags if tag == 'section']
    assert [s['data-pid'] for s in sections if 'hidden' not in s] == pids
    assert f'{len(pids)} of 4 queries' in page.text
    (body,) = (attrs for tag, attrs in page.tags if tag == 'body')
    assert body['data-overflow'] == '0'  # Nothing to scroll sideways.
    if '0042' in pids:
        assert int(body['data-height']) > 100  # The image was decoded and laid out.
    if fragment == '#type':
        assert body['data-hash'] == '#pid=004'
