"""The page of search.py --serve: what it answers, to whom, and what it refuses."""

import http.client
import json
import re
import threading

import cv2
import numpy as np
import pytest

import chromium
import common
import embedding_files
from searching import gallery, queries, search, server, verdicts

NASTY_PID, NASTY_FID = '<b>&"', '"><img src=x onerror=alert(1)>.png'


def encode(value):
    """Return the content of a PNG image of one grey value."""
    image = np.full((40, 20, 3), value, np.uint8)
    return cv2.imencode('.png', image)[1].tobytes()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Return a directory with the gallery's images."""
    directory = tmp_path_factory.mktemp('images')
    for value, name in ((10, 'a.png'), (50, 'b.png'), (200, NASTY_FID)):
        (directory / name).write_bytes(encode(value))
    return directory


def embed(images):
    """Return the grey values of images as embeddings, float32 [N, 1]."""
    pixels = [queries.decode(content) for content in images]
    if any(one is None for one in pixels):
        raise common.InputError('image 0 is not readable')
    return np.float32([[one.mean()] for one in pixels])


@pytest.fixture(scope='module')
def address(root):
    """Return (host, port) of a server whose embeddings are grey values."""
    images = gallery.Gallery(
        np.float32([[10], [50], [200], [230]]),
        np.array(['1', '2', NASTY_PID, None], object),
        np.array(['a.png', 'b.png', NASTY_FID, 'gone.png'], object),
        np.array([str(root)] * 4, object),
        *(embedding_files.Origin(), ['g.h5']),
    )
    found = search.Search(images, [], 'euclidean', None, None, 3)
    limit = verdicts.Limit(30.0, 'as given', 0.01, 0.9)
    network = queries.Network(embed, 1, 'euclidean', 'w', 'exp')
    with server.Server(
        0,
        server.format_page(found, limit),
        lambda content: server.answer(content, network, found, limit, None),
    ) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield server.HOST, running.server_port
        running.shutdown()
        thread.join()


def send(address, method, path, body=None, **headers):
    """Return (status, headers, body) of an answer."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


OCTETS = {'Content-Type': 'application/octet-stream'}


def test_image_is_answered_with_its_ranking(address):
    status, _, body = send(address, 'POST', '/search', encode(60), **OCTETS)
    told = json.loads(body)
    assert status == 200
    assert told['verdict'] == 'same'
    assert told['sentence'] == '2, 10 away.'
    found = told['found']
    assert [one['pid'] for one in found] == ['2', '1', NASTY_PID]
    assert [one['distance'] for one in found] == [10, 50, 140]
    assert [one['is_same'] for one in found] == [True, False, False]
    assert [one['rank'] for one in found] == [1, 2, 3]
    assert found[0]['image'].startswith('data:image/jpeg;base64,')
    # No path of this machine leaves it.
    assert all('path' not in one for one in found)


def test_unknown_individual_is_told_and_a_missing_image_is_no_error(address):
    _, _, body = send(address, 'POST', '/search', encode(120), **OCTETS)
    told = json.loads(body)
    assert told['verdict'] == 'unknown'
    assert told['sentence'] == (
        'Unknown: the nearest is 70 away, at most 30 would be the same identity.'
    )
    _, _, body = send(address, 'POST', '/search', encode(230), **OCTETS)
    assert json.loads(body)['found'][0]['image'] is None


@pytest.mark.parametrize(
    'method, path, body, headers, status, words',
    [
        ('GET', '/x', None, {}, 404, 'the page is /'),
        ('GET', '/../etc/passwd', None, {}, 404, 'the page is /'),
        ('POST', '/', b'x', OCTETS, 404, 'images go to /search'),
        ('POST', '/search', b'no image', OCTETS, 415, 'this is no image that can be r'),
        ('POST', '/search', b'', OCTETS, 415, 'this is no image that can be read'),
        ('POST', '/search', b'x', {'Content-Type': 'text/plain'}, 415, 'octet-stream'),
        ('GET', '/', None, {'Host': 'evil.example:80'}, 403, 'for this machine'),
        (
            *('POST', '/search', b'x', OCTETS | {'Host': 'evil.example'}, 403),
            'for this machine',
        ),
    ],
)
def test_what_is_no_image_of_this_machine_is_refused(
    address, method, path, body, headers, status, words
):
    found, _, answer = send(address, method, path, body, **headers)
    assert found == status
    assert words in json.loads(answer)['error']


@pytest.mark.parametrize('length, status', [('30000000', 413), ('x', 411), ('-1', 411)])
def test_too_large_a_file_is_refused_before_it_is_sent(address, length, status):
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.putrequest('POST', '/search')
    connection.putheader('Content-Type', 'application/octet-stream')
    connection.putheader('Content-Length', length)
    connection.endheaders()
    assert connection.getresponse().status == status
    connection.close()


def test_other_methods_do_nothing(address):
    for method in ('PUT', 'DELETE', 'OPTIONS', 'HEAD'):
        assert send(address, method, '/')[0] == 501


def test_page_loads_nothing_and_is_in_no_frame(address):
    status, headers, body = send(address, 'GET', '/')
    assert status == 200
    policy = headers['Content-Security-Policy']
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    page = body.decode()
    assert not re.search(r'(src|href)=', page)
    assert '4 images of 3 identities, the 3 nearest images by euclidean' in page
    assert 'Threshold 30 (as given); it accepts 1.000% of the pairs' in page


def test_server_listens_on_the_loopback_address_alone(address):
    assert address[0] == '127.0.0.1'
    taken = pytest.raises(common.InputError, match=f'--serve {address[1]}: Address alr')
    images = gallery.Gallery(
        np.zeros((1, 1), 'f'),
        *(np.array(['x'], object) for _ in range(3)),
        *(embedding_files.Origin(), ['g.h5']),
    )
    found = search.Search(images, [], 'euclidean', None, None, 3)
    with taken:
        server.serve(address[1], None, found, None, None)


# Drops an image on the page, as a hand would, once it is there.
DROP = """<script>
const pixels = Uint8Array.from(atob('$image'), letter => letter.charCodeAt(0));
const carried = new DataTransfer();
carried.items.add(new File([pixels], '<i>query.png'));
drop.dispatchEvent(new DragEvent('drop', {dataTransfer: carried}));
</script>"""


@pytest.mark.skipif(chromium.CHROMIUM is None, reason='no browser here')
def test_dropped_image_is_ranked_on_the_page(root, tmp_path, monkeypatch):
    import base64

    images = gallery.Gallery(
        np.float32([[10], [50], [200]]),
        np.array(['1', '2', NASTY_PID], object),
        np.array(['a.png', 'b.png', NASTY_FID], object),
        np.array([str(root)] * 3, object),
        *(embedding_files.Origin(), ['g.h5']),
    )
    found = search.Search(images, [], 'euclidean', None, None, 3)
    limit = verdicts.Limit(30.0, 'as given', None, None)
    network = queries.Network(embed, 1, 'euclidean', 'w', 'exp')
    script = DROP.replace('$image', base64.b64encode(encode(60)).decode())
    page = server.format_page(found, limit).replace('</body>', script + '</body>')
    with server.Server(
        0, page, lambda content: server.answer(content, network, found, limit, None)
    ) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            content = chromium.dump(
                f'http://127.0.0.1:{running.server_port}/',
                tmp_path / 'profile',
                '--virtual-time-budget=20000',
            )
        finally:
            running.shutdown()
            thread.join()
    assert '&lt;i&gt;query.png <span>2, 10 away.</span>' in content
    figures = re.findall('<figure class="([a-z]+)">(.*?)</figure>', content)
    assert [kind for kind, _ in figures] == ['query', 'same', 'other', 'other']
    texts = [re.sub('<[^>]*>', ' ', figure).split() for _, figure in figures]
    assert texts[1] == ['1', '✓', '10.00', 'PID', '2']
    assert texts[2] == ['2', '50.00', 'PID', '1']
    # What looks like a tag is text.
    assert 'PID &lt;b&gt;&amp;"' in figures[3][1]
    assert '<img src="x"' not in content
