"""What the four cameras see when nobody is there."""

import dataclasses
import functools

import cv2
import numpy as np

from drawn_people.people import make_rng

HEIGHT, WIDTH = 128, 64  # Pixels, as Market-1501.
# Drawing larger and averaging is the anti-aliasing; 4 looks no better and is slower.
SUPERSAMPLING = 3
CANVAS_HEIGHT, CANVAS_WIDTH = HEIGHT * SUPERSAMPLING, WIDTH * SUPERSAMPLING


@dataclasses.dataclass(frozen=True)
class Camera:
    """A viewpoint and its electronics; the four CAMERAS serve every seed.

    Attributes:
        cid: its number in file names.
        scene: what it sees, a key of SCENES.
        yaw: usual walking direction in degrees: 0 away, 90 right, 180 towards.
        gains: white balance: factors of red, green and blue.
        gamma: above 1 darkens the middle tones.
        saturation: 1 keeps colours, 0 is black and white.
        blur: standard deviation in pixels of the final image.
        body_heights: range of the average person's height, 1 = image height.
    """

    cid: int
    scene: str
    yaw: float
    gains: tuple
    gamma: float
    saturation: float
    blur: float
    body_heights: tuple


# Milder than real cameras, so that 300 iterations take a plain six-layer network from
# scratch past 80 % mAP (82 to 92 % on seeds 0 and 1); untrained, it stays below 10 %.
CAMERAS = (
    Camera(1, 'pavement', 180, (1.04, 1.0, 0.94), 0.97, 1.0, 0.3, (0.88, 0.94)),
    Camera(2, 'wall', 0, (0.94, 0.98, 1.06), 1.03, 0.95, 0.4, (0.85, 0.92)),
    Camera(3, 'lawn', 90, (0.97, 1.03, 0.94), 1.06, 0.95, 0.3, (0.88, 0.94)),
    Camera(4, 'corridor', 290, (1.05, 0.98, 1.00), 0.94, 0.9, 0.5, (0.86, 0.93)),
)


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
    scene = np.zeros((int(1.15 * CANVAS_HEIGHT), 5 * CANVAS_WIDTH, 3), np.uint8)
    SCENES[camera.scene](scene, rng)
    grain = rng.normal(0, 6, (scene.shape[0], scene.shape[1], 1))
    scene = np.clip(cv2.GaussianBlur(scene, (0, 0), 2) + grain, 0, 255)
    scene = scene.astype(np.uint8)
    scene.setflags(write=False)
    return scene


def crop_scene(camera, rng):
    """Return a random piece of a camera's scene, a supersampled canvas to paint on."""
    scene = draw_scene(camera)
    top = rng.integers(0, scene.shape[0] - CANVAS_HEIGHT + 1)
    left = rng.integers(0, scene.shape[1] - CANVAS_WIDTH + 1)
    return scene[top : top + CANVAS_HEIGHT, left : left + CANVAS_WIDTH].copy()
