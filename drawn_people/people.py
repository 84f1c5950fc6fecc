"""Who people are and what they wear: the same in all of their images."""

import dataclasses

import numpy as np

# sRGB. Few colours for many people: some must look alike from afar.
CLOTH_COLOURS = {
    'black': (32, 31, 35),
    'charcoal': (72, 74, 80),
    'grey': (140, 141, 144),
    'white': (226, 225, 220),
    'navy': (36, 46, 86),
    'blue': (52, 98, 176),
    'sky': (130, 176, 216),
    'red': (176, 38, 42),
    'pink': (220, 140, 160),
    'orange': (216, 116, 40),
    'yellow': (220, 192, 64),
    'green': (46, 116, 68),
    'olive': (104, 106, 62),
    'brown': (104, 70, 48),
    'beige': (196, 176, 142),
    'purple': (104, 62, 130),
}
TROUSER_COLOURS = (
    'black',
    'charcoal',
    'grey',
    'navy',
    'blue',
    'beige',
    'brown',
    'white',
    'olive',
    'red',
)
HAIR_COLOURS = (
    (24, 20, 20),
    (52, 36, 28),
    (96, 64, 40),
    (178, 140, 84),
    (150, 148, 146),
)
SKIN_COLOURS = ((240, 204, 180), (222, 176, 144), (186, 134, 100), (122, 82, 60))


@dataclasses.dataclass(frozen=True)
class Cloth:
    """A fabric.

    Attributes:
        first, second: its RGB colours.
        pattern: where the second shows, a key of images.PATTERNS.
        period: in body heights, after which the pattern repeats.
    """

    first: tuple
    second: tuple = (0, 0, 0)
    pattern: str = 'plain'
    period: float = 0.06


@dataclasses.dataclass(frozen=True)
class Identity:
    """All that makes a person recognisable; nothing here changes between images.

    Attributes:
        height, girth: tall and wide, relative to the average person.
        skin, hair, shoes: their Cloths.
        hair_style: 'short', 'bald', 'bob', 'long' or 'bun'.
        hat, hat_cloth: 'none', 'cap' or 'beanie', and its Cloth.
        top, top_style: a Cloth worn as 'shirt', 'jacket', 'coat' or 'dress'.
        has_long_sleeves: whether the top covers the forearms.
        front, front_cloth: what only those who meet the person see: 'none', 'logo' or
            'open' (a jacket), and its Cloth.
        bottom, bottom_style: a Cloth worn as 'trousers', 'shorts' or 'skirt'.
        bag, bag_cloth: 'none', 'backpack', 'shoulder' or 'hand', and its Cloth.
    """

    height: float
    girth: float
    skin: Cloth
    hair: Cloth
    hair_style: str
    hat: str
    hat_cloth: Cloth
    top: Cloth
    top_style: str
    has_long_sleeves: bool
    front: str
    front_cloth: Cloth
    bottom: Cloth
    bottom_style: str
    shoes: Cloth
    bag: str
    bag_cloth: Cloth


def make_rng(*words):
    """Return the random generator of a stream, named by non-negative integers."""
    return np.random.default_rng(words)


def dye(rng, colour):
    """Return a colour name of CLOTH_COLOURS as RGB, a little off: no two dyes match."""
    shade = np.add(CLOTH_COLOURS[colour], rng.normal(0, 9, 3))
    return tuple(int(c) for c in np.clip(shade, 0, 255))


def pick(rng, weights):
    """Return a key of `weights`, a dict of relative frequencies."""
    shares = np.array(list(weights.values()), float)
    return list(weights)[rng.choice(len(shares), p=shares / shares.sum())]


def make_cloth(rng, colours, patterns):
    """Return a Cloth of two of `colours`; `patterns` holds frequencies."""
    first, second = rng.choice(colours, 2, replace=False)
    return Cloth(
        first=dye(rng, first),
        second=dye(rng, second),
        pattern=pick(rng, patterns),
        period=float(rng.uniform(0.06, 0.11)),
    )


def make_identity(rng):
    """Return a random Identity, dressed from few colours and common cuts."""
    any_colour = list(CLOTH_COLOURS)
    plain = {'plain': 1}
    top_patterns = {'plain': 8, 'rings': 2, 'pinstripes': 1, 'check': 2, 'dots': 1}
    return Identity(
        height=float(rng.uniform(0.90, 1.06)),
        girth=float(rng.uniform(0.85, 1.25)),
        skin=Cloth(SKIN_COLOURS[rng.choice(len(SKIN_COLOURS))]),
        hair=Cloth(HAIR_COLOURS[rng.choice(len(HAIR_COLOURS))]),
        hair_style=pick(rng, {'short': 4, 'bald': 1, 'bob': 2, 'long': 3, 'bun': 1}),
        hat=pick(rng, {'none': 6, 'cap': 1, 'beanie': 1}),
        hat_cloth=make_cloth(rng, any_colour, plain),
        top=make_cloth(rng, any_colour, top_patterns | {'two-tone': 3}),
        top_style=pick(rng, {'shirt': 5, 'jacket': 3, 'coat': 1, 'dress': 1}),
        has_long_sleeves=bool(rng.random() < 0.55),
        front=pick(rng, {'none': 5, 'logo': 2, 'open': 3}),
        front_cloth=make_cloth(rng, any_colour, plain),
        bottom=make_cloth(rng, TROUSER_COLOURS, {'plain': 9, 'check': 1}),
        bottom_style=pick(rng, {'trousers': 5, 'shorts': 2, 'skirt': 2}),
        shoes=make_cloth(rng, ('black', 'white', 'brown', 'red', 'grey'), plain),
        bag=pick(rng, {'none': 3, 'backpack': 3, 'shoulder': 2, 'hand': 1}),
        bag_cloth=make_cloth(rng, any_colour, plain),
    )
