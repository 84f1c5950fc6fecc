"""Which images the data set has, and each of them drawn."""

import dataclasses

import numpy as np

from drawn_people.images import draw_person, frame_badly, frame_well
from drawn_people.people import make_identity, make_rng
from drawn_people.scenes import CAMERAS, Camera

# First words of the random streams, so that no two uses share one.
IDENTITY_STREAM, IMAGE_STREAM, PLAN_STREAM = range(3)


@dataclasses.dataclass(frozen=True)
class Shot:
    """One image to draw: its subset, its name's numbers, and who is in it.

    Attributes:
        subset: one of files.SUBSETS.
        pid: 0 = distractor, -1 = junk, as Market-1501 writes them.
        camera: that takes it.
        index: among the images of this PID and camera.
        person: number of the identity; None = nobody.
        is_framed_well: the whole person is in the image, as far as nobody is in front.
    """

    subset: str
    pid: int
    camera: Camera
    index: int
    person: int | None = None
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
