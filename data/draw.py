"""Stylised medical drawings for the sample data: radiographs, CT slices, ECG strips, fundi, smears, sections.

They carry the finding that a case is about (a lens-shaped bright area, a curved line in the lung, irregular QRS complexes)
and nothing of any patient. Grey images are float arrays [H, W] in 0..1; coordinates are fractions of the width and height,
(0, 0) at the top left. As on a real radiograph, the patient's left is on the viewer's right.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

GREY_LEVELS = 64  # few levels keep the PNGs small
STAINS = {"nucleus": (92, 58, 140), "plasma": (196, 160, 210), "ground": (244, 232, 240), "red": (214, 120, 120), "pink": (230, 160, 185)}


def draw(kind: str, finding: str, *, size: tuple[int, int], side: str, seed: int) -> Image.Image:
    """One drawing.

    Args:
        kind: "chest", "limb", "head_ct", "ultrasound", "oct", "ecg", "fundus", "smear" or "histology".
        finding: What it shows; the cases of bank/cases.json name them all.
        size: Width and height in pixels.
        side: "left" or "right": the patient's side of the finding, or the eye of a fundus photograph.
        seed: Same seed, same pixels.
    """
    rng = np.random.default_rng(seed)
    painter = {
        "chest": chest,
        "limb": limb,
        "head_ct": head_ct,
        "ultrasound": ultrasound,
        "oct": oct_section,
        "ecg": ecg,
        "fundus": fundus,
        "smear": smear,
        "histology": histology,
    }[kind]
    return painter(finding, size, 1 if side == "left" else -1, rng)


def chest(finding: str, size: tuple[int, int], sign: int, rng: np.random.Generator) -> Image.Image:
    """A frontal chest radiograph; `sign` +1 puts the finding on the patient's left, the viewer's right."""
    x, y = grid(size)
    image = 0.62 * ellipse(x, y, 0.5, 0.55, 0.47, 0.56)
    for direction in (-1, 1):
        lung = ellipse(x, y, 0.5 + direction * 0.21, 0.47, 0.155, 0.34)
        image -= 0.45 * lung
        if not (finding == "pneumothorax" and direction == sign):
            image += 0.10 * lung * (np.sin(60 * x + 9 * y) * np.sin(37 * y + 5 * x)) ** 2
    for rib in range(7):
        curve = 0.16 + 0.1 * rib + 0.5 * (np.abs(x - 0.5) - 0.2) ** 2
        image += 0.07 * np.exp(-(((y - curve) / 0.012) ** 2)) * ellipse(x, y, 0.5, 0.5, 0.4, 0.45)
    image += 0.2 * np.exp(-(((x - 0.5) / 0.035) ** 2)) * (y > 0.08)
    wide = 0.27 if finding == "cardiomegaly" else 0.15
    image += 0.35 * ellipse(x, y, 0.5 + 0.06, 0.66, wide, 0.17)
    image += 0.3 * soft(y - 0.82 + 0.25 * (np.abs(x - 0.5) - 0.2) ** 2 * 8, 0.02) * (np.abs(x - 0.5) < 0.42)
    image += _chest_finding(finding, x, y, sign)
    return grey(image, rng, noise=0.02, blur=0.6)


def _chest_finding(finding: str, x: np.ndarray, y: np.ndarray, sign: int) -> np.ndarray:
    u = (x - 0.5) * sign  # grows towards the side of the finding
    if finding == "pneumothorax":
        edge = np.hypot((u - 0.19) / 0.12, (y - 0.5) / 0.29)
        return 0.4 * np.exp(-(((edge - 1) / 0.03) ** 2)) * (u > 0.1) + 0.12 * (edge < 1) * (u > 0.08)
    if finding == "effusion":
        return 0.5 * soft(y - 0.62 + 1.2 * np.maximum(u - 0.16, 0), 0.02) * ((u > 0.03) & (u < 0.4))
    if finding == "lobar":
        bronchi = (np.abs((y - 0.5) - 0.5 * (u - 0.2)) < 0.012) | (np.abs((y - 0.55) + 0.4 * (u - 0.2)) < 0.012)
        return 0.42 * soft(y - 0.42, 0.008) * (1 - soft(y - 0.64, 0.05)) * ((u > 0.08) & (u < 0.36)) * (1 - 0.7 * bronchi)
    if finding == "mass":
        angle = np.arctan2(y - 0.36, u - 0.22)
        return 0.45 * soft(0.075 + 0.012 * np.sin(9 * angle) - np.hypot(u - 0.22, y - 0.36), 0.008)
    if finding == "cavity":
        radius = np.hypot(u - 0.2, (y - 0.27) * 1.1)
        return 0.4 * np.exp(-(((radius - 0.06) / 0.016) ** 2)) + 0.12 * np.exp(-((radius / 0.13) ** 2)) - 0.06 * (radius < 0.05)
    if finding == "cardiomegaly":
        return 0.15 * np.exp(-(((np.abs(u) - 0.11) / 0.05) ** 2)) * np.exp(-(((y - 0.34) / 0.1) ** 2))
    return np.zeros_like(x)


def limb(finding: str, size: tuple[int, int], sign: int, rng: np.random.Generator) -> Image.Image:
    """The shaft of a long bone: a break across it, or punched-out holes."""
    x, y = grid(size)
    shift = 0.1 * sign * (y > 0.52) if finding == "transverse" else 0.0
    centre = 0.5 + shift + 0.03 * np.sin(3 * y)
    half = 0.1 + 0.07 * (2 * y - 1) ** 4
    inside = soft(half - np.abs(x - centre), 0.008)
    cortex = np.exp(-(((np.abs(x - centre) - half + 0.025) / 0.022) ** 2))
    image = 0.25 * soft(0.33 - np.abs(x - 0.5), 0.05) + 0.3 * inside + 0.35 * cortex * inside
    if finding == "transverse":
        image -= 0.5 * np.exp(-(((y - 0.52 - 0.01 * np.sin(90 * x)) / 0.012) ** 2)) * inside
    else:
        for _ in range(7):
            cx, cy, radius = 0.5 + rng.uniform(-0.06, 0.06), rng.uniform(0.12, 0.88), rng.uniform(0.018, 0.04)
            image -= 0.38 * soft(radius - np.hypot(x - cx, (y - cy) * size[1] / size[0]), 0.005) * inside
    return grey(image, rng, noise=0.02, blur=0.7)


def head_ct(finding: str, size: tuple[int, int], sign: int, rng: np.random.Generator) -> Image.Image:
    """A transverse slice of the head: bone white, brain grey, spinal fluid dark, fresh blood bright."""
    x, y = grid(size)
    u = (x - 0.5) * sign
    radius = np.hypot((x - 0.5) / 0.42, (y - 0.5) / 0.46)
    brain = radius < 0.9
    image = np.where(radius < 1, 0.95, 0.0) * (radius >= 0.9) + 0.42 * brain
    image += 0.05 * brain * np.sin(38 * np.arctan2(y - 0.5, x - 0.5)) * (radius > 0.7) * (finding != "hydrocephalus")
    shift = 0.04 if finding in ("epidural", "subdural", "haemorrhage") else 0.0
    image -= 0.1 * np.exp(-(((u + shift * np.cos(3 * (y - 0.5))) / 0.006) ** 2)) * brain
    swell = 2.2 if finding == "hydrocephalus" else 1.0
    for direction in (-1, 1):
        squeeze = 0.35 if shift and direction == 1 else 1.0
        lobe = ellipse(u, y, direction * 0.07 - shift, 0.44, 0.033 * swell * squeeze, 0.11 * (1 + 0.3 * (swell - 1)), edge=0.06)
        image -= 0.3 * lobe * brain
    if finding == "epidural":
        lens = (np.hypot((u - 0.44) / 0.15, (y - 0.45) / 0.2) < 1) & brain
        image = np.where(lens, 0.85, image)
    if finding == "subdural":
        crescent = brain & (np.hypot((u + 0.06) / 0.42, (y - 0.5) / 0.46) > 0.9) & (u > 0) & (np.abs(y - 0.5) < 0.33)
        image = np.where(crescent, 0.64, image)
    if finding == "haemorrhage":
        image -= 0.12 * ellipse(u, y, 0.17, 0.5, 0.1, 0.12)
        image += 0.55 * ellipse(u, y, 0.17, 0.5, 0.075, 0.095)
    if finding == "ring":
        distance = np.hypot(u - 0.2, y - 0.36)
        image -= 0.14 * soft(0.14 - distance, 0.02) * brain
        image += 0.4 * np.exp(-(((distance - 0.07) / 0.013) ** 2)) - 0.08 * (distance < 0.06)
    return grey(image, rng, noise=0.025, blur=0.6)


def ultrasound(finding: str, size: tuple[int, int], sign: int, rng: np.random.Generator) -> Image.Image:
    """A sector of echoes: a stone with its shadow, or fluid above the diaphragm."""
    x, y = grid(size)
    u = (x - 0.5) * sign
    image = 0.35 + 0.1 * np.kron(rng.uniform(-1, 1, (size[1] // 3 + 1, size[0] // 3 + 1)), np.ones((3, 3)))[: size[1], : size[0]]
    if finding == "gallstone":
        bladder = np.hypot(u / 0.26, (y - 0.45) / 0.17)
        image = np.where(bladder < 1, 0.05, image) + 0.3 * np.exp(-(((bladder - 1.08) / 0.1) ** 2))
        image = np.where((np.abs(u - 0.05) < 0.055 + 0.06 * (y - 0.55)) & (y > 0.56), 0.03, image)
        image += 0.8 * soft(0.06 - np.hypot(u - 0.05, (y - 0.54) * 1.6), 0.01)
    else:
        diaphragm = 0.68 + 0.9 * u**2
        fluid = (y < diaphragm) & (y > 0.25)
        image = np.where(fluid, 0.04, image) + 0.6 * np.exp(-(((y - diaphragm) / 0.015) ** 2))
        image = np.where((np.abs(u - 0.1) < 0.12 * (y - 0.25) / 0.2) & (y > 0.25) & (y < 0.47), 0.5, image)
    sector = (np.abs(x - 0.5) < 0.12 + 0.5 * y) & (np.hypot(x - 0.5, y) < 0.98)
    return grey(image * sector, rng, noise=0.0, blur=0.8)


def oct_section(finding: str, size: tuple[int, int], sign: int, rng: np.random.Generator) -> Image.Image:
    """A section of the retina with cystic spaces under the fovea."""
    x, y = grid(size)
    top = 0.34 - 0.08 * np.exp(-(((x - 0.5) / 0.18) ** 2))
    image = 0.05 + 0.4 * soft(y - top, 0.01) * soft(0.7 - y, 0.01) * (0.75 + 0.25 * np.sin(70 * (y - top)))
    image += 0.5 * np.exp(-(((y - 0.71) / 0.015) ** 2)) + 0.2 * soft(y - 0.72, 0.01) * np.exp(-((y - 0.72) / 0.15))
    for centre, level, radius in ((0.42, 0.5, 0.05), (0.52, 0.46, 0.07), (0.62, 0.52, 0.045), (0.33, 0.55, 0.03)):
        image -= 0.5 * soft(radius - np.hypot(x - centre, (y - level) * 0.8), 0.008)
    return grey(image, rng, noise=0.03, blur=0.5)


def ecg(finding: str, size: tuple[int, int], sign: int, rng: np.random.Generator) -> Image.Image:
    """Two leads on millimetre paper."""
    width, height = size
    image = Image.new("RGB", size, (255, 250, 248))
    pen = ImageDraw.Draw(image)
    for step, colour in ((6, (250, 225, 225)), (30, (240, 190, 190))):
        for position in range(0, max(size), step):
            pen.line([(position, 0), (position, height)], fill=colour)
            pen.line([(0, position), (width, position)], fill=colour)
    times = np.arange(width) / 60.0  # seconds, at 60 pixels a second
    trace = ecg_trace(finding, times, rng)
    for lead, gain in ((0.3, 1.0), (0.75, 0.7)):
        points = [(column, round(float(height * (lead - 0.16 * gain * value)))) for column, value in enumerate(trace)]
        pen.line(points, fill=(20, 20, 40), width=1)
    return image


def ecg_trace(finding: str, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The voltage [T], about 1 at the tip of R, for `times` in seconds."""
    end = float(times[-1]) + 1.0
    if finding == "vt":
        return 1.1 * np.sin(2 * np.pi * 3.0 * times) + 0.3 * np.sin(4 * np.pi * 3.0 * times)
    intervals = rng.uniform(0.38, 1.0, 40) if finding == "af" else np.full(40, 1.5 if finding == "complete_block" else 0.8)
    beats = np.cumsum(np.concatenate([[0.25], intervals]))
    atrial = np.arange(0.1, end, 0.62) if finding == "complete_block" else beats - 0.16
    trace = np.zeros_like(times)
    if finding == "af":
        trace += 0.05 * np.sin(2 * np.pi * 6.7 * times) + 0.03 * np.sin(2 * np.pi * 5.1 * times + 1)
    else:
        for beat in atrial[atrial < end]:
            trace += (0.05 if finding == "peaked_t" else 0.18) * bump(times, beat, 0.03)
    broad = 0.05 if finding == "complete_block" else 0.017
    for beat in beats[beats < end]:
        trace += (0.7 if finding == "peaked_t" else 1.1) * bump(times, beat, broad) - 0.25 * bump(times, beat + 2.2 * broad, broad)
        trace += (1.3 if finding == "peaked_t" else 0.28) * bump(times, beat + 0.28, 0.035 if finding == "peaked_t" else 0.06)
        if finding == "st_elevation":
            trace += 0.6 * bump(times, beat + 0.16, 0.1)
    return trace


def fundus(finding: str, size: tuple[int, int], sign: int, rng: np.random.Generator) -> Image.Image:
    """A photograph of the retina; `sign` −1 is the right eye, whose disc lies on the viewer's right."""
    x, y = grid(size)
    aspect = size[1] / size[0]
    u, v = (x - 0.5) * -sign, (y - 0.5) * aspect
    field = np.hypot(u, v) < 0.48 * min(1.0, aspect)
    base = np.array([235, 195, 150] if finding == "crao" else [205, 95, 45], float)
    image = np.ones((*x.shape, 3)) * base * (1.0 - 0.5 * np.hypot(u, v))[..., None]
    for bend in (-1, 1):
        for spread, width in ((0.5, 0.006), (0.32, 0.004)):
            curve = bend * np.sqrt(np.maximum(0.24 - u, 0.0)) * spread
            thin = 0.45 if finding == "crao" else 1.0
            image = blend(image, (125, 25, 20), np.exp(-(((v - curve) / (width * thin)) ** 2)) * (u < 0.24))
    blurred = finding == "papilloedema"
    image = blend(image, (250, 220, 150), soft(0.085 - np.hypot(u - 0.24, v), 0.035 if blurred else 0.004))
    cup = {"cupping": 0.066, "papilloedema": 0.0}.get(finding, 0.028)
    image = blend(image, (255, 245, 215), soft(cup - np.hypot(u - 0.24, v), 0.006) * (cup > 0))
    image = blend(image, (150, 50, 25) if finding != "crao" else (190, 25, 20), np.exp(-(((u + 0.06) ** 2 + v**2) / 0.0022)))
    spots = {"diabetic": 34, "papilloedema": 9}.get(finding, 0)
    for index in range(spots):
        around = (0.24, 0.0, 0.1) if blurred else (-0.05, 0.0, 0.24)
        cx, cy = around[0] + rng.normal(0, around[2] * 0.6), around[1] + rng.normal(0, around[2] * 0.6)
        colour = (250, 235, 150) if index % 3 == 0 and not blurred else (110, 10, 15)
        image = blend(image, colour, soft(rng.uniform(0.006, 0.013) - np.hypot(u - cx, v - cy), 0.003))
    return Image.fromarray(np.clip(image * field[..., None], 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.5))


def smear(finding: str, size: tuple[int, int], sign: int, rng: np.random.Generator) -> Image.Image:
    """Stained blood cells."""
    image = Image.new("RGB", size, STAINS["ground"])
    pen = ImageDraw.Draw(image)
    unit = min(size) / 14 * (1.25 if finding == "hypersegmented" else 1.0)
    for _ in range(46 if finding != "auer" else 22):
        cx, cy = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        turn, odd = rng.uniform(0, 2 * np.pi), rng.uniform() < 0.45
        if finding == "sickle" and odd:
            pen.line(_arc(cx, cy, turn, unit), fill=STAINS["red"], width=max(3, round(unit * 0.5)))
        elif finding == "schistocyte" and odd:
            corners = turn + np.array([0.0, 1.3, 2.9])
            pen.polygon([(cx + unit * 0.8 * np.cos(a), cy + unit * 0.8 * np.sin(a)) for a in corners], fill=STAINS["red"])
        else:
            wide = unit * (0.75 if finding == "hypersegmented" and odd else 1.0) * 0.85
            pen.ellipse([cx - unit * 0.85, cy - wide, cx + unit * 0.85, cy + wide], fill=STAINS["red"])
            pen.ellipse([cx - unit * 0.3, cy - wide * 0.35, cx + unit * 0.3, cy + wide * 0.35], fill=(236, 175, 175))
    if finding == "hypersegmented":
        _lobed_cell(pen, size[0] / 2, size[1] / 2, unit * 1.9)
    if finding == "auer":
        for fraction in ((0.28, 0.3), (0.68, 0.42), (0.38, 0.74)):
            _blast(pen, size[0] * fraction[0], size[1] * fraction[1], unit * 2.2, rng)
    return image.filter(ImageFilter.GaussianBlur(0.6))


def _arc(cx: float, cy: float, turn: float, unit: float) -> list[tuple[float, float]]:
    angles = np.linspace(-1.1, 1.1, 9) + turn
    return [(cx + unit * 1.3 * (np.cos(a) - np.cos(turn)), cy + unit * 1.3 * (np.sin(a) - np.sin(turn))) for a in angles]


def _lobed_cell(pen: ImageDraw.ImageDraw, cx: float, cy: float, radius: float) -> None:
    pen.ellipse([cx - radius, cy - radius, cx + radius, cy + radius], fill=STAINS["plasma"])
    for angle in np.linspace(0.3, 5.6, 6):
        px, py, r = cx + 0.55 * radius * np.cos(angle), cy + 0.55 * radius * np.sin(angle), 0.25 * radius
        pen.ellipse([px - r, py - r, px + r, py + r], fill=STAINS["nucleus"])


def _blast(pen: ImageDraw.ImageDraw, cx: float, cy: float, radius: float, rng: np.random.Generator) -> None:
    pen.ellipse([cx - radius, cy - radius, cx + radius, cy + radius], fill=STAINS["plasma"])
    for offset in (-0.3, 0.2):
        px, r = cx + offset * radius, 0.5 * radius
        pen.ellipse([px - r, cy - 0.25 * radius - r, px + r, cy - 0.25 * radius + r], fill=STAINS["nucleus"])
    for _ in range(4):
        px, py = cx + rng.uniform(-0.4, 0.3) * radius, cy + rng.uniform(0.4, 0.75) * radius
        pen.line([(px, py), (px + 0.4 * radius, py + rng.uniform(-0.12, 0.12) * radius)], fill=(170, 20, 70), width=2)


def histology(finding: str, size: tuple[int, int], sign: int, rng: np.random.Generator) -> Image.Image:
    """A stained section: plasma cells in marrow, or a granuloma with a structureless centre."""
    image = Image.new("RGB", size, (240, 205, 222))
    pen = ImageDraw.Draw(image)
    unit = min(size) / 24
    for _ in range(190):
        cx, cy, turn = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(0, 2 * np.pi)
        if finding == "plasma":
            pen.ellipse([cx - 1.2 * unit, cy - 0.9 * unit, cx + 1.2 * unit, cy + 0.9 * unit], fill=(178, 130, 190))
            px, py = cx + 0.6 * unit * np.cos(turn), cy + 0.3 * unit * np.sin(turn)
            pen.ellipse([cx - 0.4 * unit, cy - 0.4 * unit, cx + 0.4 * unit, cy + 0.4 * unit], fill=(222, 190, 226))
            pen.ellipse([px - 0.55 * unit, py - 0.55 * unit, px + 0.55 * unit, py + 0.55 * unit], fill=STAINS["nucleus"])
        else:
            pen.ellipse([cx - 0.5 * unit, cy - 0.35 * unit, cx + 0.5 * unit, cy + 0.35 * unit], fill=STAINS["nucleus"])
    if finding == "granuloma":
        cx, cy, reach = size[0] * 0.45, size[1] * 0.48, min(size) * 0.36
        pen.ellipse([cx - reach, cy - reach, cx + reach, cy + reach], fill=(236, 190, 212))
        pen.ellipse([cx - reach / 2, cy - reach / 2, cx + reach / 2, cy + reach / 2], fill=(226, 120, 150))
        for angle in np.linspace(0, 2 * np.pi, 14, endpoint=False):
            px, py = cx + 0.1 * reach + 0.2 * reach * np.cos(angle), cy - 0.75 * reach + 0.16 * reach * np.sin(angle)
            pen.ellipse([px - 0.3 * unit, py - 0.3 * unit, px + 0.3 * unit, py + 0.3 * unit], fill=STAINS["nucleus"])
    return image.filter(ImageFilter.GaussianBlur(0.6))


def grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x and y [H, W] of every pixel's centre, as fractions of the width and height."""
    width, height = size
    return tuple(np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height))  # type: ignore[return-value]


def soft(distance: np.ndarray, width: float) -> np.ndarray:
    """A smooth step: 0 for distances well below 0, 1 well above."""
    return 1.0 / (1.0 + np.exp(-np.clip(distance / width, -40, 40)))


def ellipse(x: np.ndarray, y: np.ndarray, cx: float, cy: float, rx: float, ry: float, edge: float = 0.04) -> np.ndarray:
    """1 inside an ellipse, 0 outside, with a smooth edge."""
    return soft(1 - np.hypot((x - cx) / rx, (y - cy) / ry), edge)


def bump(times: np.ndarray, centre: float, width: float) -> np.ndarray:
    """A bell of height 1."""
    return np.exp(-(((times - centre) / width) ** 2))


def blend(image: np.ndarray, colour: tuple[int, int, int], amount: np.ndarray) -> np.ndarray:
    """`image` [H, W, 3] with `colour` painted over it by `amount` [H, W]."""
    return image + (np.array(colour, float) - image) * amount[..., None]


def grey(image: np.ndarray, rng: np.random.Generator, *, noise: float, blur: float) -> Image.Image:
    """A greyscale image of few levels, with coarse noise."""
    grain = rng.normal(0, noise, image.shape) if noise else 0.0
    picture = Image.fromarray((np.clip(image + grain, 0, 1) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
    levels = (np.asarray(picture).astype(int) * (GREY_LEVELS - 1) + 127) // 255
    return Image.fromarray((levels * 255 // (GREY_LEVELS - 1)).astype(np.uint8))
