"""Food and what it is served in, each in several styles."""

from __future__ import annotations

import math

from locinv_pl.scenes.canvas import INK, LEAF, WOOD, Canvas, Color, Style, shade, tint

DOUGH, CRUST, CREAM, FLESH, CHERRY = (222, 170, 105), (196, 136, 70), (252, 246, 232), (250, 240, 205), (200, 40, 60)
STEEL, GLAZE = (120, 125, 135), (252, 250, 245)


def cup_mug(canvas: Canvas, color: Color) -> None:
    canvas.arc(0.775, 0.525, (0.175, 0.175), (-100, 100), shade(color, 0.8), width=0.08)
    canvas.polygon((0.15, 0.25), (0.75, 0.25), (0.67, 0.85), (0.23, 0.85), fill=color)
    canvas.ellipse(0.15, 0.17, 0.75, 0.33, shade(color, 0.65))


def cup_saucer(canvas: Canvas, color: Color) -> None:
    canvas.ellipse(0.04, 0.72, 0.9, 0.92, shade(color, 0.72))
    canvas.ellipse(0.2, 0.74, 0.74, 0.85, shade(color, 0.5))
    canvas.arc(0.82, 0.46, (0.14, 0.13), (-110, 120), shade(color, 0.8), width=0.06)
    canvas.blob((0.12, 0.3), (0.16, 0.58), (0.32, 0.8), (0.6, 0.8), (0.76, 0.58), (0.8, 0.3), (0.46, 0.34), fill=color)
    canvas.ellipse(0.12, 0.2, 0.8, 0.38, tint(color, 0.35))
    canvas.ellipse(0.17, 0.23, 0.75, 0.37, (105, 62, 35))


def bowl_plain(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.34, 0.76, 0.66, 0.88, shade(color, 0.65), radius=0.03)
    canvas.sector(0.5, 0.36, (0.46, 0.46), (0, 180), color)
    canvas.ellipse(0.04, 0.24, 0.96, 0.48, tint(color, 0.3))
    canvas.ellipse(0.09, 0.27, 0.91, 0.47, shade(color, 0.6))


def bowl_deep(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.05, 0.3), (0.95, 0.3), (0.78, 0.86), (0.22, 0.86), fill=color)
    canvas.rectangle(0.02, 0.24, 0.98, 0.37, shade(color, 0.72), radius=0.05)
    canvas.rectangle(0.2, 0.82, 0.8, 0.9, shade(color, 0.72), radius=0.02)
    canvas.polygon((0.085, 0.47), (0.915, 0.47), (0.885, 0.57), (0.115, 0.57), fill=tint(color, 0.6))


def bottle_wine(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.43, 0.03, 0.57, 0.14, shade(color, 0.55), radius=0.02)
    canvas.rectangle(0.44, 0.12, 0.56, 0.4, color)
    canvas.blob(
        (0.44, 0.26),
        (0.43, 0.34),
        (0.32, 0.46),
        (0.31, 0.6),
        (0.69, 0.6),
        (0.68, 0.46),
        (0.57, 0.34),
        (0.56, 0.26),
        fill=color,
    )
    canvas.rectangle(0.305, 0.48, 0.695, 0.96, color, radius=0.05)
    canvas.rectangle(0.305, 0.6, 0.695, 0.82, GLAZE)
    canvas.line((0.37, 0.67), (0.63, 0.67), shade(color, 0.7), width=0.025)
    canvas.line((0.42, 0.74), (0.58, 0.74), shade(color, 0.7), width=0.02)
    canvas.rectangle(0.35, 0.45, 0.385, 0.58, tint(color, 0.5), radius=0.02)


def bottle_round(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.4, 0.04, 0.6, 0.16, STEEL, radius=0.03)
    canvas.rectangle(0.42, 0.15, 0.58, 0.36, shade(color, 0.82))
    canvas.rectangle(0.38, 0.28, 0.62, 0.34, shade(color, 0.6), radius=0.02)
    canvas.blob(
        (0.42, 0.34),
        (0.22, 0.5),
        (0.18, 0.72),
        (0.28, 0.94),
        (0.72, 0.94),
        (0.82, 0.72),
        (0.78, 0.5),
        (0.58, 0.34),
        fill=color,
    )
    canvas.disc(0.5, 0.68, 0.15, GLAZE)
    canvas.disc(0.5, 0.68, 0.09, shade(color, 0.7))
    canvas.blob((0.26, 0.6), (0.32, 0.5), (0.31, 0.68), (0.27, 0.74), fill=tint(color, 0.5))


def bottle_water(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.41, 0.03, 0.59, 0.13, STEEL, radius=0.02)
    canvas.polygon((0.42, 0.13), (0.58, 0.13), (0.72, 0.32), (0.28, 0.32), fill=tint(color, 0.3))
    canvas.rectangle(0.28, 0.29, 0.72, 0.96, color, radius=0.06)
    canvas.rectangle(0.28, 0.46, 0.72, 0.7, shade(color, 0.65))
    for y in (0.38, 0.78, 0.87):
        canvas.line((0.29, y), (0.71, y), shade(color, 0.8), width=0.02)
    canvas.rectangle(0.33, 0.34, 0.38, 0.92, tint(color, 0.5), radius=0.02)


def apple_whole(canvas: Canvas, color: Color) -> None:
    canvas.stroke((0.5, 0.3), (0.5, 0.16), (0.56, 0.05), fill=WOOD, width=0.05)
    canvas.blob((0.53, 0.2), (0.64, 0.06), (0.82, 0.08), (0.7, 0.22), fill=LEAF)
    canvas.blob(
        (0.5, 0.27),
        (0.3, 0.2),
        (0.1, 0.36),
        (0.12, 0.64),
        (0.3, 0.92),
        (0.5, 0.9),
        (0.7, 0.92),
        (0.88, 0.64),
        (0.9, 0.36),
        (0.7, 0.2),
        fill=color,
    )
    canvas.blob((0.42, 0.27), (0.5, 0.33), (0.58, 0.27), (0.5, 0.29), fill=shade(color, 0.55))
    canvas.blob((0.2, 0.48), (0.28, 0.32), (0.34, 0.36), (0.26, 0.52), fill=tint(color, 0.55))


def apple_half(canvas: Canvas, color: Color) -> None:
    canvas.line((0.5, 0.24), (0.53, 0.05), WOOD, width=0.05)
    shape = (
        (0.5, 0.24),
        (0.3, 0.17),
        (0.1, 0.34),
        (0.12, 0.62),
        (0.3, 0.92),
        (0.5, 0.9),
        (0.7, 0.92),
        (0.88, 0.62),
        (0.9, 0.34),
        (0.7, 0.17),
    )
    canvas.blob(*shape, fill=color)
    canvas.blob(*((0.5 + 0.72 * (x - 0.5), 0.56 + 0.76 * (y - 0.56)) for x, y in shape), fill=FLESH)
    canvas.blob((0.5, 0.4), (0.4, 0.55), (0.5, 0.72), (0.6, 0.55), fill=shade(FLESH, 0.88))
    for x in (0.46, 0.54):
        canvas.ellipse(x - 0.025, 0.5, x + 0.025, 0.61, (90, 50, 30))


def apple_bitten(canvas: Canvas, color: Color) -> None:
    canvas.stroke((0.46, 0.3), (0.46, 0.16), (0.4, 0.06), fill=WOOD, width=0.05)
    canvas.blob((0.48, 0.2), (0.6, 0.05), (0.76, 0.06), (0.64, 0.2), fill=LEAF)
    canvas.blob(
        (0.48, 0.27),
        (0.3, 0.2),
        (0.1, 0.36),
        (0.12, 0.64),
        (0.3, 0.92),
        (0.5, 0.9),
        (0.68, 0.92),
        (0.8, 0.78),
        (0.76, 0.7),
        (0.66, 0.66),
        (0.62, 0.54),
        (0.7, 0.44),
        (0.82, 0.4),
        (0.84, 0.28),
        (0.7, 0.2),
        fill=color,
    )
    canvas.blob(
        (0.8, 0.76),
        (0.68, 0.74),
        (0.56, 0.62),
        (0.58, 0.48),
        (0.72, 0.38),
        (0.82, 0.38),
        (0.72, 0.44),
        (0.64, 0.54),
        (0.68, 0.66),
        (0.77, 0.7),
        fill=FLESH,
    )
    canvas.blob((0.2, 0.48), (0.28, 0.32), (0.34, 0.36), (0.26, 0.52), fill=tint(color, 0.55))


def banana_single(canvas: Canvas, color: Color) -> None:
    canvas.blob(
        (0.14, 0.12),
        (0.22, 0.13),
        (0.36, 0.44),
        (0.6, 0.6),
        (0.9, 0.62),
        (0.95, 0.7),
        (0.72, 0.84),
        (0.44, 0.82),
        (0.2, 0.6),
        (0.12, 0.3),
        fill=color,
    )
    canvas.blob((0.18, 0.24), (0.3, 0.5), (0.56, 0.68), (0.9, 0.66), (0.6, 0.74), (0.3, 0.62), fill=tint(color, 0.35))
    canvas.polygon((0.12, 0.05), (0.2, 0.04), (0.23, 0.17), (0.14, 0.19), fill=WOOD)
    canvas.disc(0.94, 0.66, 0.035, INK)


def banana_bunch(canvas: Canvas, color: Color) -> None:
    side = (
        (0.02, -0.04),
        (-0.14, 0.08),
        (-0.27, 0.32),
        (-0.24, 0.6),
        (-0.1, 0.8),
        (-0.05, 0.75),
        (-0.09, 0.55),
        (-0.06, 0.3),
        (0.08, 0.1),
    )
    for degrees, fill in ((-48, shade(color, 0.68)), (-24, shade(color, 0.84)), (0, color)):
        cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turned = [(0.42 + x * cosine - y * sine, 0.16 + x * sine + y * cosine) for x, y in side]
        canvas.blob(*turned, fill=fill)
        canvas.disc(*turned[4], 0.035, INK)
    canvas.polygon((0.36, 0.02), (0.46, 0.02), (0.54, 0.2), (0.34, 0.22), fill=WOOD)


def banana_peeled(canvas: Canvas, color: Color) -> None:
    canvas.blob((0.5, 0.04), (0.39, 0.12), (0.4, 0.6), (0.6, 0.6), (0.61, 0.12), fill=FLESH)
    canvas.line((0.5, 0.1), (0.5, 0.4), shade(FLESH, 0.85), width=0.02)
    canvas.blob(
        (0.4, 0.46), (0.37, 0.74), (0.44, 0.96), (0.56, 0.96), (0.63, 0.74), (0.6, 0.46), fill=shade(color, 0.86)
    )
    for side in (-1, 1):
        peel = ((0.12, 0.4), (0.3, 0.36), (0.44, 0.56), (0.4, 0.74), (0.28, 0.54), (0.06, 0.58))
        canvas.blob(*((0.5 + side * x, y) for x, y in peel), fill=color)
    canvas.blob((0.42, 0.44), (0.58, 0.44), (0.56, 0.72), (0.5, 0.8), (0.44, 0.72), fill=tint(color, 0.25))
    canvas.rectangle(0.46, 0.92, 0.54, 0.98, WOOD)


def pizza_slice(canvas: Canvas, color: Color) -> None:
    canvas.blob((0.08, 0.2), (0.5, 0.06), (0.92, 0.2), (0.9, 0.32), (0.5, 0.2), (0.1, 0.32), fill=CRUST)
    canvas.polygon((0.12, 0.28), (0.5, 0.18), (0.88, 0.28), (0.5, 0.96), fill=color)
    canvas.blob((0.3, 0.56), (0.36, 0.56), (0.38, 0.76), (0.33, 0.76), fill=color)
    for x, y in ((0.34, 0.36), (0.62, 0.34), (0.5, 0.58)):
        canvas.disc(x, y, 0.085, shade(color, 0.55))
        canvas.disc(x - 0.01, y - 0.01, 0.055, shade(color, 0.7))
    for x, y in ((0.48, 0.3), (0.62, 0.5), (0.44, 0.76)):
        canvas.ellipse(x, y, x + 0.07, y + 0.04, LEAF)


def pizza_whole(canvas: Canvas, color: Color) -> None:
    canvas.disc(0.5, 0.5, 0.46, CRUST)
    canvas.disc(0.5, 0.5, 0.45, DOUGH)
    canvas.disc(0.5, 0.5, 0.37, color)
    for k in range(3):
        x, y = 0.37 * math.cos(k * math.pi / 3), 0.37 * math.sin(k * math.pi / 3)
        canvas.line((0.5 - x, 0.5 - y), (0.5 + x, 0.5 + y), shade(color, 0.72), width=0.015)
    for x, y in ((0.36, 0.32), (0.64, 0.34), (0.3, 0.56), (0.52, 0.5), (0.7, 0.6), (0.46, 0.74)):
        canvas.disc(x, y, 0.075, shade(color, 0.55))
        canvas.disc(x - 0.01, y - 0.01, 0.05, shade(color, 0.7))
    for x, y in ((0.48, 0.24), (0.22, 0.44), (0.6, 0.7), (0.74, 0.46), (0.36, 0.66)):
        canvas.ellipse(x, y, x + 0.07, y + 0.04, LEAF)


def cake_tall(canvas: Canvas, color: Color) -> None:
    canvas.ellipse(0.02, 0.78, 0.98, 0.95, (205, 208, 216))
    canvas.rectangle(0.12, 0.55, 0.88, 0.86, color, radius=0.04)
    canvas.rectangle(0.26, 0.28, 0.74, 0.58, color, radius=0.04)
    for left, right, y in ((0.12, 0.88, 0.57), (0.26, 0.74, 0.3)):
        canvas.rectangle(left, y - 0.04, right, y + 0.04, CREAM, radius=0.04)
        for k in range(int((right - left) / 0.12)):
            canvas.disc(left + 0.08 + 0.12 * k, y + 0.04, 0.05, CREAM)
    canvas.rectangle(0.12, 0.76, 0.88, 0.81, shade(color, 0.65))
    canvas.disc(0.5, 0.2, 0.08, CHERRY)
    canvas.line((0.51, 0.14), (0.58, 0.05), LEAF, width=0.02)


def cake_slice(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.06, 0.42), (0.94, 0.3), (0.94, 0.76), (0.06, 0.88), fill=DOUGH)
    canvas.polygon((0.06, 0.58), (0.94, 0.46), (0.94, 0.55), (0.06, 0.67), fill=color)
    canvas.polygon((0.06, 0.42), (0.58, 0.16), (0.94, 0.3), fill=tint(color, 0.25))
    canvas.polygon((0.06, 0.41), (0.94, 0.29), (0.94, 0.42), (0.06, 0.53), fill=color)
    for x, drop in ((0.16, 0.54), (0.34, 0.52), (0.52, 0.48), (0.7, 0.46), (0.86, 0.43)):
        canvas.disc(x, drop - 0.02, 0.055, color)
    canvas.polygon((0.84, 0.3), (0.94, 0.29), (0.97, 0.76), (0.9, 0.78), fill=color)
    canvas.disc(0.62, 0.19, 0.09, CHERRY)
    canvas.disc(0.59, 0.16, 0.025, CREAM)


def cake_candles(canvas: Canvas, color: Color) -> None:
    canvas.ellipse(0.02, 0.78, 0.98, 0.96, (205, 208, 216))
    for x in (0.3, 0.5, 0.7):
        canvas.rectangle(x - 0.025, 0.2, x + 0.025, 0.46, CREAM)
        canvas.blob((x, 0.05), (x - 0.04, 0.15), (x, 0.2), (x + 0.04, 0.15), fill=(250, 190, 50))
    canvas.rectangle(0.1, 0.46, 0.9, 0.8, color)
    canvas.ellipse(0.1, 0.7, 0.9, 0.9, color)
    canvas.ellipse(0.1, 0.36, 0.9, 0.56, tint(color, 0.45))
    for k, x in enumerate((0.17, 0.28, 0.39, 0.5, 0.61, 0.72, 0.83)):
        canvas.disc(x, 0.5 + 0.055 * math.sin(math.pi * (k + 1) / 8), 0.06, tint(color, 0.45))
    canvas.arc(0.5, 0.7, (0.4, 0.12), (5, 175), shade(color, 0.65), width=0.05)
    for x in (0.3, 0.5, 0.7):
        canvas.rectangle(x - 0.025, 0.3, x + 0.025, 0.45, CREAM)


def donut_ring(canvas: Canvas, color: Color) -> None:
    canvas.disc(0.5, 0.5, 0.46, DOUGH)
    icing = []
    for k in range(14):
        angle, reach = k * math.tau / 14, 0.42 if k % 2 else 0.37
        icing.append((0.5 + reach * math.cos(angle), 0.5 + reach * math.sin(angle)))
    canvas.blob(*icing, fill=color)
    sprinkles(canvas, 0.27, 0.27)
    canvas.disc(0.5, 0.5, 0.15, DOUGH)
    canvas.erase(0.37, 0.38, 0.63, 0.64)


def donut_tilted(canvas: Canvas, color: Color) -> None:
    canvas.blob(
        (0.03, 0.56),
        (0.2, 0.28),
        (0.5, 0.2),
        (0.8, 0.28),
        (0.97, 0.56),
        (0.8, 0.82),
        (0.5, 0.89),
        (0.2, 0.82),
        fill=DOUGH,
    )
    canvas.blob(
        (0.06, 0.5),
        (0.22, 0.26),
        (0.5, 0.19),
        (0.78, 0.26),
        (0.94, 0.5),
        (0.86, 0.64),
        (0.74, 0.6),
        (0.62, 0.72),
        (0.48, 0.66),
        (0.34, 0.72),
        (0.22, 0.61),
        (0.12, 0.64),
        fill=color,
    )
    sprinkles(canvas, 0.3, 0.17, 0.45)
    canvas.ellipse(0.33, 0.35, 0.67, 0.53, shade(DOUGH, 0.8))
    canvas.erase(0.37, 0.4, 0.63, 0.53)


def sprinkles(canvas: Canvas, across: float, down: float, y: float = 0.5) -> None:
    """Sugar on a donut's icing, on an ellipse around its hole."""
    for k, fill in enumerate(((255, 255, 255), (250, 220, 80), (90, 190, 230), (245, 130, 170)) * 2):
        angle = k * math.tau / 8 + 0.3
        x, top, lean = 0.5 + across * math.cos(angle), y + down * math.sin(angle), 0.03 * (-1) ** k
        canvas.line((x - lean, top - 0.02), (x + lean, top + 0.02), fill, width=0.022)


FOOD: dict[str, tuple[Style, ...]] = {
    "cup": (cup_mug, cup_saucer),
    "bowl": (bowl_plain, bowl_deep),
    "bottle": (bottle_wine, bottle_round, bottle_water),
    "apple": (apple_whole, apple_half, apple_bitten),
    "banana": (banana_single, banana_bunch, banana_peeled),
    "pizza": (pizza_slice, pizza_whole),
    "cake": (cake_tall, cake_slice, cake_candles),
    "donut": (donut_ring, donut_tilted),
}
