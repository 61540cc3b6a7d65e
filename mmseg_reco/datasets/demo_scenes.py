# Licensed under the Apache License, Version 2.0.
"""A procedural little world for the demo: drawn, not downloaded.

Scenes are painted back to front (sky, hills, meadow, road, then objects by distance) into maps of
albedo, label and material; one vectorised pass then adds texture, haze, light and noise.
Some classes are confusable on purpose: a pine has the leaves of a tree, a bus the paint of a car,
walls come in the colour of straw, a white sheep in that of a cloud or of a white bus.
"""

import os.path as osp
from collections.abc import Callable, Sequence

import numpy as np
from mmengine.utils import mkdir_or_exist
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image

CLASSES = ('sky', 'meadow', 'road', 'house', 'tree', 'pine', 'car', 'bus', 'sheep')
# Told apart under simulated protanopia and deuteranopia as well (a test measures it).
PALETTE = [
    [136, 205, 240],
    [192, 200, 48],
    [85, 85, 85],
    [218, 116, 110],
    [13, 109, 47],
    [24, 205, 172],
    [218, 109, 30],
    [84, 0, 30],
    [255, 255, 255],
]
SKY, MEADOW, ROAD, HOUSE, TREE, PINE, CAR, BUS, SHEEP = range(len(CLASSES))

# Materials: rows of the texture stack built in `_textures`.
SMOOTH, GRASS, ASPHALT, LEAVES, BRICK, PAINT, WOOL, CLOUD = range(8)

HEIGHT, WIDTH = 64, 96
_UP = 3  # scenes are painted at three times the size and averaged down, for smooth edges
_H, _W = HEIGHT * _UP, WIDTH * _UP

_SKIES = [(105, 160, 225), (170, 182, 196), (222, 172, 140), (92, 124, 172)]
_GRASSES = [(104, 158, 66), (128, 160, 78), (170, 156, 88)]
_LEAVES = [(40, 84, 42), (60, 100, 44), (166, 92, 42)]
_PAINTS = [(198, 44, 40), (46, 86, 186), (228, 180, 46), (232, 232, 226)]
_WALLS = [(176, 84, 64), (206, 182, 140), (204, 150, 92)]
_ROOFS = [(122, 52, 42), (84, 76, 78)]
_COATS = [(238, 234, 224), (214, 204, 188), (78, 68, 66)]


class _Canvas:
    """Albedo (RGB), label, material and nearness (0 far, 255 near) of a scene being painted."""

    def __init__(self) -> None:
        self.albedo = np.zeros((_H, _W, 3), np.uint8)
        self.label = np.zeros((_H, _W), np.uint8)
        self.material = np.zeros((_H, _W), np.uint8)
        self.near = np.zeros((_H, _W), np.uint8)

    def fill(
        self, points: np.ndarray, colour: Sequence[float], label: int, material: int, near: float
    ) -> None:
        """Paint a polygon ``points`` (n, 2), in (x, y)."""
        window, inside = _rasterize(points)
        self.albedo[window][inside] = np.clip(colour, 0, 255)
        self.label[window][inside] = label
        self.material[window][inside] = material
        self.near[window][inside] = 255 * near

    def darken(self, points: np.ndarray, factor: float) -> None:
        """Multiply the albedo inside a polygon: a shadow on what is already there."""
        window, inside = _rasterize(points)
        self.albedo[window][inside] = self.albedo[window][inside] * factor


def _rasterize(points: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
    """Window around a polygon and the pixels in it whose centre lies inside (even-odd rule).

    Not ``cv2.fillPoly``, which draws other outlines in OpenCV 4 than in OpenCV 5.
    """
    left, top = np.clip(np.floor(points.min(0)).astype(int), 0, (_W, _H))
    right, bottom = np.clip(np.ceil(points.max(0)).astype(int), 0, (_W, _H))
    x, y = np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5
    (x1, y1), (x2, y2) = points.T[..., None], np.roll(points, -1, 0).T[..., None]
    crosses = (y1 > y) != (y2 > y)  # (edges, rows)
    rise = np.where(y1 == y2, 1, y2 - y1)  # a level edge crosses no row
    crossing = x1 + (x2 - x1) * (y - y1) / rise
    inside = np.logical_xor.reduce(crosses[..., None] & (x < crossing[..., None]), axis=0)
    return (slice(top, bottom), slice(left, right)), inside


def _disc(x: float, y: float, rx: float, ry: float, corners: int = 20) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def _pick(
    rng: np.random.RandomState, colours: Sequence[Sequence[int]], spread: float = 10.0
) -> np.ndarray:
    """One of the colours, varied."""
    colour = np.array(colours[rng.randint(len(colours))], float)
    return colour * rng.uniform(0.88, 1.12) + rng.uniform(-spread, spread, 3)


def _noise(rng: np.random.RandomState, cell_y: float, cell_x: float) -> np.ndarray:
    """Value noise in [-1, 1] of shape (_H, _W): random knots, bilinear between them."""
    y, x = np.arange(_H) / cell_y, np.arange(_W) / cell_x
    top, left = y.astype(int), x.astype(int)
    y, x = (y - top)[:, None], x - left
    noise = rng.uniform(-1, 1, (top[-1] + 2, left[-1] + 2))
    noise = noise[top] * (1 - y) + noise[top + 1] * y
    return noise[:, left] * (1 - x) + noise[:, left + 1] * x


def _textures(rng: np.random.RandomState) -> np.ndarray:
    """Relative brightness of every material at every pixel, (materials, _H, _W)."""
    fine, medium, coarse = _noise(rng, 2, 2), _noise(rng, 6, 6), _noise(rng, 24, 32)
    y, x = np.mgrid[:_H, :_W]
    row = y // 6
    mortar = (y % 6 == 0) | ((x + 5 * (row % 2)) % 10 == 0)
    stack = np.zeros((8, _H, _W))
    stack[GRASS] = 0.14 * _noise(rng, 5, 2) + 0.10 * medium + 0.12 * coarse
    stack[ASPHALT] = 0.10 * fine + 0.05 * coarse
    stack[LEAVES] = 0.34 * medium + 0.20 * fine
    stack[BRICK] = 0.08 * fine - 0.26 * mortar
    stack[PAINT] = 0.05 * coarse
    stack[WOOL] = 0.18 * _noise(rng, 3, 3)
    stack[CLOUD] = 0.06 * coarse
    return 1 + stack


def _house(
    canvas: _Canvas, rng: np.random.RandomState, x: float, y: float, size: float, near: float
) -> None:
    half, wall = size * rng.uniform(0.42, 0.62), size * rng.uniform(0.5, 0.62)
    walls, roof = _pick(rng, _WALLS), _pick(rng, _ROOFS)
    canvas.fill(_box(x - half, y - wall, x + half, y), walls, HOUSE, BRICK, near)
    ridge = half * rng.uniform(0.2, 0.8)
    chimney = x + rng.choice([-1, 1]) * ridge * 0.6
    canvas.fill(
        _box(chimney - 0.05 * size, y - 1.02 * size, chimney + 0.05 * size, y - wall),
        walls * 0.8,
        HOUSE,
        BRICK,
        near,
    )
    canvas.fill(
        np.array(
            [
                [x - 1.12 * half, y - wall],
                [x - ridge, y - size * 0.95],
                [x + ridge, y - size * 0.95],
                [x + 1.12 * half, y - wall],
            ]
        ),
        roof,
        HOUSE,
        ASPHALT,
        near,
    )
    glass = np.array([70, 88, 110]) * rng.uniform(0.7, 1.4)
    for column in (-0.62, 0.0, 0.62):
        left = x + column * half - 0.13 * half
        canvas.fill(
            _box(left, y - 0.82 * wall, left + 0.26 * half, y - 0.5 * wall),
            glass,
            HOUSE,
            SMOOTH,
            near,
        )
    canvas.fill(
        _box(x - 0.12 * half, y - 0.36 * wall, x + 0.12 * half, y),
        walls * 0.45,
        HOUSE,
        SMOOTH,
        near,
    )


def _trunk(
    canvas: _Canvas,
    rng: np.random.RandomState,
    x: float,
    y: float,
    size: float,
    label: int,
    near: float,
) -> None:
    canvas.fill(
        _box(x - 0.045 * size, y - 0.4 * size, x + 0.045 * size, y),
        _pick(rng, [(98, 72, 50)]),
        label,
        LEAVES,
        near,
    )


def _tree(
    canvas: _Canvas, rng: np.random.RandomState, x: float, y: float, size: float, near: float
) -> None:
    _trunk(canvas, rng, x, y, size, TREE, near)
    leaves = _pick(rng, _LEAVES)
    canvas.fill(
        _disc(x, y - 0.64 * size, 0.3 * size, 0.3 * size), leaves * 0.86, TREE, LEAVES, near
    )
    for _ in range(7):
        dx, dy = rng.uniform(-0.25, 0.25), rng.uniform(-0.24, 0.22)
        canvas.fill(
            _disc(x + dx * size, y + (dy - 0.64) * size, 0.15 * size, 0.14 * size),
            leaves * (0.96 - 0.5 * dy),
            TREE,
            LEAVES,
            near,
        )


def _pine(
    canvas: _Canvas, rng: np.random.RandomState, x: float, y: float, size: float, near: float
) -> None:
    _trunk(canvas, rng, x, y, size, PINE, near)
    leaves = _pick(rng, _LEAVES)
    for level, (base, half) in enumerate(((0.14, 0.30), (0.38, 0.24), (0.62, 0.16))):
        canvas.fill(
            np.array(
                [
                    [x - half * size, y - base * size],
                    [x, y - (base + 0.38) * size],
                    [x + half * size, y - base * size],
                ]
            ),
            leaves * (0.86 + 0.12 * level),
            PINE,
            LEAVES,
            near,
        )


def _wheels(
    canvas: _Canvas, x: float, y: float, offset: float, radius: float, label: int, near: float
) -> None:
    for side in (-1, 1):
        for scale, grey in ((1.0, 26), (0.45, 140)):
            canvas.fill(
                _disc(x + side * offset, y - radius, scale * radius, scale * radius),
                [grey] * 3,
                label,
                SMOOTH,
                near,
            )


def _car(
    canvas: _Canvas, rng: np.random.RandomState, x: float, y: float, size: float, near: float
) -> None:
    paint, side = _pick(rng, _PAINTS), rng.choice([-1, 1])

    def outline(points: Sequence[tuple[float, float]]) -> np.ndarray:
        return np.array([[x + side * px * size, y - py * size] for px, py in points])

    canvas.fill(
        outline(
            [
                (-0.5, 0.08),
                (-0.5, 0.26),
                (-0.3, 0.3),
                (-0.2, 0.45),
                (0.14, 0.45),
                (0.28, 0.29),
                (0.5, 0.23),
                (0.5, 0.08),
            ]
        ),
        paint,
        CAR,
        PAINT,
        near,
    )
    glass = np.array([60, 74, 92]) * rng.uniform(0.8, 1.5)
    canvas.fill(
        outline([(-0.24, 0.3), (-0.17, 0.41), (-0.04, 0.41), (-0.04, 0.3)]),
        glass,
        CAR,
        SMOOTH,
        near,
    )
    canvas.fill(outline([(0, 0.3), (0, 0.41), (0.12, 0.41), (0.21, 0.3)]), glass, CAR, SMOOTH, near)
    canvas.fill(
        outline([(0.45, 0.2), (0.45, 0.15), (0.5, 0.15), (0.5, 0.2)]),
        (250, 240, 190),
        CAR,
        SMOOTH,
        near,
    )
    _wheels(canvas, x, y, 0.29 * size, 0.095 * size, CAR, near)


def _bus(
    canvas: _Canvas, rng: np.random.RandomState, x: float, y: float, size: float, near: float
) -> None:
    paint = _pick(rng, _PAINTS)
    left, right, top = x - 0.5 * size, x + 0.5 * size, y - 0.44 * size
    canvas.fill(_box(left, top, right, y - 0.05 * size), paint, BUS, PAINT, near)
    canvas.fill(_box(left, top, right, top + 0.05 * size), paint * 0.75, BUS, PAINT, near)
    glass = np.array([60, 74, 92]) * rng.uniform(0.8, 1.5)
    for start in np.linspace(-0.46, 0.34, 6):
        canvas.fill(
            _box(x + start * size, y - 0.35 * size, x + (start + 0.12) * size, y - 0.2 * size),
            glass,
            BUS,
            SMOOTH,
            near,
        )
    _wheels(canvas, x, y, 0.31 * size, 0.075 * size, BUS, near)


def _sheep(
    canvas: _Canvas, rng: np.random.RandomState, x: float, y: float, size: float, near: float
) -> None:
    coat, side = _pick(rng, _COATS), rng.choice([-1, 1])
    dark = coat * 0.35 if coat.mean() > 110 else coat * 2.2
    for leg in (-0.3, -0.2, 0.18, 0.28):
        canvas.fill(
            _box(x + (leg - 0.035) * size, y - 0.3 * size, x + (leg + 0.035) * size, y),
            dark,
            SHEEP,
            SMOOTH,
            near,
        )
    for _ in range(8):
        dx, dy = rng.uniform(-0.3, 0.3), rng.uniform(-0.11, 0.11)
        canvas.fill(
            _disc(x + dx * size, y + (dy - 0.42) * size, 0.15 * size, 0.14 * size),
            coat * (0.92 - 0.8 * dy),
            SHEEP,
            WOOL,
            near,
        )
    canvas.fill(_disc(x, y - 0.42 * size, 0.42 * size, 0.22 * size), coat, SHEEP, WOOL, near)
    canvas.fill(
        _disc(x + side * 0.47 * size, y - 0.56 * size, 0.13 * size, 0.11 * size),
        dark,
        SHEEP,
        SMOOTH,
        near,
    )


# Painter, size at the front of the scene (in painted pixels), most of them in a scene, and the
# range of nearness in which they stand; buses and cars keep to a road that runs across the scene.
_OBJECTS: dict[int, tuple[Callable, float, int, float, float]] = {
    HOUSE: (_house, 124.0, 2, 0.05, 0.55),
    TREE: (_tree, 130.0, 2, 0.05, 0.8),
    PINE: (_pine, 134.0, 2, 0.05, 0.8),
    CAR: (_car, 104.0, 2, 0.2, 0.95),
    BUS: (_bus, 132.0, 2, 0.15, 0.9),
    SHEEP: (_sheep, 84.0, 2, 0.25, 1.0),
}


def _ground(canvas: _Canvas, rng: np.random.RandomState, horizon: int, sky: np.ndarray) -> float:
    """Paint everything behind the objects; return the nearness of a road across, or -1."""
    depth = _H - horizon
    canvas.albedo[:horizon] = sky
    canvas.label[:], canvas.material[:] = SKY, CLOUD
    pale = np.linspace(0, 0.45, horizon)[:, None, None]
    canvas.albedo[:horizon] = canvas.albedo[:horizon] * (1 - pale) + 235 * pale
    for _ in range(rng.randint(0, 4)):
        cx, cy, width = rng.uniform(0, _W), rng.uniform(0, 0.7 * horizon), rng.uniform(14, 34)
        for _ in range(5):
            canvas.fill(
                _disc(
                    cx + rng.uniform(-width, width),
                    cy + rng.uniform(-4, 4),
                    0.6 * width,
                    0.22 * width,
                ),
                sky * 0.35 + 160,
                SKY,
                CLOUD,
                0,
            )

    green = _pick(rng, _GRASSES)
    for distance in range(rng.randint(0, 3), 0, -1):
        knots = horizon - rng.uniform(0.0, 0.2 * distance, 7) * horizon
        crest = np.stack([np.linspace(0, _W, 7), knots], 1)
        canvas.fill(
            np.concatenate([crest, [[_W, horizon], [0, horizon]]]),
            green * 0.85,
            MEADOW,
            GRASS,
            0.02,
        )
    canvas.fill(_box(0, horizon, _W, _H), green, MEADOW, GRASS, 0)
    canvas.near[horizon:] = np.linspace(0, 255, depth).astype(np.uint8)[:, None]
    near = canvas.near.copy()

    across, grey = -1.0, _pick(rng, [(122, 122, 126), (98, 98, 104), (150, 144, 136)], 8.0)
    kind = rng.uniform()
    if kind < 0.62:
        across = rng.uniform(0.25, 0.75)
        middle, half, tilt = horizon + across * depth, 9 + 17 * across, rng.uniform(-9, 9)
        canvas.fill(
            np.array(
                [
                    [0, middle - half - tilt],
                    [_W, middle - half + tilt],
                    [_W, middle + half + tilt],
                    [0, middle + half - tilt],
                ]
            ),
            grey,
            ROAD,
            ASPHALT,
            across,
        )
        for start in range(rng.randint(0, 24), _W, 34):
            shift = middle + tilt * (2 * start / _W - 1)
            canvas.fill(
                _box(start, shift - 1, start + 14, shift + 1), grey + 70, ROAD, SMOOTH, across
            )
    elif kind < 0.85:
        top, bottom = rng.uniform(0.2, 0.8) * _W, rng.uniform(0.2, 0.8) * _W
        canvas.fill(
            np.array(
                [[top - 4, horizon], [top + 4, horizon], [bottom + 62, _H], [bottom - 62, _H]]
            ),
            grey,
            ROAD,
            ASPHALT,
            0,
        )
        canvas.fill(
            np.array([[top, horizon], [bottom + 3, _H], [bottom - 3, _H]]),
            grey + 60,
            ROAD,
            SMOOTH,
            0,
        )
    canvas.near = near
    return across


def render_scene(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    The stream of ``numpy.random.RandomState`` is frozen, arithmetic is in float64 and rounded at
    the end, so that the same ``(seed, index)`` gives the same scene everywhere, in any order.

    Args:
        seed (int): Seed of the world, >= 0.
        index (int): Number of the scene in it, >= 0.

    Returns:
        tuple: Image (64, 96, 3) uint8, RGB, and label (64, 96) uint8, indices into ``CLASSES``.
    """
    rng = np.random.RandomState([seed, index])
    canvas = _Canvas()
    horizon = rng.randint(int(0.28 * _H), int(0.5 * _H))
    sky = _pick(rng, _SKIES, 10.0)
    across = _ground(canvas, rng, horizon, sky)

    objects: list[tuple[float, int, float, float]] = []
    for label, (_, size, most, first, last) in _OBJECTS.items():
        for _ in range(rng.randint(0, most + 1)):
            near, x = rng.uniform(first, last), rng.uniform(0.04, 0.96) * _W
            if label in (CAR, BUS) and across >= 0:
                near = across + rng.uniform(0.02, 0.09)
            below = canvas.label[int(horizon + near * (_H - horizon)) - 1, int(x)]
            if below == ROAD and label in (HOUSE, TREE, PINE):
                continue
            objects.append((near, label, x, size * (0.5 + 0.5 * near) * rng.uniform(0.85, 1.15)))
    objects.sort()
    sun = rng.uniform(-0.4, 0.4)
    for near, _, x, size in objects:
        y = horizon + near * (_H - horizon)
        canvas.darken(_disc(x + sun * size, y, 0.5 * size, 0.07 * size), 0.6)
    for near, label, x, size in objects:
        _OBJECTS[label][0](canvas, rng, x, horizon + near * (_H - horizon), size, near)

    rows, columns = np.mgrid[:_H, :_W]
    image = canvas.albedo * _textures(rng)[canvas.material, rows, columns][..., None]
    is_sky = (canvas.label == SKY)[..., None]
    far = (1 - canvas.near[..., None] / 255.0) ** 2
    haze = np.where(is_sky, 0, rng.uniform(0.0, 0.35) * far)
    image = image * (1 - haze) + (sky * 0.5 + 115) * haze
    # Shadows of clouds drift over the land; then the light of the hour, and the sensor.
    cloud = 1 - rng.uniform(0, 0.45) * np.clip(1.5 * _noise(rng, 60, 90), 0, 1)[..., None]
    image = np.where(is_sky, image, image * cloud)
    image = image * rng.uniform(0.86, 1.12) * rng.uniform(0.94, 1.06, 3)
    image = image.reshape(HEIGHT, _UP, WIDTH, _UP, 3).mean((1, 3))
    image = image + rng.normal(0, rng.uniform(2, 6), image.shape)
    centres = slice(_UP // 2, None, _UP)
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8), canvas.label[centres, centres].copy()


def prepare(
    out_dir: str,
    num_train: int = 240,
    num_val: int = 60,
    num_labeled: int = 40,
    seed: int = 0,
) -> None:
    """Write a world in the usual layout: ``images/{train,val}`` and ``labels/{train,val}``, PNG.

    ``labeled.txt`` names the training scenes whose labels may be used, ``unlabeled.txt`` the rest.

    Args:
        out_dir (str): Folder to write to; made if it is missing.
        num_train (int): Training scenes.
        num_val (int): Validation scenes; they follow the training scenes, none is shared.
        num_labeled (int): Training scenes with labels, the first ones.
        seed (int): Seed of the world.
    """
    splits = dict(train=range(num_train), val=range(num_train, num_train + num_val))
    for split, numbers in splits.items():
        for kind in ('images', 'labels'):
            mkdir_or_exist(osp.join(out_dir, kind, split))
        for number in numbers:
            image, label = render_scene(seed, number)
            Image.fromarray(image).save(osp.join(out_dir, 'images', split, f'{number:04d}.png'))
            mask = Image.fromarray(label)
            mask.putpalette(np.array(PALETTE, np.uint8).tobytes())
            mask.save(osp.join(out_dir, 'labels', split, f'{number:04d}.png'))
    lists = dict(labeled=range(num_labeled), unlabeled=range(num_labeled, num_train))
    for name, numbers in lists.items():
        with open(osp.join(out_dir, f'{name}.txt'), 'w') as file:
            file.writelines(f'{number:04d}\n' for number in numbers)


@DATASETS.register_module()
class DemoSceneDataset(BaseSegDataset):
    """The scenes written by :func:`prepare`, as any other mmseg dataset."""

    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    def __init__(self, img_suffix: str = '.png', seg_map_suffix: str = '.png', **kwargs) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
