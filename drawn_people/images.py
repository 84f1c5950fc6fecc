"""A person in front of a scene, as a camera's detector cuts it out."""

import dataclasses

import cv2
import numpy as np

from drawn_people.bodies import make_ellipse, make_pose
from drawn_people.limbs import make_body
from drawn_people.people import make_identity
from drawn_people.scenes import HEIGHT, WIDTH, crop_scene, mute


@dataclasses.dataclass(frozen=True)
class Framing:
    """Where the average person stands in the image, 1 = the image's height or width.

    Attributes:
        body_height: from the ground to the top of the head.
        x: of the body's axis; 0.5 is the middle.
        ground: of the feet, from the top; 1 is the lower edge.
    """

    body_height: float
    x: float
    ground: float


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
