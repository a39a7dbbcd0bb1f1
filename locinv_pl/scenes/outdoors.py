"""What stands and lies outdoors, each in several styles."""

from __future__ import annotations

import math

from locinv_pl.scenes.canvas import INK, LEAF, WOOD, Canvas, Color, Style, shade, tint

WINDOW, DOOR, BRICK = (250, 240, 170), (95, 60, 35), (130, 60, 50)


def house_small(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.18, 0.45, 0.82, 0.9, color)
    canvas.polygon((0.08, 0.47), (0.5, 0.1), (0.92, 0.47), fill=(130, 60, 50))
    canvas.rectangle(0.42, 0.62, 0.58, 0.9, (95, 60, 35))
    for window in (0.25, 0.63):
        canvas.rectangle(window, 0.53, window + 0.12, 0.66, (250, 240, 170))


def window(canvas: Canvas, x: float, y: float, side: float) -> None:
    """A lit window with its cross."""
    canvas.rectangle(x, y, x + side, y + side, (250, 250, 245))
    half = side * 0.36
    for dx in (0.1, 0.54):
        for dy in (0.1, 0.54):
            canvas.rectangle(x + side * dx, y + side * dy, x + side * dx + half, y + side * dy + half, WINDOW)


def house_side(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.66, 0.1, 0.77, 0.34, BRICK)
    canvas.polygon((0.04, 0.48), (0.24, 0.18), (0.44, 0.48), (0.44, 0.92), (0.04, 0.92), fill=color)
    canvas.rectangle(0.44, 0.48, 0.96, 0.92, shade(color, 0.78))
    canvas.polygon((0.24, 0.16), (0.8, 0.16), (1.0, 0.5), (0.46, 0.5), fill=(95, 82, 90))
    canvas.line((0.24, 0.17), (0.02, 0.5), (75, 64, 72), width=0.04)
    canvas.line((0.24, 0.17), (0.46, 0.5), (75, 64, 72), width=0.03)
    canvas.rectangle(0.17, 0.66, 0.31, 0.92, DOOR, radius=0.01)
    canvas.disc(0.28, 0.8, 0.014, WINDOW)
    for x in (0.52, 0.75):
        window(canvas, x, 0.6, 0.15)


def house_tall(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.62, 0.06, 0.71, 0.26, shade(color, 0.6))
    canvas.rectangle(0.24, 0.3, 0.76, 0.95, color)
    canvas.polygon((0.16, 0.33), (0.5, 0.04), (0.84, 0.33), fill=shade(color, 0.55))
    canvas.disc(0.5, 0.22, 0.055, WINDOW)
    canvas.line((0.24, 0.63), (0.76, 0.63), shade(color, 0.7), width=0.025)
    for x in (0.3, 0.54):
        window(canvas, x, 0.4, 0.16)
    window(canvas, 0.3, 0.71, 0.16)
    canvas.rectangle(0.54, 0.7, 0.7, 0.95, DOOR, radius=0.02)
    canvas.disc(0.57, 0.83, 0.014, WINDOW)


def flower_daisy(canvas: Canvas, color: Color) -> None:
    canvas.line((0.5, 0.5), (0.5, 0.98), LEAF, width=0.06)
    canvas.ellipse(0.5, 0.7, 0.75, 0.8, LEAF)
    for petal in range(6):
        angle = petal * math.pi / 3
        canvas.disc(0.5 + 0.2 * math.cos(angle), 0.35 + 0.2 * math.sin(angle), 0.14, color)
    canvas.disc(0.5, 0.35, 0.12, (250, 220, 80))


def flower_tulip(canvas: Canvas, color: Color) -> None:
    canvas.line((0.5, 0.45), (0.5, 0.97), LEAF, width=0.06)
    canvas.blob((0.49, 0.95), (0.3, 0.8), (0.22, 0.5), (0.4, 0.7), fill=LEAF)
    canvas.blob((0.51, 0.95), (0.68, 0.82), (0.8, 0.54), (0.6, 0.72), fill=shade(LEAF, 0.8))
    canvas.blob((0.5, 0.04), (0.38, 0.3), (0.5, 0.5), (0.62, 0.3), fill=shade(color, 0.7))
    canvas.blob((0.26, 0.06), (0.25, 0.36), (0.42, 0.52), (0.54, 0.48), (0.46, 0.24), fill=color)
    canvas.blob((0.74, 0.06), (0.75, 0.36), (0.58, 0.52), (0.46, 0.48), (0.54, 0.24), fill=shade(color, 0.86))


def flower_rose(canvas: Canvas, color: Color) -> None:
    canvas.stroke((0.5, 0.5), (0.47, 0.75), (0.5, 0.95), fill=LEAF, width=0.05)
    canvas.blob((0.48, 0.78), (0.3, 0.62), (0.16, 0.66), (0.3, 0.8), fill=LEAF)
    canvas.blob((0.5, 0.86), (0.66, 0.7), (0.82, 0.72), (0.7, 0.86), fill=LEAF)
    for k in range(5):
        angle = k * math.tau / 5 + 0.3
        x, y = 0.5 + 0.16 * math.cos(angle), 0.31 + 0.15 * math.sin(angle)
        canvas.disc(x, y, 0.16, color if k % 2 else shade(color, 0.88))
    canvas.disc(0.5, 0.31, 0.17, shade(color, 0.72))
    canvas.disc(0.52, 0.29, 0.125, color)
    canvas.arc(0.5, 0.3, (0.085, 0.085), (20, 290), shade(color, 0.55), width=0.025)
    canvas.disc(0.52, 0.31, 0.035, shade(color, 0.55))


def ball_tennis(canvas: Canvas, color: Color) -> None:
    canvas.disc(0.5, 0.5, 0.4, color)
    canvas.arc(0.1, 0.5, (0.4, 0.4), (-60, 60), (250, 250, 250), width=0.06)
    canvas.arc(0.9, 0.5, (0.4, 0.4), (120, 240), (250, 250, 250), width=0.06)


def ball_soccer(canvas: Canvas, color: Color) -> None:
    patch = (245, 245, 245)
    canvas.disc(0.5, 0.5, 0.43, color)
    ring = [(math.sin(k * math.tau / 5), -math.cos(k * math.tau / 5)) for k in range(5)]
    canvas.polygon(*((0.5 + 0.15 * x, 0.5 + 0.15 * y) for x, y in ring), fill=patch)
    for x, y in ring:
        canvas.line((0.5 + 0.14 * x, 0.5 + 0.14 * y), (0.5 + 0.32 * x, 0.5 + 0.32 * y), patch, width=0.025)
        canvas.polygon(
            (0.5 + 0.29 * x, 0.5 + 0.29 * y),
            (0.5 + 0.34 * x - 0.11 * y, 0.5 + 0.34 * y + 0.11 * x),
            (0.5 + 0.42 * x - 0.08 * y, 0.5 + 0.42 * y + 0.08 * x),
            (0.5 + 0.42 * x + 0.08 * y, 0.5 + 0.42 * y - 0.08 * x),
            (0.5 + 0.34 * x + 0.11 * y, 0.5 + 0.34 * y - 0.11 * x),
            fill=patch,
        )


def ball_beach(canvas: Canvas, color: Color) -> None:
    canvas.disc(0.5, 0.5, 0.44, color)
    for start in (-100, 20, 140):
        canvas.sector(0.5, 0.5, (0.44, 0.44), (start, start + 45), (248, 246, 240))
    canvas.disc(0.5, 0.5, 0.075, shade(color, 0.7))
    canvas.ellipse(0.26, 0.17, 0.4, 0.27, tint(color, 0.5))


def umbrella_open(canvas: Canvas, color: Color) -> None:
    canvas.line((0.5, 0.1), (0.5, 0.86), WOOD, width=0.04)
    canvas.arc(0.58, 0.84, (0.1, 0.1), (0, 180), WOOD, width=0.045)
    canvas.line((0.5, 0.02), (0.5, 0.1), INK, width=0.025)
    canvas.sector(0.5, 0.5, (0.48, 0.43), (180, 360), color)
    canvas.sector(0.5, 0.5, (0.2, 0.43), (180, 360), shade(color, 0.72))
    for x in (0.02, 0.3, 0.7):
        right = {0.02: 0.3, 0.3: 0.7, 0.7: 0.98}[x]
        fill = shade(color, 0.72) if x == 0.3 else color
        canvas.polygon((x, 0.495), (right, 0.495), ((x + right) / 2, 0.57), fill=fill)
        canvas.line((x, 0.5), ((x + right) / 2, 0.565), shade(color, 0.5), width=0.012)
        canvas.line(((x + right) / 2, 0.565), (right, 0.5), shade(color, 0.5), width=0.012)


def umbrella_beach(canvas: Canvas, color: Color) -> None:
    canvas.line((0.44, 0.2), (0.62, 0.96), (235, 230, 220), width=0.045)
    canvas.blob(
        (0.04, 0.52), (0.12, 0.24), (0.4, 0.08), (0.72, 0.16), (0.9, 0.36), (0.6, 0.36), (0.3, 0.44), fill=color
    )
    canvas.blob((0.3, 0.42), (0.26, 0.26), (0.4, 0.1), (0.58, 0.22), (0.64, 0.37), (0.46, 0.38), fill=tint(color, 0.65))
    canvas.disc(0.4, 0.08, 0.03, (235, 230, 220))


def umbrella_closed(canvas: Canvas, color: Color) -> None:
    canvas.line((0.5, 0.04), (0.5, 0.8), INK, width=0.03)
    canvas.stroke((0.5, 0.76), (0.5, 0.86), (0.57, 0.94), (0.65, 0.86), fill=WOOD, width=0.055)
    canvas.blob(
        (0.5, 0.08),
        (0.3, 0.5),
        (0.27, 0.66),
        (0.39, 0.7),
        (0.5, 0.73),
        (0.61, 0.7),
        (0.73, 0.66),
        (0.7, 0.5),
        fill=color,
    )
    canvas.polygon((0.5, 0.1), (0.42, 0.71), (0.3, 0.69), fill=shade(color, 0.75))
    canvas.polygon((0.5, 0.1), (0.58, 0.71), (0.66, 0.7), fill=shade(color, 0.65))
    canvas.rectangle(0.33, 0.5, 0.67, 0.55, shade(color, 0.5), radius=0.02)


OUTDOORS: dict[str, tuple[Style, ...]] = {
    "house": (house_small, house_side, house_tall),
    "flower": (flower_daisy, flower_tulip, flower_rose),
    "ball": (ball_tennis, ball_soccer, ball_beach),
    "umbrella": (umbrella_open, umbrella_beach, umbrella_closed),
}
