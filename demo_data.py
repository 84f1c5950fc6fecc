#!/usr/bin/env python3
"""Draw a small person re-identification data set, to learn on before Market-1501 is.

    python demo_data.py ~/data/demo --seed 0 --contact_sheet ~/data/demo.png

Writes bounding_box_train, query and bounding_box_test with Market-1501's file names
(0002_c1s1_000451_03.jpg; 0000 is a distractor, -1 is junk) and demo_data.json with
the seed and the counts. Images are JPEG, 64 wide and 128 high. The same seed gives
the same bytes (with the same OpenCV); a set that is already complete stays as it is.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import tempfile

import cv2
import numpy as np

import common

HEIGHT, WIDTH = 128, 64  # Pixels, as Market-1501.
# Drawing larger and averaging is the anti-aliasing; 4 looks no better and is slower.
SUPERSAMPLING = 3
JPEG_QUALITY = 90
SUBSETS = ('bounding_box_train', 'query', 'bounding_box_test')
MARKER = 'demo_data.json'

# First words of the random streams, so that no two uses share one.
IDENTITY_STREAM, IMAGE_STREAM, PLAN_STREAM = range(3)

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
    *('black', 'charcoal', 'grey', 'navy', 'blue', 'beige', 'brown'),
    *('white', 'olive', 'red'),
)
HAIR_COLOURS = (
    (24, 20, 20),
    (52, 36, 28),
    (96, 64, 40),
    (178, 140, 84),
    (150, 148, 146),
)
SKIN_COLOURS = ((240, 204, 180), (222, 176, 144), (186, 134, 100), (122, 82, 60))

# Distances are in body heights: 1 is the height of a person of average build.
HIP_HEIGHT, SHOULDER_HEIGHT, HEAD_HEIGHT = 0.5, 0.805, 0.925
THIGH, SHIN, UPPER_ARM, FOREARM = 0.235, 0.225, 0.165, 0.155

ANGLES = np.linspace(0, 2 * np.pi, 16, endpoint=False)
UNIT_CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)  # [16, 2]


@dataclasses.dataclass(frozen=True)
class Cloth:
    """A fabric: a pattern of two RGB colours that repeats every `period` heights."""

    first: tuple
    second: tuple = (0, 0, 0)
    pattern: str = 'plain'
    period: float = 0.06


@dataclasses.dataclass(frozen=True)
class Identity:
    """All that makes a person recognisable; nothing here changes between images."""

    height: float  # Relative to the average person.
    girth: float  # Width relative to the average person.
    skin: Cloth
    hair: Cloth
    hair_style: str
    hat: str
    hat_cloth: Cloth
    top: Cloth
    top_style: str
    has_long_sleeves: bool
    front: str  # What only those who meet the person see: a logo, an open jacket.
    front_cloth: Cloth
    bottom: Cloth
    bottom_style: str
    shoes: Cloth
    bag: str
    bag_cloth: Cloth


@dataclasses.dataclass(frozen=True)
class Camera:
    """A viewpoint and its electronics; the four CAMERAS serve every seed."""

    cid: int
    scene: str
    yaw: float  # Usual walking direction in degrees: 0 away, 90 right, 180 towards.
    gains: tuple  # White balance: factors of red, green and blue.
    gamma: float  # Above 1 darkens the middle tones.
    saturation: float  # 1 keeps colours, 0 is black and white.
    blur: float  # Standard deviation in pixels of the final image.
    body_heights: tuple  # Range of the average person's height, 1 = image height.


# Milder than real cameras, so that 300 iterations take a plain six-layer network from
# scratch past 80 % mAP (82 to 92 % on seeds 0 and 1); untrained, it stays below 10 %.
CAMERAS = (
    Camera(1, 'pavement', 180, (1.04, 1.0, 0.94), 0.97, 1.0, 0.3, (0.88, 0.94)),
    Camera(2, 'wall', 0, (0.94, 0.98, 1.06), 1.03, 0.95, 0.4, (0.85, 0.92)),
    Camera(3, 'lawn', 90, (0.97, 1.03, 0.94), 1.06, 0.95, 0.3, (0.88, 0.94)),
    Camera(4, 'corridor', 290, (1.05, 0.98, 1.00), 0.94, 0.9, 0.5, (0.86, 0.93)),
)


@dataclasses.dataclass(frozen=True)
class Pose:
    """How a person stands in one image."""

    yaw: float  # Radians; 0 walks away, pi / 2 to the right, pi towards the camera.
    phase: float  # Of the step, radians.
    stride: float  # Largest angle of a leg to the vertical, radians.
    elbow: float  # Bend of the arms, radians.


@dataclasses.dataclass(frozen=True)
class Framing:
    """Where the average person stands in the image, 1 = the image's height or width."""

    body_height: float
    x: float  # Of the body's axis; 0.5 is the middle.
    ground: float  # Of the feet, from the top; 1 is the lower edge.


@dataclasses.dataclass(frozen=True)
class Part:
    """A visible piece of a person; the painter begins with the largest depth."""

    depth: float  # Away from the camera, in body heights.
    outlines: tuple  # float [n, 2] polygons: right of the body's axis, above ground.
    cloth: Cloth


def build_parser():
    parser = common.new_parser(__doc__)
    parser.add_argument(
        'output_dir',
        type=common.path,
        help='Directory to create; must be empty or hold this very data set.',
    )
    parser.add_argument(
        '--seed',
        type=common.non_negative_int,
        default=0,
        help='Decides the people, their poses and the split; the cameras stay.',
    )
    parser.add_argument(
        '--contact_sheet',
        type=common.path,
        metavar='FILE.png',
        help='Also write an overview: a row per identity, cameras side by side.',
    )
    return parser


# --- people ----------------------------------------------------------------------


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


def make_pose(rng, camera):
    """Return a random Pose: walking or standing, mostly as usual for the camera."""
    yaw = camera.yaw + rng.normal(0, 15)
    if rng.random() < 0.1:
        yaw = rng.uniform(0, 360)
    return Pose(
        yaw=float(np.deg2rad(yaw)),
        phase=float(rng.uniform(0, 2 * np.pi)),
        stride=float(rng.choice([0.05, rng.uniform(0.25, 0.55)], p=[0.2, 0.8])),
        elbow=float(rng.uniform(0.1, 0.6)),
    )


# --- a body in three dimensions --------------------------------------------------
#
# Points are (lateral, up, forward): to the person's right, above ground, ahead.


def project(points, yaw):
    """Return where body points appear, and how far behind the body's axis they are.

    Args:
        points: float [..., 3], (lateral, up, forward) in body heights.
        yaw: walking direction in radians, see Pose.

    Returns:
        (xy [..., 2], depth [...]): right of the axis and above ground; away from us.
    """
    lateral, up, forward = np.moveaxis(np.asarray(points, float), -1, 0)
    x = lateral * np.cos(yaw) + forward * np.sin(yaw)
    depth = forward * np.cos(yaw) - lateral * np.sin(yaw)
    return np.stack([x, up], axis=-1), depth


def make_ellipse(centre, radii):
    """Return the outline of an upright ellipse, float [16, 2]."""
    return np.asarray(centre) + UNIT_CIRCLE * radii


def make_limb(joints, radii, cloth, yaw):
    """Return a Part through `joints` [J, 3], as thick as `radii` [J], J >= 2.

    All of it has the first joint's depth: a sleeve must not part from its arm.
    """
    centres, depth = project(joints, yaw)
    circles = [
        make_ellipse(c, (r, r)).astype(np.float32)
        for c, r in zip(centres, radii, strict=True)
    ]
    capsules = tuple(
        cv2.convexHull(np.concatenate(pair))[:, 0]
        for pair in zip(circles, circles[1:], strict=False)
    )
    return Part(float(depth[0]), capsules, cloth)


def make_ball(centre, radii, cloth, yaw):
    """Return an ellipsoid Part from its centre [3] and its half axes [3]."""
    xy, depth = project(centre, yaw)
    across = np.hypot(radii[0] * np.cos(yaw), radii[2] * np.sin(yaw))
    return Part(float(depth), (make_ellipse(xy, (across, radii[1])),), cloth)


def make_barrel(rings, cloth, yaw, centre=(0, 0)):
    """Return a Part of elliptic rings stacked from top to bottom, corners rounded.

    Args:
        rings: float [R, 3], each (up, half axis sideways, half axis forward).
        cloth: its Cloth.
        yaw: walking direction in radians.
        centre: (lateral, forward) of the barrel's axis.
    """
    up, sideways, forward = np.asarray(rings, float).T
    (x, _), depth = project((centre[0], 0, centre[1]), yaw)
    across = np.hypot(sideways * np.cos(yaw), forward * np.sin(yaw))
    right = np.stack([x + across, up], axis=1)
    left = np.stack([x - across, up], axis=1)
    outline = round_corners(np.concatenate([right, left[::-1]]))
    return Part(float(depth), (outline,), cloth)


def round_corners(polygon, num_rounds=2):
    """Return a polygon [n, 2] with its corners cut (Chaikin 1974), [n * 4, 2]."""
    for _ in range(num_rounds):
        following = np.roll(polygon, -1, axis=0)
        cuts = [0.8 * polygon + 0.2 * following, 0.2 * polygon + 0.8 * following]
        polygon = np.stack(cuts, axis=1).reshape(-1, 2)
    return polygon


# --- the parts of a person -------------------------------------------------------


def hang(joint, lengths, angles):
    """Return joints [3, 3] of a limb of two bones that hangs from `joint`.

    Args:
        joint: (lateral, up, forward) of the hip or shoulder.
        lengths: of the upper and the lower bone.
        angles: of either bone to the vertical, radians, forward positive.
    """
    joints = [np.asarray(joint, float)]
    for length, angle in zip(lengths, angles, strict=True):
        bone = np.array([0, -length * np.cos(angle), length * np.sin(angle)])
        joints.append(joints[-1] + bone)
    return np.array(joints)


def make_leg(identity, pose, side):
    """Return the Parts of one leg and its shoe; `side` is -1 (left) or 1 (right)."""
    swing = pose.stride * np.sin(pose.phase + (side > 0) * np.pi)
    bend = pose.stride * max(0, np.cos(pose.phase + (side > 0) * np.pi))
    hip = (side * 0.047 * identity.girth, HIP_HEIGHT, 0)
    joints = hang(hip, (THIGH, SHIN), (swing, swing - 1.5 * bend))
    ankle = joints[2]
    toe = ankle + [side * 0.012, -0.012, 0.07]
    radii = np.array([0.056, 0.042, 0.03]) * identity.girth
    is_bare = identity.bottom_style != 'trousers' or identity.top_style == 'dress'
    skin_radii = 0.72 * radii if is_bare else radii
    cloth = identity.skin if is_bare else identity.bottom
    leg = make_limb(joints, skin_radii, cloth, pose.yaw)
    shoe = make_limb([ankle, toe], (0.03, 0.02), identity.shoes, pose.yaw)
    parts = [leg, dataclasses.replace(shoe, depth=leg.depth)]
    if identity.bottom_style == 'shorts':
        hem = 0.15 * joints[0] + 0.85 * joints[1]
        short_leg = [joints[0], hem]
        parts.append(
            make_limb(short_leg, (radii[0], 1.15 * radii[1]), identity.bottom, pose.yaw)
        )
    # Whatever the step, trunk and skirt hide the hips.
    return [dataclasses.replace(part, depth=part.depth + 1) for part in parts]


def make_arm(identity, pose, side):
    """Return the Parts of one arm and its hand; it swings against the leg below."""
    swing = 0.8 * pose.stride * np.sin(pose.phase + (side < 0) * np.pi)
    shoulder = (side * 0.112 * identity.girth, SHOULDER_HEIGHT - 0.01, 0)
    joints = hang(shoulder, (UPPER_ARM, FOREARM), (swing, swing + pose.elbow))
    joints[1:, 0] += side * 0.022  # Arms hang clear of the trunk.
    radii = np.array([0.037, 0.029, 0.021]) * identity.girth
    parts = [make_limb(joints, 0.85 * radii, identity.skin, pose.yaw)]
    sleeve = joints.copy()
    if identity.has_long_sleeves:
        sleeve[2] = 0.1 * joints[1] + 0.9 * joints[2]
    else:
        sleeve = np.array([joints[0], 0.4 * joints[0] + 0.6 * joints[1]])
    parts.append(make_limb(sleeve, radii[: len(sleeve)], identity.top, pose.yaw))
    if identity.bag == 'hand' and side > 0:
        parts += make_handbag(identity, pose, joints[2])
    return parts


def make_trunk(identity, pose):
    """Return the Parts between neck and hips: clothes, skirt and what hangs open."""
    girth = identity.girth
    hem = {'shirt': 0.49, 'jacket': 0.46, 'coat': 0.32, 'dress': 0.31}
    flare = {'shirt': 1.0, 'jacket': 1.1, 'coat': 1.15, 'dress': 1.4}
    bottom = flare[identity.top_style]
    rings = [
        (0.85, 0.04, 0.04),
        (0.825, 0.10 * girth, 0.06 * girth),
        (0.74, 0.115 * girth, 0.078 * girth),
        (0.60, 0.098 * girth, 0.074 * girth),
        (hem[identity.top_style], 0.107 * bottom * girth, 0.078 * bottom * girth),
    ]
    parts = [make_barrel(rings, identity.top, pose.yaw)]
    if identity.front == 'logo':
        logo = [(0.765, 0.05, 0.01), (0.68, 0.05, 0.01)]
        chest = (0, 0.072 * girth)
        parts.append(make_barrel(logo, identity.front_cloth, pose.yaw, chest))
    if identity.front == 'open':
        gap = [(0.84, 0.025, 0.01), (hem[identity.top_style], 0.045, 0.01)]
        chest = (0, 0.07 * girth)
        parts.append(make_barrel(gap, identity.front_cloth, pose.yaw, chest))
    if identity.bottom_style == 'skirt' and identity.top_style != 'dress':
        skirt = [(0.56, 0.09, 0.07), (0.46, 0.112, 0.09), (0.31, 0.135, 0.12)]
        skirt = np.multiply(skirt, (1, girth, girth))
        part = make_barrel(skirt, identity.bottom, pose.yaw)
        parts.append(dataclasses.replace(part, depth=0.5))
    return parts


def make_head(identity, pose):
    """Return the Parts of neck, face and eyes, hair and hat."""
    yaw, hair, skin = pose.yaw, identity.hair, identity.skin
    eye = Cloth((40, 30, 30))
    parts = [
        make_limb([(0, 0.83, 0), (0, 0.89, 0.005)], (0.03, 0.028), skin, yaw),
        make_ball((0, HEAD_HEIGHT, 0.004), (0.043, 0.062, 0.05), skin, yaw),
        make_ball((-0.018, 0.932, 0.046), (0.008, 0.006, 0.004), eye, yaw),
        make_ball((0.018, 0.932, 0.046), (0.008, 0.006, 0.004), eye, yaw),
    ]
    if identity.hair_style != 'bald':
        scalp = make_ball((0, 0.940, -0.018), (0.047, 0.058, 0.044), hair, yaw)
        fringe = make_ball((0, 0.975, 0.012), (0.040, 0.022, 0.042), hair, yaw)
        parts += [scalp, dataclasses.replace(fringe, depth=-0.02)]
    lengths = {'bob': (0.86, 0.052), 'long': (0.74, 0.062)}
    if identity.hair_style in lengths:
        end, width = lengths[identity.hair_style]
        strand = [(0.965, 0.042, 0.03), (0.90, 0.055, 0.035), (end, width, 0.022)]
        parts.append(make_barrel(strand, hair, yaw, (0, -0.045)))
    if identity.hair_style == 'bun':
        parts.append(make_ball((0, 0.985, -0.04), (0.025, 0.025, 0.025), hair, yaw))
    return parts + make_hat(identity, pose)


def make_hat(identity, pose):
    """Return the Parts of the hat, if any; it covers the hair from all sides."""
    crown_bottom = {'none': None, 'cap': 0.955, 'beanie': 0.945}[identity.hat]
    if crown_bottom is None:
        return []
    rings = [(0.998, 0.03, 0.03), (0.98, 0.046, 0.048), (crown_bottom, 0.05, 0.053)]
    crown = make_barrel(rings, identity.hat_cloth, pose.yaw)
    parts = [dataclasses.replace(crown, depth=-0.06)]
    if identity.hat == 'cap':
        peak = [(0.965, 0.04, 0.03), (0.95, 0.045, 0.035)]
        parts.append(make_barrel(peak, identity.hat_cloth, pose.yaw, (0, 0.065)))
    return parts


def make_bag(identity, pose):
    """Return the Parts of a backpack or shoulder bag, straps included."""
    yaw, cloth, girth = pose.yaw, identity.bag_cloth, identity.girth
    chest = 0.08 * girth
    if identity.bag == 'backpack':
        sack = [(0.82, 0.06, 0.03), (0.78, 0.08, 0.055), (0.58, 0.085, 0.06)]
        straps = [
            make_limb([(x, 0.83, chest), (x, 0.66, chest)], (0.012, 0.012), cloth, yaw)
            for x in (-0.065 * girth, 0.065 * girth)
        ]
        return [make_barrel(sack, cloth, yaw, (0, -0.055 - chest)), *straps]
    if identity.bag == 'shoulder':
        pouch = [(0.57, 0.03, 0.07), (0.43, 0.035, 0.08)]
        straps = [
            make_limb(
                [(-0.07, 0.83, z), (0.11 * girth, 0.55, z)], (0.01, 0.01), cloth, yaw
            )
            for z in (-chest, chest)
        ]
        return [make_barrel(pouch, cloth, yaw, (0.15 * girth, 0)), *straps]
    return []


def make_handbag(identity, pose, hand):
    """Return the Parts of a bag in the hand at (lateral, up, forward) `hand`."""
    lateral, up, forward = hand
    rings = [(up - 0.05, 0.025, 0.06), (up - 0.16, 0.03, 0.075)]
    cloth = identity.bag_cloth
    handle = make_limb([hand, hand - [0, 0.06, 0]], (0.01, 0.014), cloth, pose.yaw)
    return [handle, make_barrel(rings, cloth, pose.yaw, (lateral, forward))]


def make_body(identity, pose):
    """Return all Parts of a person in painting order, the farthest first."""
    parts = make_trunk(identity, pose)
    for side in (-1, 1):
        parts += make_leg(identity, pose, side) + make_arm(identity, pose, side)
    parts += make_head(identity, pose) + make_bag(identity, pose)
    # However the legs are bent, the lower foot stands on the ground.
    lowest = min(outline[:, 1].min() for part in parts for outline in part.outlines)
    parts = [
        dataclasses.replace(part, outlines=[o - (0, lowest) for o in part.outlines])
        for part in parts
    ]
    # The sort is stable: what was added later lies on top of its equals.
    return sorted(parts, key=lambda part: -part.depth)


# --- painting --------------------------------------------------------------------

# Where a cloth shows its second colour; x from the axis, y above ground, in heights.
PATTERNS = {
    'plain': lambda x, y, period: np.bool(False),
    'rings': lambda x, y, period: y % period < period / 2,
    'pinstripes': lambda x, y, period: x % period < period / 2,
    'check': lambda x, y, period: (x % period < period / 2) ^ (y % period < period / 2),
    'dots': lambda x, y, period: (
        np.hypot(x % period - period / 2, y % period - period / 2) < 0.3 * period
    ),
    'two-tone': lambda x, y, period: y < 0.67,
}


def weave(cloth, x, y):
    """Return a cloth's colours at columns x [w] and rows y [h], up to [h, w, 3].

    Axes along which the cloth does not change have length 1; float32.
    """
    is_second = PATTERNS[cloth.pattern](x[None], y[:, None], cloth.period)
    first, second = np.float32(cloth.first), np.float32(cloth.second)
    return np.where(np.atleast_2d(is_second)[..., None], second, first)


def paint(canvas, part, origin, scale, light):
    """Paint a Part, rounded by a shade that falls off towards its edges.

    Args:
        canvas: uint8 [H, W, 3], changed in place.
        part: the Part.
        origin: (x, y) pixel of the body's axis on the ground.
        scale: pixels per body height.
        light: where the light comes from, 0 = left, 1 = right.
    """
    flip = np.array([1, -1])  # Bodies grow upwards, rows downwards.
    outlines = [np.rint(origin + scale * flip * o).astype(int) for o in part.outlines]
    corners = np.concatenate(outlines)
    left, top = np.maximum(corners.min(axis=0), 0)
    right, bottom = np.minimum(corners.max(axis=0) + 1, canvas.shape[1::-1])
    if left >= right or top >= bottom:
        return
    mask = np.zeros((bottom - top, right - left), np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [outline - (left, top)], 255)
    size = max(3, int(0.07 * scale))
    anchor = (int((0.2 + 0.6 * light) * size), size // 2)
    soft = cv2.blur(mask, (size, size), anchor=anchor, borderType=cv2.BORDER_CONSTANT)
    shade = 0.55 + soft.astype(np.float32) * (0.5 / 255)
    x = (np.arange(left, right) - origin[0]) / scale
    y = (origin[1] - np.arange(top, bottom)) / scale
    colours = np.minimum(weave(part.cloth, x, y) * shade[..., None], 255)
    region = canvas[top:bottom, left:right]
    cv2.copyTo(colours.astype(np.uint8), mask, region)


def paint_body(canvas, identity, pose, framing, light):
    """Paint a person and the shadow at the feet onto `canvas`, in place."""
    height, width = canvas.shape[:2]
    scale = framing.body_height * identity.height * height
    origin = np.array([framing.x * width, framing.ground * height])
    shadow = make_ellipse(origin, (0.2 * scale, 0.03 * scale))
    darker = canvas.copy()
    cv2.fillPoly(darker, [np.rint(shadow).astype(int)], (40, 40, 45))
    cv2.addWeighted(darker, 0.45, canvas, 0.55, 0, dst=canvas)
    for part in make_body(identity, pose):
        paint(canvas, part, origin, scale, light)


# --- scenes ----------------------------------------------------------------------


def paint_ground(scene, horizon, colour, line_colour, num_lines):
    """Paint a floor whose joints run to a vanishing point; rows below `horizon`."""
    height, width = scene.shape[:2]
    scene[horizon:] = colour
    vanishing_point = (width // 2, horizon - height // 4)
    for x in np.linspace(-2 * width, 3 * width, num_lines).astype(int):
        cv2.line(scene, vanishing_point, (x, height), line_colour, 2)
    for t in np.linspace(0.1, 1, 9):
        row = int(horizon + (height - horizon) * t**2)
        cv2.line(scene, (0, row), (width, row), line_colour, 2)


def mute(rng, darkest, brightest):
    """Return a random RGB colour with little hue, as buildings have."""
    grey = rng.integers(darkest, brightest)
    return np.clip(grey + rng.integers(-25, 26, 3), 0, 255).tolist()


def paint_pavement(scene, rng):
    """Paint a street: shop fronts and a hedge behind grey slabs."""
    height, width = scene.shape[:2]
    horizon = int(0.42 * height)
    paint_ground(scene, horizon, (150, 146, 140), (122, 118, 114), 60)
    scene[:horizon] = (168, 158, 146)
    for x in range(0, width, width // 9):
        colour = mute(rng, 60, 190)
        cv2.rectangle(scene, (x, 0), (x + width // 12, int(0.3 * height)), colour, -1)
    scene[int(0.34 * height) : horizon] = (80, 98, 72)
    for x in rng.integers(0, width, 5):
        cv2.line(scene, (x, 0), (x, int(0.6 * height)), (70, 70, 74), 9)


def paint_wall(scene, rng):
    """Paint a brick wall with doors and windows above a strip of asphalt."""
    height, width = scene.shape[:2]
    foot = int(0.74 * height)
    scene[:foot] = (150, 108, 92)
    for row in range(0, foot, 12):
        cv2.line(scene, (0, row), (width, row), (174, 146, 132), 2)
        for x in range(12 * (row // 12 % 2), width, 26):
            cv2.line(scene, (x, row), (x, row + 12), (174, 146, 132), 2)
    for x in range(width // 16, width, width // 5):
        colour = mute(rng, 50, 150)
        top, bottom = (0.2, 0.74) if rng.random() < 0.4 else (0.1, 0.42)
        corners = (x, int(top * height)), (x + width // 11, int(bottom * height))
        cv2.rectangle(scene, *corners, colour, -1)
        cv2.rectangle(scene, *corners, (214, 210, 204), 5)
    scene[foot:] = (98, 98, 104)
    scene[foot : foot + 8] = (170, 168, 162)


def paint_lawn(scene, rng):
    """Paint a park: trees before a bright sky, tufts of grass and a gravel path."""
    height, width = scene.shape[:2]
    horizon = int(0.30 * height)
    scene[:horizon] = (176, 196, 206)
    scene[horizon:] = (104, 128, 80)
    for _ in range(60):
        x, y = rng.integers(0, width), rng.integers(0, int(0.36 * height))
        green = (np.array([76, 98, 64]) * rng.uniform(0.6, 1.3)).tolist()
        cv2.circle(scene, (int(x), int(y)), int(rng.integers(15, 45)), green, -1)
    for x in rng.integers(0, width, 7):
        cv2.line(scene, (x, 0), (x, int(0.5 * height)), (76, 58, 44), 18)
    for _ in range(900):
        x, y = int(rng.integers(0, width)), int(rng.integers(horizon, height))
        green = (np.array([104, 128, 80]) * rng.uniform(0.7, 1.25)).tolist()
        cv2.line(scene, (x, y), (x + 3, y - 10), green, 2)
    path = np.array([[0, 0.80], [1, 0.70], [1, 0.84], [0, 0.98]]) * (width, height)
    cv2.fillPoly(scene, [path.astype(int)], (186, 172, 146))


def paint_corridor(scene, rng):
    """Paint an indoor corridor: pale walls, doors and posters, a tiled floor."""
    height, width = scene.shape[:2]
    foot = int(0.62 * height)
    paint_ground(scene, foot, (136, 138, 142), (108, 110, 116), 50)
    scene[:foot] = (206, 202, 188)
    scene[int(0.4 * height) : foot] = (150, 164, 170)
    for x in range(width // 20, width, width // 7):
        colour = mute(rng, 90, 210)
        if rng.random() < 0.5:
            cv2.rectangle(
                scene, (x, int(0.1 * height)), (x + width // 13, foot), colour, -1
            )
        else:
            corners = (x, int(0.12 * height)), (x + width // 18, int(0.3 * height))
            cv2.rectangle(scene, *corners, colour, -1)
    scene[foot : foot + 6] = (70, 66, 64)


SCENES = {
    'pavement': paint_pavement,
    'wall': paint_wall,
    'lawn': paint_lawn,
    'corridor': paint_corridor,
}


@functools.cache
def draw_scene(camera):
    """Return all a camera can see, read-only uint8 [H, W, 3], larger than an image."""
    rng = make_rng(camera.cid)
    height, width = HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING
    scene = np.zeros((int(1.15 * height), 5 * width, 3), np.uint8)
    SCENES[camera.scene](scene, rng)
    grain = rng.normal(0, 6, (scene.shape[0], scene.shape[1], 1))
    scene = np.clip(cv2.GaussianBlur(scene, (0, 0), 2) + grain, 0, 255)
    scene = scene.astype(np.uint8)
    scene.setflags(write=False)
    return scene


def crop_scene(camera, rng):
    """Return a random piece of a camera's scene, a supersampled canvas to paint on."""
    scene = draw_scene(camera)
    height, width = HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING
    top = rng.integers(0, scene.shape[0] - height + 1)
    left = rng.integers(0, scene.shape[1] - width + 1)
    return scene[top : top + height, left : left + width].copy()


# --- images ----------------------------------------------------------------------


def frame_well(rng, camera):
    """Return the Framing of a fair detection: the whole person, roughly centred."""
    return Framing(
        body_height=float(rng.uniform(*camera.body_heights)),
        x=float(0.5 + rng.normal(0, 0.04)),
        ground=float(0.965 + rng.normal(0, 0.015)),
    )


def frame_badly(rng, camera):
    """Return the Framing of a detector's mistake: most of the person is cut off."""
    x, ground = [(0.0, 1.0), (1.0, 1.0), (0.5, 1.6), (0.5, 0.45)][rng.integers(4)]
    return Framing(
        body_height=float(rng.uniform(0.9, 1.4)),
        x=float(x + rng.normal(0, 0.08)),
        ground=float(ground + rng.normal(0, 0.05)),
    )


def paint_passer_by(canvas, camera, rng):
    """Paint a stranger at the left or right edge of the canvas, in place."""
    framing = dataclasses.replace(
        frame_well(rng, camera), x=float(rng.choice([-0.12, 1.12]))
    )
    identity, pose = make_identity(rng), make_pose(rng, camera)
    paint_body(canvas, identity, pose, framing, rng.random())


def paint_obstacle(canvas, rng):
    """Paint a post or a low wall in front of everything, in place."""
    height, width = canvas.shape[:2]
    colour = mute(rng, 50, 190)
    if rng.random() < 0.5:
        x = int(rng.uniform(0.1, 0.85) * width)
        cv2.rectangle(canvas, (x, 0), (x + width // 10, height), colour, -1)
    else:
        row = int(rng.uniform(0.72, 0.88) * height)
        cv2.rectangle(canvas, (0, row), (width, height), colour, -1)


def photograph(canvas, camera, rng):
    """Return what the camera makes of a canvas: uint8 [128, 64, 3], RGB.

    Exposure, light from one side, white balance, gamma, blur and noise, in the order
    in which they befall a real image.
    """
    pixels = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) / 255
    side_light = 1 + rng.uniform(-0.12, 0.12) * np.linspace(-1, 1, WIDTH)  # [W]
    pixels *= rng.uniform(0.86, 1.12) * side_light[None, :, None]
    pixels *= np.multiply(camera.gains, rng.normal(1, 0.02, 3))
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + camera.saturation * (pixels - grey)
    pixels = np.clip(pixels, 0, 1) ** camera.gamma
    pixels = cv2.GaussianBlur(pixels, (0, 0), camera.blur * rng.uniform(0.8, 1.4))
    pixels += rng.normal(0, rng.uniform(0.005, 0.02), pixels.shape)
    return np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def draw_person(identity, camera, rng, frame=frame_well):
    """Return an image of a person, uint8 [128, 64, 3], RGB.

    Args:
        identity: Identity; None leaves the scene empty.
        camera: Camera.
        rng: NumPy generator; pose, framing, occlusion, light and noise come from it.
        frame: frame_well or frame_badly.
    """
    canvas = crop_scene(camera, rng)
    if rng.random() < 0.08:
        paint_passer_by(canvas, camera, rng)
    if identity is not None:
        pose, framing = make_pose(rng, camera), frame(rng, camera)
        paint_body(canvas, identity, pose, framing, rng.random())
    obstacle = rng.random()
    if obstacle < 0.05:
        paint_obstacle(canvas, rng)
    elif obstacle < 0.10:
        paint_passer_by(canvas, camera, rng)
    return photograph(canvas, camera, rng)


# --- the data set ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shot:
    """One image to draw: its subset, its name's numbers, and who is in it."""

    subset: str
    pid: int  # 0 = distractor, -1 = junk, as Market-1501 writes them.
    camera: Camera
    index: int  # Among the images of this PID and camera.
    person: int | None = None  # Number of the identity; None = nobody.
    is_framed_well: bool = True


def split_pids(seed, num_train_pids, num_test_pids):
    """Return (train, test): sorted lists of PIDs from 1 on, mixed as Market-1501's."""
    num_pids = num_train_pids + num_test_pids
    pids = 1 + make_rng(PLAN_STREAM, seed).permutation(num_pids)
    train_pids, test_pids = np.split(pids, [num_train_pids])
    return sorted(train_pids.tolist()), sorted(test_pids.tolist())


def plan_people(seed, train_pids, test_pids):
    """Yield the Shots of the known people.

    Per camera, a training identity has four or five images; a test identity has one
    query and three gallery images.
    """
    for pid in train_pids:
        for camera in CAMERAS:
            num_images = make_rng(PLAN_STREAM, seed, pid, camera.cid).integers(4, 6)
            for index in range(num_images):
                yield Shot('bounding_box_train', pid, camera, index, pid)
    for pid in test_pids:
        for camera in CAMERAS:
            yield Shot('query', pid, camera, 0, pid)
            for index in range(1, 4):
                yield Shot('bounding_box_test', pid, camera, index, pid)


def plan_nuisances(first_stranger, test_pids, num_distractors, num_junk):
    """Yield the Shots that hold no identity to be found.

    Distractors are in turn empty scenes, strangers, and pieces of strangers, whose
    numbers begin at `first_stranger`; junk is pieces of the test identities.
    """
    for index in range(num_distractors):
        camera = CAMERAS[index % len(CAMERAS)]
        person = first_stranger + index if index % 3 else None
        yield Shot('bounding_box_test', 0, camera, index, person, index % 3 < 2)
    for index in range(num_junk):
        camera = CAMERAS[index % len(CAMERAS)]
        person = test_pids[index % len(test_pids)]
        yield Shot('bounding_box_test', -1, camera, index, person, False)


def draw_shot(seed, shot):
    """Return (file name, uint8 [128, 64, 3] RGB): a function of seed and shot alone."""
    cid, pid = shot.camera.cid, shot.pid
    rng = make_rng(IMAGE_STREAM, seed, pid + 1, cid, shot.index)
    identity = None
    if shot.person is not None:
        identity = make_identity(make_rng(IDENTITY_STREAM, seed, shot.person))
    frame = frame_well if shot.is_framed_well else frame_badly
    image = draw_person(identity, shot.camera, rng, frame)
    pid_text = '-1' if pid == -1 else f'{pid:04d}'
    # The index in the hundreds keeps two images of a tracklet from sharing a frame.
    number = 100 * shot.index + rng.integers(100)
    name = f'{pid_text}_c{cid}s{rng.integers(1, 7)}_{number:06d}_{shot.index % 100:02d}'
    return f'{name}.jpg', image


def encode(image, suffix, *flags):
    """Return an RGB image [H, W, 3] as the bytes of a file of type `suffix`."""
    is_encoded, content = cv2.imencode(suffix, image[..., ::-1], flags)
    if not is_encoded:
        raise ValueError(f'OpenCV cannot encode {suffix} images')
    return content.tobytes()


def write_dataset(
    output_dir,
    seed=0,
    *,
    num_train_pids=60,
    num_test_pids=40,
    num_distractors=60,
    num_junk=30,
):
    """Draw the data set into `output_dir`, which appears only when it is complete.

    Args:
        output_dir: directory to create, or an empty one, or one that already holds
            this very data set, which is left alone.
        seed: non-negative integer.
        num_train_pids, num_test_pids: number of identities, at least 1 each.
        num_distractors, num_junk: number of gallery images of PID 0000 and of -1.

    Returns:
        True if the data set was drawn, False if it was there.

    Raises:
        FileError: the directory holds something else.
    """
    settings = {
        'seed': seed,
        'num_train_pids': num_train_pids,
        'num_test_pids': num_test_pids,
        'num_distractors': num_distractors,
        'num_junk': num_junk,
    }
    output_dir = os.path.realpath(output_dir)
    if is_complete(output_dir, settings):
        return False
    train_pids, test_pids = split_pids(seed, num_train_pids, num_test_pids)
    first_stranger = 1 + num_train_pids + num_test_pids
    shots = [
        *plan_people(seed, train_pids, test_pids),
        *plan_nuisances(first_stranger, test_pids, num_distractors, num_junk),
    ]
    with complete_directory(output_dir) as directory:
        counts = write_images(directory, seed, shots)
        common.write_json(os.path.join(directory, MARKER), settings | counts)
    return True


def is_complete(directory, settings):
    """Return whether a directory holds the data set of `settings`; False if empty.

    Raises:
        FileError: it holds something else, or only some of the images.
    """
    if not os.path.lexists(directory):
        return False
    if not os.path.isdir(directory):
        raise common.FileError(f'{directory} is a file, expected a directory')
    if not os.listdir(directory):
        return False
    refusal = 'choose a new directory or remove this one'
    try:
        text = pathlib.Path(directory, MARKER).read_text(encoding='utf-8')
        found = json.loads(text)
        counts = {subset: found[subset] for subset in SUBSETS}
    except (OSError, ValueError, LookupError, TypeError):
        raise common.FileError(
            f'{directory} is not empty and no demo data set; {refusal}'
        ) from None
    for name, value in settings.items():
        if found.get(name) != value:
            raise common.FileError(
                f'{directory} holds a demo data set of {name} {found.get(name)}, '
                f'not {value}; {refusal}'
            )
    if counts != count_images(directory):
        raise common.FileError(
            f'{directory} has lost or gained images since it was drawn; {refusal}'
        )
    return True


def count_images(directory):
    """Return the number of .jpg files of each subset, as a dict."""
    return {
        subset: len(list(pathlib.Path(directory, subset).glob('*.jpg')))
        for subset in SUBSETS
    }


@contextlib.contextmanager
def complete_directory(directory):
    """Yield a temporary directory that becomes `directory` only if the block succeeds.

    It sits beside `directory`, so that the final rename is atomic; on an error it is
    removed. `directory` may exist if it is empty.
    """
    parent, name = os.path.split(directory)
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(dir=parent, prefix=f'.{name}.', suffix='.partial')
    try:
        # mkdtemp makes directories private; within, a result gets usual permissions.
        result = os.path.join(temporary, name)
        os.mkdir(result)
        yield result
        os.rename(result, directory)
    finally:
        shutil.rmtree(temporary)


def write_images(directory, seed, shots):
    """Draw `shots` into the subsets' folders; return the number in each, as a dict."""
    for subset in SUBSETS:
        os.mkdir(os.path.join(directory, subset))
    for shot in shots:
        name, image = draw_shot(seed, shot)
        content = encode(image, '.jpg', cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
        pathlib.Path(directory, shot.subset, name).write_bytes(content)
    return count_images(directory)


# --- looking at it ---------------------------------------------------------------


def read_tracklets(directory, subset):
    """Return the images of a subset as {pid: {cid: [images]}}, sorted by name.

    PID and CID are strings, as they stand in the file names; images uint8 RGB.
    """
    tracklets = {}
    for filename in sorted(pathlib.Path(directory, subset).glob('*.jpg')):
        pid, camera = filename.name.split('_')[:2]
        image = cv2.imread(str(filename))[..., ::-1]
        tracklets.setdefault(pid, {}).setdefault(camera[1], []).append(image)
    return tracklets


def make_contact_sheet(directory, num_rows=12, num_per_camera=3):
    """Return an overview of a data set, uint8 [H, W, 3], RGB.

    The first rows are training identities, the last two distractors and junk; four
    blocks side by side are the cameras, each with its first images.
    """
    train = read_tracklets(directory, 'bounding_box_train')
    gallery = read_tracklets(directory, 'bounding_box_test')
    rows = [train[pid] for pid in list(train)[:num_rows]]
    rows += [gallery[pid] for pid in ('0000', '-1') if pid in gallery]
    gap = 4  # Pixels of white around each image, and once more between cameras.
    height, width = HEIGHT + gap, num_per_camera * (WIDTH + gap) + gap
    sheet = np.full((len(rows) * height, len(CAMERAS) * width, 3), 255, np.uint8)
    for row, tracklets in enumerate(rows):
        for column, camera in enumerate(CAMERAS):
            images = tracklets.get(str(camera.cid), [])[:num_per_camera]
            for i, image in enumerate(images):
                top, left = row * height, column * width + i * (WIDTH + gap)
                sheet[top : top + HEIGHT, left : left + WIDTH] = image
    return sheet


def write_contact_sheet(filename, directory):
    """Write the contact sheet of a data set as a PNG file."""
    content = encode(make_contact_sheet(directory), '.png')
    with common.complete_file(filename) as temporary:
        pathlib.Path(temporary).write_bytes(content)


def main(argv=None):
    args = build_parser().parse_args(argv)
    is_new = write_dataset(args.output_dir, args.seed)
    counts = count_images(args.output_dir).items()
    print(
        f'{args.output_dir} {"now" if is_new else "already"} holds the demo data set '
        f'of seed {args.seed}: {", ".join(f"{n} {subset}" for subset, n in counts)}'
    )
    if args.contact_sheet:
        write_contact_sheet(args.contact_sheet, args.output_dir)
        print(f'wrote {args.contact_sheet}')
    return 0


if __name__ == '__main__':
    common.run(main)
