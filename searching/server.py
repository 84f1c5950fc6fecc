"""A page to drop an image on, and what it finds: for one person on one machine.

Python's own server, on the loopback address: whoever is on this machine can look, and
nobody else. Nothing that comes in is written anywhere, and only images are read.
"""

import http
import http.server
import json
import pathlib
import string
import sys

import common
from searching import answers
from visuals import ranking_page, thumbnails

HOST = '127.0.0.1'

# Of an image that is dropped: bytes, and seconds without any of them.
MOST_BYTES, PATIENCE = 20 * 2**20, 30

PAGE = pathlib.Path(__file__).with_suffix('.html')

# The page loads nothing from elsewhere, and nobody else may show it in a frame.
HEADERS = {
    'Content-Security-Policy': "default-src 'none'; img-src data: blob:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-store',
}


class RefusedError(Exception):
    """A request that is answered with a reason.

    Attributes:
        status: http.HTTPStatus.
    """

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


def format_page(search, limit):
    """Return the page, str.

    Args:
        search: searching.search.Search.
        limit: verdicts.Limit, or None.
    """
    images = search.images
    known = len({pid for pid in images.pids if pid is not None})
    what = 'identities' if search.group_by_pid else 'images'
    summary = (
        f'{len(images.fids)} images of {known} identities, the {search.top} nearest '
        f'{what} by {search.metric} distance.'
    )
    told = 'No threshold is known' if limit is None else limit.describe()
    return string.Template(PAGE.read_text('utf-8')).substitute(
        style=ranking_page.STYLE.read_text('utf-8'),
        summary=f'{summary} {told[0].upper()}{told[1:]}.',
    )


def answer(content, network, search, limit, image_root):
    """Return what the page shows of an image: a dict for JSON.

    Args:
        content: bytes of the image's file.
        network: queries.Network.
        search: searching.search.Search.
        limit: verdicts.Limit, or None.
        image_root: directory of the gallery's FIDs, or None.

    Raises:
        RefusedError: it is no image.
    """
    try:
        embs = network.embed([content])
    except common.InputError as error:
        reason = f'this is no image that can be read ({error})'
        raise RefusedError(http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason) from error
    try:
        (nearest,) = search.find(embs)
    except common.InputError as error:
        status = http.HTTPStatus.INTERNAL_SERVER_ERROR
        raise RefusedError(status, str(error)) from error
    found = answers.make('', nearest, search.images, limit, image_root)
    told = answers.to_json(found, limit)
    told['sentence'] = describe(found, limit)
    for one in told['found']:
        one['image'] = read_thumbnail(one.pop('path'))
    return told


def describe(found, limit):
    """Return the verdict as a sentence."""
    if not found.found:
        return 'The gallery is empty.'
    nearest = found.found[0]
    if found.verdict is None:
        return 'No threshold is known: nobody says whether the nearest is near enough.'
    if found.verdict == 'unknown':
        return (
            f'Unknown: the nearest is {nearest.distance:.4g} away, at most '
            f'{limit.distance:.4g} would be the same identity.'
        )
    return f'{nearest.pid or nearest.fid}, {nearest.distance:.4g} away.'


def read_thumbnail(path):
    """Return a gallery image as the address that a page can hold in itself, or None."""
    if path is None:
        return None
    try:
        pixels = thumbnails.read_image('', path)
    except (OSError, ValueError):  # Removed since, perhaps.
        return None
    return thumbnails.encode_data_uri(
        thumbnails.shrink(pixels, ranking_page.IMAGE_SIZE)
    )


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET / with the page and POST /search, an image's content, with JSON."""

    server_version, sys_version = 'search', ''
    protocol_version = 'HTTP/1.1'
    timeout = PATIENCE

    def do_GET(self):
        """Send the page."""
        try:
            self.check_host()
            if self.path != '/':
                raise RefusedError(http.HTTPStatus.NOT_FOUND, 'the page is /')
        except RefusedError as error:
            self.refuse(error)
        else:
            page = self.server.page.encode()
            self.send(http.HTTPStatus.OK, 'text/html; charset=utf-8', page)

    def do_POST(self):
        """Send what an image finds."""
        try:
            self.check_host()
            told = self.server.answer(self.read_body())
        except RefusedError as error:
            self.refuse(error)
        else:
            self.send_json(http.HTTPStatus.OK, told)

    def check_host(self):
        """Raise RefusedError for a page of elsewhere, which DNS gave this address."""
        expected = {f'{name}:{self.server.server_port}' for name in (HOST, 'localhost')}
        if self.headers.get('Host') not in expected:
            raise RefusedError(
                http.HTTPStatus.FORBIDDEN, 'this page is for this machine'
            )

    def read_body(self):
        """Return what was sent, bytes.

        Raises:
            RefusedError: it is too much, or comes from elsewhere.
        """
        if self.path != '/search':
            raise RefusedError(http.HTTPStatus.NOT_FOUND, 'images go to /search')
        # A form of another site cannot send this type without asking first.
        if self.headers.get('Content-Type') != 'application/octet-stream':
            reason = 'expected application/octet-stream'
            raise RefusedError(http.HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason)
        text = self.headers.get('Content-Length', '')
        if not (text.isascii() and text.isdecimal()):
            raise RefusedError(
                http.HTTPStatus.LENGTH_REQUIRED, 'expected Content-Length'
            )
        if int(text) > MOST_BYTES:
            raise RefusedError(
                http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f'the file has more than {MOST_BYTES // 2**20} MB',
            )
        return self.rfile.read(int(text))

    def refuse(self, error):
        """Send the reason of a RefusedError."""
        self.close_connection = True  # What was not read would be the next request.
        self.send_json(error.status, {'error': str(error)})

    def send_json(self, status, told):
        """Send a dict."""
        self.send(status, 'application/json', json.dumps(told).encode())

    def send(self, status, kind, content):
        """Send an answer."""
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(content)))
        if self.close_connection:
            self.send_header('Connection', 'close')
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing: what was looked for is nobody's business."""


class Server(http.server.ThreadingHTTPServer):
    """Serves the page of a search.

    Args:
        port: 0 chooses one.
        page: str.
        answer: function of an image's content to a dict; see `answer`.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, port, page, answer):
        super().__init__((HOST, port), Handler)
        self.page = page
        self.answer = answer

    def handle_error(self, request, client_address):
        """Pass over what a browser does that does not wait for its answer."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def serve(port, network, search, limit, image_root):
    """Serve the page until the process is interrupted.

    Args:
        port: 0 chooses one.
        network, search, limit, image_root: see `answer`.

    Raises:
        InputError: the port is taken.
    """
    try:
        server = Server(
            port,
            format_page(search, limit),
            lambda content: answer(content, network, search, limit, image_root),
        )
    except OSError as error:
        raise common.InputError(
            f'--serve {port}: {error.strerror}; choose another port, 0 for a free one'
        ) from error
    with server:
        print(
            f'http://{HOST}:{server.server_port}/ (this machine only; Ctrl+C ends it)',
            flush=True,
        )
        server.serve_forever()
