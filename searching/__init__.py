"""What search.py alone needs, from files of embeddings to a page.

gallery.py    what is searched: files of embeddings, joined
queries.py    what is looked for: images, embedded as the gallery was
search.py     a gallery that is searched again and again
nearest.py    the nearest images or identities, exactly; near-duplicates
index.py      the same by an approximate index
_faiss.py     which FAISS makes, and searches in a process of its own
verdicts.py   same or not: thresholds, and how often they are wrong
answers.py    what was found, as text, JSON and picture
server.py     a page to drop images on
"""
