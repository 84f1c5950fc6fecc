"""A browser without a window, for tests of pages; None where there is none."""

import shutil
import subprocess

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
    None,
)

# No window, no network, nothing of the user's.
FLAGS = [
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


def dump(address, profile, *flags):
    """Return the HTML of a page after its scripts have run, str.

    Args:
        address: of the page.
        profile: pathlib.Path of a directory for the browser's files.
        flags: more of them.
    """
    result = subprocess.run(
        [
            *(CHROMIUM, *FLAGS, f'--user-data-dir={profile}', *flags),
            *('--dump-dom', address),
        ],
        capture_output=True,
        timeout=120,
        check=True,
    )
    return result.stdout.decode()
