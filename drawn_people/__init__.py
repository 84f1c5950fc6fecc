"""A drawn data set in the layout of Market-1501, for the demo and the tests.

    python -m drawn_people demo/data

people.py         who people are and what they wear
bodies.py         a body in three dimensions
limbs.py          its parts
scenes.py         what the cameras see without people
images.py         a person in front of a scene, photographed
plan.py           which images there are
files.py          the data set on disk
contact_sheet.py  an overview of it
__main__.py       the command
"""
