"""The parts of a person: legs, arms, trunk, head, and what is carried."""

import dataclasses

import numpy as np

from drawn_people.bodies import (
    FOREARM,
    HEAD_HEIGHT,
    HIP_HEIGHT,
    SHIN,
    SHOULDER_HEIGHT,
    THIGH,
    UPPER_ARM,
    make_ball,
    make_barrel,
    make_limb,
)
from drawn_people.people import Cloth


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
    toe = ankle + np.array([side * 0.012, -0.012, 0.07])
    radii = np.array([0.056, 0.042, 0.03]) * identity.girth
    is_bare = identity.bottom_style != 'trousers' or identity.top_style == 'dress'
    skin_radii = 0.72 * radii if is_bare else radii
    cloth = identity.skin if is_bare else identity.bottom
    leg = make_limb(joints, skin_radii, cloth, pose.yaw)
    shoe = make_limb([ankle, toe], (0.03, 0.02), identity.shoes, pose.yaw)
    parts = [leg, shoe.at_depth(leg.depth)]
    if identity.bottom_style == 'shorts':
        hem = 0.15 * joints[0] + 0.85 * joints[1]
        short_leg = [joints[0], hem]
        parts.append(
            make_limb(short_leg, (radii[0], 1.15 * radii[1]), identity.bottom, pose.yaw)
        )
    # Whatever the step, trunk and skirt hide the hips.
    return [part.at_depth(part.depth + 1) for part in parts]


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
        parts.append(part.at_depth(0.5))
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
        parts += [scalp, fringe.at_depth(-0.02)]
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
    parts = [crown.at_depth(-0.06)]
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
