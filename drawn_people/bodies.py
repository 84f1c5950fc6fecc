"""A person's body in three dimensions, and what of it a camera sees.

Points are (lateral, up, forward): to the person's right, above ground, ahead. Lengths
are in body heights: 1 is the height of a person of average build.
"""

import dataclasses
import itertools

import cv2
import numpy as np

from drawn_people.people import Cloth

HIP_HEIGHT, SHOULDER_HEIGHT, HEAD_HEIGHT = 0.5, 0.805, 0.925
THIGH, SHIN, UPPER_ARM, FOREARM = 0.235, 0.225, 0.165, 0.155

ANGLES = np.linspace(0, 2 * np.pi, 16, endpoint=False)
UNIT_CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)  # [16, 2]


@dataclasses.dataclass(frozen=True)
class Pose:
    """How a person stands in one image; angles in radians.

    Attributes:
        yaw: 0 walks away, pi / 2 to the right, pi towards the camera.
        phase: of the step.
        stride: largest angle of a leg to the vertical.
        elbow: bend of the arms.
    """

    yaw: float
    phase: float
    stride: float
    elbow: float


@dataclasses.dataclass(frozen=True)
class Part:
    """A visible piece of a person; the painter begins with the largest depth.

    Attributes:
        depth: away from the camera, in body heights.
        outlines: float [n, 2] polygons: right of the body's axis, above ground.
        cloth: what it is made of.
    """

    depth: float
    outlines: tuple
    cloth: Cloth

    def at_depth(self, depth):
        """Return the same Part, painted as if it were at another depth."""
        return dataclasses.replace(self, depth=depth)


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
        for pair in itertools.pairwise(circles)
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
