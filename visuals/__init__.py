"""Pictures and pages; nothing here parses flags or ranks a gallery as a whole.

ranked_queries.py  the queries to show, and what each finds
ranking_page.py    rankings as one HTML page
ranking_figure.py  rankings as one picture
score_curves.py    CMC, ROC and distances of evaluations
projector.py       the files of TensorBoard's embedding projector
texts.py           how wide texts are, lines that fit, legends that hide nothing
thumbnails.py      small pictures: read, shrink, lay out in a grid, encode
"""
