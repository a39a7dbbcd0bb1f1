"""Furniture and what stands about in a house, each in several styles."""

from __future__ import annotations

import math

from locinv_pl.scenes.canvas import INK, WOOD, Canvas, Color, Style, shade, tint

DIAL, PAGE, SHEET, METAL = (250, 248, 238), (250, 246, 232), (244, 242, 236), (110, 112, 120)


def chair_side(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.25, 0.05, 0.35, 0.95, shade(color, 0.8))
    canvas.rectangle(0.68, 0.5, 0.77, 0.95, shade(color, 0.8))
    canvas.rectangle(0.25, 0.1, 0.36, 0.5, color)
    canvas.rectangle(0.22, 0.48, 0.8, 0.6, color)


def chair_front(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.7)
    for x in (0.22, 0.7):
        canvas.rectangle(x, 0.05, x + 0.08, 0.56, dark, radius=0.03)
    for y in (0.1, 0.26):
        canvas.rectangle(0.22, y, 0.78, y + 0.11, color, radius=0.03)
    for x in (0.24, 0.7):
        canvas.rectangle(x, 0.55, x + 0.06, 0.85, shade(color, 0.5))
    for x in (0.14, 0.78):
        canvas.rectangle(x, 0.6, x + 0.08, 0.96, dark, radius=0.02)
    canvas.polygon((0.22, 0.48), (0.78, 0.48), (0.9, 0.62), (0.1, 0.62), fill=color)
    canvas.rectangle(0.1, 0.61, 0.9, 0.69, shade(color, 0.85), radius=0.02)


def chair_arm(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.72)
    for x in (0.16, 0.74):
        canvas.polygon((x, 0.86), (x + 0.1, 0.86), (x + 0.07, 0.97), (x + 0.03, 0.97), fill=WOOD)
    canvas.rectangle(0.2, 0.08, 0.8, 0.75, color, radius=0.14)
    for x in (0.38, 0.5, 0.62):
        canvas.disc(x, 0.27, 0.02, dark)
    canvas.rectangle(0.2, 0.54, 0.8, 0.72, tint(color, 0.25), radius=0.06)
    canvas.rectangle(0.14, 0.7, 0.86, 0.89, shade(color, 0.85), radius=0.04)
    for x in (0.05, 0.77):
        canvas.rectangle(x, 0.42, x + 0.18, 0.9, dark, radius=0.08)


def couch_wide(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.72)
    for x in (0.1, 0.84):
        canvas.rectangle(x, 0.78, x + 0.06, 0.88, WOOD)
    canvas.rectangle(0.1, 0.24, 0.9, 0.7, shade(color, 0.85), radius=0.08)
    for x in (0.14, 0.51):
        canvas.rectangle(x, 0.28, x + 0.35, 0.58, color, radius=0.05)
        canvas.rectangle(x, 0.54, x + 0.35, 0.69, tint(color, 0.25), radius=0.04)
    canvas.rectangle(0.06, 0.66, 0.94, 0.81, shade(color, 0.85), radius=0.03)
    for x in (0.02, 0.85):
        canvas.rectangle(x, 0.42, x + 0.13, 0.82, dark, radius=0.06)


def couch_curved(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.72)
    for x in (0.16, 0.8):
        canvas.line((x, 0.74), (x + (0.05 if x > 0.5 else -0.05), 0.92), WOOD, width=0.05)
    canvas.blob((0.1, 0.6), (0.16, 0.34), (0.34, 0.32), (0.5, 0.2), (0.66, 0.32), (0.84, 0.34), (0.9, 0.6), fill=color)
    for x in (0.3, 0.42, 0.58, 0.7):
        canvas.disc(x, 0.42, 0.02, dark)
    canvas.rectangle(0.1, 0.56, 0.9, 0.7, tint(color, 0.25), radius=0.06)
    canvas.rectangle(0.08, 0.68, 0.92, 0.79, dark, radius=0.04)
    for x in (0.1, 0.9):
        canvas.rectangle(x - 0.06, 0.48, x + 0.06, 0.79, shade(color, 0.82), radius=0.05)
        canvas.disc(x, 0.48, 0.09, shade(color, 0.82))
        canvas.disc(x, 0.48, 0.04, dark)


def bed_side(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.02, 0.2, 0.1, 0.88, shade(color, 0.5), radius=0.03)
    canvas.rectangle(0.91, 0.42, 0.98, 0.88, shade(color, 0.5), radius=0.03)
    canvas.rectangle(0.06, 0.66, 0.95, 0.76, shade(color, 0.5))
    canvas.rectangle(0.1, 0.5, 0.91, 0.68, SHEET, radius=0.04)
    canvas.blob((0.12, 0.5), (0.14, 0.38), (0.28, 0.37), (0.34, 0.44), (0.3, 0.53), fill=(255, 255, 255))
    canvas.blob(
        (0.3, 0.5), (0.44, 0.38), (0.74, 0.38), (0.91, 0.46), (0.92, 0.72), (0.6, 0.74), (0.33, 0.72), fill=color
    )
    canvas.blob((0.3, 0.5), (0.38, 0.42), (0.45, 0.5), (0.44, 0.72), (0.33, 0.72), fill=tint(color, 0.35))


def bed_front(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.1, 0.1, 0.9, 0.6, shade(color, 0.5), radius=0.1)
    canvas.rectangle(0.16, 0.16, 0.84, 0.6, shade(color, 0.68), radius=0.07)
    for x in (0.08, 0.84):
        canvas.rectangle(x, 0.84, x + 0.08, 0.96, shade(color, 0.5))
    canvas.polygon((0.16, 0.4), (0.84, 0.4), (0.94, 0.72), (0.06, 0.72), fill=SHEET)
    for x in (0.2, 0.53):
        canvas.rectangle(x, 0.3, x + 0.27, 0.46, (255, 255, 255), radius=0.06)
    canvas.polygon((0.14, 0.48), (0.86, 0.48), (0.96, 0.76), (0.96, 0.88), (0.04, 0.88), (0.04, 0.76), fill=color)
    canvas.polygon((0.14, 0.48), (0.86, 0.48), (0.89, 0.56), (0.11, 0.56), fill=tint(color, 0.35))
    canvas.rectangle(0.04, 0.76, 0.96, 0.89, shade(color, 0.78), radius=0.03)


def bench_front(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.72)
    for x in (0.14, 0.79):
        canvas.rectangle(x, 0.22, x + 0.07, 0.9, METAL, radius=0.02)
    for y in (0.24, 0.38):
        canvas.rectangle(0.03, y, 0.97, y + 0.1, color, radius=0.02)
    canvas.polygon((0.07, 0.55), (0.93, 0.55), (0.98, 0.66), (0.02, 0.66), fill=color)
    canvas.line((0.04, 0.605), (0.96, 0.605), dark, width=0.015)
    canvas.rectangle(0.02, 0.65, 0.98, 0.71, dark, radius=0.02)
    for x in (0.07, 0.86):
        canvas.rectangle(x, 0.7, x + 0.07, 0.93, METAL, radius=0.02)


def bench_slats(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.68)
    for x in (0.1, 0.23, 0.36, 0.49, 0.62, 0.75):
        canvas.rectangle(x + 0.035, 0.22, x + 0.115, 0.6, color, radius=0.01)
    canvas.rectangle(0.06, 0.18, 0.94, 0.28, shade(color, 0.84), radius=0.03)
    for x in (0.2, 0.75):
        canvas.rectangle(x, 0.64, x + 0.06, 0.82, shade(color, 0.5))
    canvas.polygon((0.12, 0.56), (0.88, 0.56), (0.95, 0.66), (0.05, 0.66), fill=color)
    canvas.rectangle(0.05, 0.65, 0.95, 0.72, dark, radius=0.01)
    for x in (0.03, 0.89):
        canvas.rectangle(x, 0.18, x + 0.08, 0.9, dark, radius=0.02)
        canvas.rectangle(x - 0.02, 0.43, x + 0.1, 0.5, shade(color, 0.84), radius=0.03)


def bench_plain(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.7)
    canvas.polygon((0.12, 0.44), (0.88, 0.44), (0.98, 0.55), (0.02, 0.55), fill=color)
    canvas.line((0.07, 0.495), (0.93, 0.495), dark, width=0.015)
    canvas.rectangle(0.02, 0.54, 0.98, 0.63, shade(color, 0.84), radius=0.015)
    canvas.rectangle(0.2, 0.63, 0.8, 0.69, shade(color, 0.55))
    for x in (0.08, 0.76):
        canvas.polygon((x, 0.62), (x + 0.16, 0.62), (x + 0.13, 0.82), (x + 0.03, 0.82), fill=dark)


def dial(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """A clock's face: marks and two hands."""
    canvas.disc(x, y, radius, DIAL)
    for hour in range(12):
        angle = hour * math.pi / 6
        start, stop = radius * (0.72 if hour % 3 else 0.62), radius * 0.88
        tips = [(x + reach * math.cos(angle), y + reach * math.sin(angle)) for reach in (start, stop)]
        canvas.line(tips[0], tips[1], INK, width=0.02)
    canvas.stroke((x, y), (x - radius * 0.38, y - radius * 0.22), fill=INK, width=0.045)
    canvas.stroke((x, y), (x + radius * 0.36, y - radius * 0.54), fill=INK, width=0.03)
    canvas.disc(x, y, 0.035, (200, 60, 50))


def clock_wall(canvas: Canvas, color: Color) -> None:
    canvas.disc(0.5, 0.5, 0.45, color)
    canvas.disc(0.5, 0.5, 0.36, shade(color, 0.65))
    dial(canvas, 0.5, 0.5, 0.33)


def clock_alarm(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.7)
    for side in (-1, 1):
        canvas.line((0.5 + 0.2 * side, 0.8), (0.5 + 0.3 * side, 0.95), dark, width=0.07)
        canvas.sector(0.5 + 0.25 * side, 0.22, (0.17, 0.15), (180 + 25 * side, 360 + 25 * side), color)
    canvas.line((0.5, 0.08), (0.5, 0.2), METAL, width=0.04)
    canvas.disc(0.5, 0.08, 0.045, METAL)
    canvas.disc(0.5, 0.56, 0.37, color)
    dial(canvas, 0.5, 0.56, 0.27)


def clock_tall(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.65)
    canvas.polygon((0.24, 0.14), (0.5, 0.02), (0.76, 0.14), fill=dark)
    canvas.rectangle(0.26, 0.13, 0.74, 0.48, color, radius=0.02)
    canvas.rectangle(0.32, 0.47, 0.68, 0.86, shade(color, 0.85))
    canvas.rectangle(0.38, 0.52, 0.62, 0.82, (60, 45, 40), radius=0.02)
    canvas.line((0.5, 0.52), (0.5, 0.72), (225, 190, 90), width=0.02)
    canvas.disc(0.5, 0.73, 0.055, (225, 190, 90))
    canvas.rectangle(0.25, 0.84, 0.75, 0.96, dark, radius=0.02)
    dial(canvas, 0.5, 0.31, 0.185)


def vase_slim(canvas: Canvas, color: Color) -> None:
    canvas.blob(
        (0.42, 0.1),
        (0.43, 0.3),
        (0.26, 0.5),
        (0.27, 0.72),
        (0.4, 0.94),
        (0.6, 0.94),
        (0.73, 0.72),
        (0.74, 0.5),
        (0.57, 0.3),
        (0.58, 0.1),
        fill=color,
    )
    canvas.ellipse(0.36, 0.05, 0.64, 0.14, shade(color, 0.55))
    canvas.blob((0.3, 0.5), (0.5, 0.55), (0.7, 0.5), (0.73, 0.58), (0.5, 0.64), (0.27, 0.58), fill=shade(color, 0.7))
    canvas.blob((0.34, 0.54), (0.38, 0.46), (0.38, 0.72), (0.33, 0.72), fill=tint(color, 0.5))


def vase_handles(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.65)
    for side in (-1, 1):
        canvas.stroke(
            *((0.5 + side * x, y) for x, y in ((0.12, 0.2), (0.34, 0.18), (0.38, 0.36), (0.26, 0.48))),
            fill=dark,
            width=0.06,
        )
    canvas.rectangle(0.36, 0.86, 0.64, 0.95, dark, radius=0.02)
    canvas.blob(
        (0.4, 0.16),
        (0.4, 0.3),
        (0.2, 0.46),
        (0.22, 0.66),
        (0.4, 0.9),
        (0.6, 0.9),
        (0.78, 0.66),
        (0.8, 0.46),
        (0.6, 0.3),
        (0.6, 0.16),
        fill=color,
    )
    canvas.rectangle(0.34, 0.08, 0.66, 0.17, dark, radius=0.03)
    for x in (0.26, 0.38, 0.5, 0.62):
        canvas.polygon((x, 0.6), (x + 0.06, 0.5), (x + 0.12, 0.6), fill=tint(color, 0.55))


def book_closed(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.2, 0.12), (0.76, 0.06), (0.84, 0.84), (0.28, 0.94), fill=shade(color, 0.6))
    canvas.polygon((0.24, 0.9), (0.82, 0.8), (0.88, 0.86), (0.3, 0.96), fill=PAGE)
    canvas.polygon((0.12, 0.12), (0.72, 0.04), (0.82, 0.8), (0.24, 0.92), fill=color)
    canvas.polygon((0.12, 0.12), (0.2, 0.11), (0.32, 0.905), (0.24, 0.92), fill=shade(color, 0.65))
    canvas.polygon((0.32, 0.26), (0.64, 0.215), (0.665, 0.4), (0.345, 0.45), fill=PAGE)
    for y in (0.29, 0.35):
        canvas.line((0.37, y + 0.01), (0.61, y - 0.025), INK, width=0.018)


def book_open(canvas: Canvas, color: Color) -> None:
    canvas.blob(
        (0.02, 0.26),
        (0.26, 0.2),
        (0.5, 0.28),
        (0.74, 0.2),
        (0.98, 0.26),
        (0.98, 0.82),
        (0.74, 0.8),
        (0.5, 0.88),
        (0.26, 0.8),
        (0.02, 0.82),
        fill=color,
    )
    canvas.polygon((0.04, 0.7), (0.5, 0.76), (0.96, 0.7), (0.98, 0.86), (0.5, 0.93), (0.02, 0.86), fill=color)
    for side in (-1, 1):
        page = ((0.0, 0.28), (0.14, 0.2), (0.41, 0.22), (0.41, 0.7), (0.14, 0.69), (0.0, 0.77))
        canvas.polygon(*((0.5 + side * x, y) for x, y in page), fill=PAGE if side > 0 else shade(PAGE, 0.92))
        for y in (0.34, 0.43, 0.52, 0.61):
            canvas.line((0.5 + side * 0.07, y), (0.5 + side * 0.34, y - 0.03), (140, 135, 130), width=0.018)
    canvas.line((0.5, 0.28), (0.5, 0.78), (170, 160, 145), width=0.02)


def book_lying(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.62)
    canvas.polygon((0.1, 0.5), (0.34, 0.3), (0.96, 0.34), (0.74, 0.56), fill=color)
    canvas.polygon((0.1, 0.5), (0.74, 0.56), (0.74, 0.74), (0.1, 0.68), fill=PAGE)
    for y in (0.56, 0.62):
        canvas.line((0.12, y), (0.74, y + 0.06), (200, 190, 170), width=0.012)
    canvas.polygon((0.74, 0.56), (0.96, 0.34), (0.96, 0.52), (0.74, 0.74), fill=dark)
    canvas.polygon((0.08, 0.66), (0.74, 0.72), (0.97, 0.5), (0.97, 0.56), (0.74, 0.79), (0.08, 0.73), fill=color)
    canvas.line((0.08, 0.51), (0.74, 0.57), dark, width=0.03)
    canvas.polygon((0.4, 0.4), (0.48, 0.345), (0.72, 0.36), (0.64, 0.42), fill=PAGE)


HOUSEHOLD: dict[str, tuple[Style, ...]] = {
    "chair": (chair_side, chair_front, chair_arm),
    "couch": (couch_wide, couch_curved),
    "bed": (bed_side, bed_front),
    "bench": (bench_front, bench_slats, bench_plain),
    "clock": (clock_wall, clock_alarm, clock_tall),
    "vase": (vase_slim, vase_handles),
    "book": (book_closed, book_open, book_lying),
}
