"""For a query set that is also the gallery: an image must not find itself.

This is how retrieval data sets without cameras (CUB-200-2011, Cars196, Stanford Online
Products) are scored: every image is a query against all others.
"""

from excluders import _keys


class Excluder(_keys.KeyExcluder):
    """Ignore the gallery image with the query's fid, its directory included."""

    def key(self, fid):
        """Return the fid itself."""
        return fid
