"""Animals, each in several styles; they look to the right, or at you."""

from __future__ import annotations

from locinv_pl.scenes.canvas import INK, PUPIL, Canvas, Color, Style, shade, tint

WHITE, PINK, BEAK, HOOF, HORN = (250, 250, 250), (235, 150, 160), (240, 160, 30), (70, 55, 50), (235, 222, 190)


def eye(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """A round eye that stands out on any colour."""
    canvas.disc(x, y, radius, WHITE)
    canvas.disc(x + radius * 0.15, y + radius * 0.1, radius * 0.7, PUPIL)
    canvas.disc(x + radius * 0.4, y - radius * 0.2, radius * 0.22, WHITE)


def legs(canvas: Canvas, xs: tuple[float, ...], top: float, width: float, fill: Color, foot: Color) -> None:
    """Legs at these left edges down to the ground."""
    for x in xs:
        canvas.rectangle(x, top, x + width, 0.93, fill, radius=width / 3)
        canvas.rectangle(x, 0.88, x + width, 0.94, foot, radius=width / 4)


def cat_face(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.18, 0.45), (0.22, 0.08), (0.45, 0.25), fill=color)
    canvas.polygon((0.82, 0.45), (0.78, 0.08), (0.55, 0.25), fill=color)
    canvas.ellipse(0.15, 0.18, 0.85, 0.8, color)
    for left, pupil in ((0.3, 0.34), (0.58, 0.61)):
        canvas.ellipse(left, 0.4, left + 0.12, 0.55, (250, 250, 210))
        canvas.ellipse(pupil, 0.43, pupil + 0.05, 0.54, PUPIL)
    canvas.polygon((0.46, 0.58), (0.54, 0.58), (0.5, 0.64), fill=(230, 120, 130))
    for side in (-1, 1):
        for tip in (0.57, 0.69):
            canvas.line((0.5 + 0.1 * side, 0.63), (0.5 + 0.38 * side, tip), INK, width=0.01)


def cat_sitting(canvas: Canvas, color: Color) -> None:
    dark, light = shade(color, 0.72), tint(color, 0.35)
    canvas.stroke((0.34, 0.88), (0.14, 0.88), (0.1, 0.68), (0.2, 0.56), fill=dark, width=0.09)
    canvas.blob((0.4, 0.4), (0.3, 0.68), (0.28, 0.93), (0.72, 0.93), (0.7, 0.68), (0.6, 0.4), fill=color)
    canvas.ellipse(0.41, 0.46, 0.59, 0.72, light)
    for paw in (0.4, 0.52):
        canvas.rectangle(paw, 0.66, paw + 0.085, 0.95, shade(color, 0.85), radius=0.04)
    for side in (-1, 1):
        canvas.polygon((0.5 + 0.24 * side, 0.3), (0.5 + 0.23 * side, 0.03), (0.5 + 0.04 * side, 0.15), fill=color)
        canvas.polygon((0.5 + 0.2 * side, 0.22), (0.5 + 0.19 * side, 0.1), (0.5 + 0.1 * side, 0.16), fill=PINK)
    canvas.ellipse(0.25, 0.12, 0.75, 0.5, color)
    for x in (0.39, 0.61):
        canvas.ellipse(x - 0.055, 0.23, x + 0.055, 0.36, (245, 240, 160))
        canvas.ellipse(x - 0.022, 0.24, x + 0.022, 0.35, PUPIL)
    canvas.polygon((0.46, 0.38), (0.54, 0.38), (0.5, 0.43), fill=(230, 110, 125))


def cat_walking(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.7)
    canvas.stroke((0.2, 0.55), (0.08, 0.42), (0.1, 0.22), (0.2, 0.16), fill=dark, width=0.075)
    legs(canvas, (0.3, 0.56), 0.6, 0.08, dark, dark)
    canvas.blob(
        (0.15, 0.56), (0.3, 0.45), (0.55, 0.47), (0.7, 0.44), (0.76, 0.6), (0.6, 0.72), (0.28, 0.73), fill=color
    )
    legs(canvas, (0.19, 0.64), 0.6, 0.09, color, tint(color, 0.35))
    canvas.polygon((0.6, 0.32), (0.62, 0.1), (0.75, 0.22), fill=color)
    canvas.polygon((0.95, 0.32), (0.93, 0.1), (0.8, 0.22), fill=color)
    canvas.ellipse(0.58, 0.18, 0.97, 0.52, color)
    for x in (0.71, 0.87):
        canvas.ellipse(x - 0.04, 0.28, x + 0.04, 0.38, (245, 240, 160))
        canvas.ellipse(x - 0.015, 0.285, x + 0.02, 0.375, PUPIL)
    canvas.polygon((0.76, 0.4), (0.83, 0.4), (0.795, 0.45), fill=(230, 110, 125))


def dog_face(canvas: Canvas, color: Color) -> None:
    canvas.ellipse(0.2, 0.15, 0.8, 0.8, color)
    for ear in (0.05, 0.7):
        canvas.ellipse(ear, 0.2, ear + 0.25, 0.65, shade(color, 0.6))
    for left in (0.33, 0.58):
        canvas.ellipse(left, 0.35, left + 0.09, 0.45, PUPIL)
    canvas.ellipse(0.33, 0.48, 0.67, 0.78, shade(color, 1.35))
    canvas.ellipse(0.43, 0.5, 0.57, 0.6, (25, 25, 25))
    canvas.rectangle(0.45, 0.7, 0.55, 0.84, (225, 100, 110))


def dog_standing(canvas: Canvas, color: Color) -> None:
    dark, light = shade(color, 0.65), tint(color, 0.35)
    canvas.stroke((0.16, 0.5), (0.07, 0.4), (0.06, 0.26), fill=color, width=0.07)
    legs(canvas, (0.25, 0.54), 0.6, 0.08, dark, dark)
    canvas.blob((0.12, 0.5), (0.3, 0.43), (0.56, 0.43), (0.72, 0.4), (0.72, 0.62), (0.5, 0.7), (0.2, 0.72), fill=color)
    legs(canvas, (0.14, 0.62), 0.58, 0.1, color, light)
    canvas.blob(
        (0.56, 0.2), (0.7, 0.12), (0.82, 0.2), (0.97, 0.32), (0.94, 0.43), (0.76, 0.47), (0.6, 0.44), fill=color
    )
    canvas.blob((0.78, 0.33), (0.93, 0.3), (0.97, 0.38), (0.88, 0.45), (0.78, 0.44), fill=light)
    canvas.disc(0.945, 0.315, 0.038, (25, 25, 25))
    canvas.blob((0.56, 0.16), (0.66, 0.2), (0.68, 0.4), (0.58, 0.48), (0.5, 0.36), fill=dark)
    eye(canvas, 0.76, 0.25, 0.04)
    canvas.rectangle(0.57, 0.46, 0.74, 0.51, (200, 60, 60), radius=0.02)


def dog_sitting(canvas: Canvas, color: Color) -> None:
    dark, light = shade(color, 0.62), tint(color, 0.35)
    canvas.stroke((0.3, 0.88), (0.16, 0.84), (0.1, 0.68), fill=color, width=0.08)
    canvas.blob((0.4, 0.4), (0.25, 0.74), (0.28, 0.94), (0.72, 0.94), (0.75, 0.74), (0.6, 0.4), fill=color)
    canvas.ellipse(0.39, 0.46, 0.61, 0.76, light)
    for paw in (0.38, 0.52):
        canvas.rectangle(paw, 0.64, paw + 0.1, 0.95, shade(color, 0.85), radius=0.045)
    canvas.ellipse(0.27, 0.07, 0.73, 0.5, color)
    for side in (-1, 1):
        canvas.blob(
            *((0.5 + side * x, y) for x, y in ((0.14, 0.09), (0.27, 0.12), (0.3, 0.38), (0.2, 0.36))), fill=dark
        )
        eye(canvas, 0.5 + 0.095 * side, 0.24, 0.042)
    canvas.ellipse(0.37, 0.3, 0.63, 0.48, light)
    canvas.ellipse(0.445, 0.31, 0.555, 0.385, (25, 25, 25))
    canvas.rectangle(0.46, 0.43, 0.54, 0.53, (225, 100, 110), radius=0.03)


def bird_side(canvas: Canvas, color: Color) -> None:
    canvas.ellipse(0.2, 0.35, 0.75, 0.75, color)
    canvas.ellipse(0.55, 0.15, 0.88, 0.48, color)
    canvas.polygon((0.86, 0.28), (1.0, 0.33), (0.86, 0.38), fill=(240, 160, 30))
    canvas.polygon((0.28, 0.5), (0.02, 0.35), (0.1, 0.62), fill=shade(color, 0.75))
    canvas.ellipse(0.32, 0.42, 0.62, 0.64, shade(color, 0.7))
    canvas.ellipse(0.7, 0.24, 0.77, 0.31, (15, 15, 15))
    for leg in (0.45, 0.55):
        canvas.line((leg, 0.74), (leg, 0.92), (200, 120, 30), width=0.03)


def bird_flying(canvas: Canvas, color: Color) -> None:
    dark, deep = shade(color, 0.78), shade(color, 0.6)
    canvas.polygon((0.5, 0.48), (0.72, 0.06), (0.62, 0.04), (0.36, 0.46), fill=deep)
    canvas.polygon((0.26, 0.54), (0.03, 0.44), (0.06, 0.54), (0.03, 0.66), (0.26, 0.62), fill=dark)
    canvas.blob((0.2, 0.56), (0.45, 0.42), (0.66, 0.46), (0.74, 0.58), (0.56, 0.7), (0.36, 0.67), fill=color)
    canvas.disc(0.77, 0.48, 0.125, color)
    canvas.polygon((0.87, 0.43), (1.0, 0.5), (0.87, 0.53), fill=BEAK)
    eye(canvas, 0.8, 0.45, 0.04)
    canvas.blob((0.34, 0.54), (0.28, 0.3), (0.14, 0.1), (0.36, 0.16), (0.56, 0.34), (0.6, 0.54), (0.46, 0.6), fill=dark)
    for tip, root in ((0.24, 0.42), (0.33, 0.48), (0.42, 0.54)):
        canvas.line((tip, tip * 0.9), (root, 0.5), deep, width=0.012)


def bird_front(canvas: Canvas, color: Color) -> None:
    for x in (0.4, 0.6):
        canvas.line((x, 0.85), (x, 0.94), BEAK, width=0.035)
        canvas.line((x - 0.06, 0.95), (x + 0.06, 0.95), BEAK, width=0.03)
    for side in (-1, 1):
        canvas.blob(
            *((0.5 + side * x, y) for x, y in ((0.26, 0.4), (0.45, 0.6), (0.4, 0.72), (0.2, 0.7))),
            fill=shade(color, 0.7),
        )
    canvas.polygon((0.44, 0.2), (0.4, 0.02), (0.51, 0.12), (0.6, 0.03), (0.56, 0.2), fill=shade(color, 0.7))
    canvas.ellipse(0.18, 0.12, 0.82, 0.88, color)
    canvas.ellipse(0.3, 0.5, 0.7, 0.85, tint(color, 0.4))
    for x in (0.36, 0.64):
        eye(canvas, x, 0.35, 0.085)
    canvas.polygon((0.42, 0.43), (0.58, 0.43), (0.5, 0.56), fill=BEAK)


def fish_side(canvas: Canvas, color: Color) -> None:
    fin = shade(color, 0.7)
    canvas.ellipse(0.2, 0.3, 0.9, 0.72, color)
    canvas.polygon((0.25, 0.5), (0.0, 0.28), (0.0, 0.74), fill=fin)
    canvas.polygon((0.45, 0.32), (0.6, 0.14), (0.68, 0.34), fill=fin)
    canvas.ellipse(0.72, 0.4, 0.82, 0.5, (255, 255, 255))
    canvas.ellipse(0.76, 0.43, 0.81, 0.48, (0, 0, 0))
    for gill in (0.4, 0.52):
        canvas.arc(gill, 0.51, (0.08, 0.13), (-80, 80), shade(color, 0.55), width=0.03)


def fish_tall(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.65)
    canvas.blob((0.3, 0.5), (0.12, 0.3), (0.04, 0.3), (0.1, 0.5), (0.04, 0.72), (0.12, 0.7), fill=dark)
    canvas.blob((0.34, 0.36), (0.4, 0.06), (0.6, 0.05), (0.7, 0.3), fill=dark)
    canvas.blob((0.34, 0.64), (0.42, 0.95), (0.58, 0.95), (0.68, 0.7), fill=dark)
    canvas.blob((0.24, 0.5), (0.45, 0.22), (0.7, 0.24), (0.95, 0.5), (0.7, 0.76), (0.45, 0.78), fill=color)
    for x, half in ((0.42, 0.23), (0.6, 0.25)):
        canvas.line((x, 0.5 - half), (x, 0.5 + half), tint(color, 0.4), width=0.06)
    eye(canvas, 0.78, 0.43, 0.06)
    canvas.arc(0.92, 0.56, (0.06, 0.05), (70, 200), INK, width=0.015)


def fish_long(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.65)
    canvas.polygon((0.2, 0.5), (0.02, 0.3), (0.07, 0.5), (0.02, 0.7), fill=dark)
    canvas.polygon((0.38, 0.4), (0.5, 0.22), (0.7, 0.4), fill=dark)
    canvas.polygon((0.4, 0.6), (0.38, 0.76), (0.56, 0.62), fill=dark)
    canvas.blob(
        (0.14, 0.5), (0.4, 0.36), (0.72, 0.35), (0.97, 0.49), (0.9, 0.58), (0.68, 0.65), (0.4, 0.63), fill=color
    )
    canvas.blob((0.2, 0.54), (0.5, 0.55), (0.93, 0.55), (0.7, 0.63), (0.42, 0.61), fill=tint(color, 0.4))
    canvas.arc(0.7, 0.5, (0.06, 0.13), (-80, 80), dark, width=0.02)
    eye(canvas, 0.85, 0.45, 0.042)


def horse_side(canvas: Canvas, color: Color) -> None:
    dark, mane = shade(color, 0.68), shade(color, 0.45)
    canvas.stroke((0.14, 0.42), (0.05, 0.52), (0.06, 0.74), fill=mane, width=0.08)
    legs(canvas, (0.22, 0.54), 0.58, 0.065, dark, HOOF)
    canvas.blob(
        (0.1, 0.46), (0.24, 0.38), (0.48, 0.41), (0.64, 0.36), (0.7, 0.5), (0.6, 0.64), (0.22, 0.65), fill=color
    )
    legs(canvas, (0.13, 0.61), 0.55, 0.075, color, HOOF)
    canvas.polygon((0.5, 0.44), (0.64, 0.12), (0.8, 0.18), (0.7, 0.52), fill=color)
    canvas.blob((0.62, 0.1), (0.76, 0.07), (0.95, 0.25), (0.94, 0.34), (0.85, 0.35), (0.7, 0.26), fill=color)
    canvas.blob((0.86, 0.24), (0.94, 0.25), (0.95, 0.34), (0.87, 0.35), fill=tint(color, 0.35))
    canvas.polygon((0.66, 0.12), (0.68, 0.01), (0.74, 0.1), fill=color)
    canvas.blob((0.68, 0.05), (0.6, 0.08), (0.44, 0.38), (0.5, 0.47), (0.6, 0.3), (0.68, 0.16), fill=mane)
    eye(canvas, 0.77, 0.18, 0.03)


def horse_head(canvas: Canvas, color: Color) -> None:
    mane = shade(color, 0.45)
    canvas.polygon((0.42, 0.18), (0.44, 0.01), (0.56, 0.16), fill=shade(color, 0.8))
    canvas.blob((0.4, 0.2), (0.2, 0.5), (0.12, 0.95), (0.62, 0.95), (0.58, 0.6), (0.62, 0.3), fill=color)
    canvas.blob(
        (0.38, 0.16),
        (0.56, 0.12),
        (0.72, 0.26),
        (0.92, 0.52),
        (0.88, 0.66),
        (0.76, 0.66),
        (0.6, 0.5),
        (0.44, 0.44),
        fill=color,
    )
    canvas.blob((0.78, 0.5), (0.91, 0.52), (0.89, 0.65), (0.77, 0.66), fill=tint(color, 0.35))
    canvas.disc(0.86, 0.56, 0.02, INK)
    canvas.blob(
        (0.5, 0.08),
        (0.38, 0.1),
        (0.22, 0.36),
        (0.08, 0.72),
        (0.1, 0.9),
        (0.24, 0.7),
        (0.36, 0.4),
        (0.52, 0.24),
        fill=mane,
    )
    eye(canvas, 0.6, 0.3, 0.045)
    canvas.line((0.56, 0.5), (0.77, 0.36), (120, 60, 40), width=0.025)


def wool(canvas: Canvas, color: Color) -> None:
    """A sheep's fleece."""
    for x, y in (
        (0.22, 0.45),
        (0.36, 0.36),
        (0.52, 0.36),
        (0.64, 0.45),
        (0.62, 0.6),
        (0.48, 0.67),
        (0.32, 0.67),
        (0.2, 0.6),
    ):
        canvas.disc(x, y, 0.14, color)
    canvas.ellipse(0.18, 0.34, 0.68, 0.7, color)
    for x, y in ((0.28, 0.5), (0.43, 0.46), (0.38, 0.61), (0.54, 0.58)):
        canvas.arc(x, y, (0.07, 0.06), (20, 200), shade(color, 0.78), width=0.02)


def sheep_side(canvas: Canvas, color: Color) -> None:
    legs(canvas, (0.2, 0.32, 0.5, 0.62), 0.65, 0.07, (65, 60, 62), INK)
    wool(canvas, color)
    canvas.blob((0.68, 0.24), (0.84, 0.24), (0.95, 0.42), (0.88, 0.54), (0.74, 0.5), (0.66, 0.38), fill=(80, 72, 74))
    canvas.ellipse(0.6, 0.27, 0.74, 0.37, (60, 54, 56))
    canvas.disc(0.7, 0.24, 0.09, color)
    eye(canvas, 0.82, 0.35, 0.035)


def sheep_face(canvas: Canvas, color: Color) -> None:
    for side in (-1, 1):
        canvas.blob(
            *((0.5 + side * x, y) for x, y in ((0.2, 0.42), (0.38, 0.36), (0.46, 0.46), (0.3, 0.54))), fill=(95, 85, 88)
        )
    for x, y in (
        (0.28, 0.3),
        (0.4, 0.18),
        (0.6, 0.18),
        (0.72, 0.3),
        (0.24, 0.68),
        (0.76, 0.68),
        (0.36, 0.82),
        (0.64, 0.82),
        (0.5, 0.86),
    ):
        canvas.disc(x, y, 0.13, color)
    canvas.ellipse(0.22, 0.16, 0.78, 0.88, color)
    canvas.blob((0.34, 0.36), (0.66, 0.36), (0.68, 0.56), (0.58, 0.8), (0.42, 0.8), (0.32, 0.56), fill=(80, 72, 74))
    for x in (0.36, 0.5, 0.64):
        canvas.disc(x, 0.33, 0.09, color)
    for x in (0.42, 0.58):
        eye(canvas, x, 0.52, 0.05)
    canvas.ellipse(0.44, 0.68, 0.56, 0.75, PINK)


def cow_side(canvas: Canvas, color: Color) -> None:
    dark, patch = shade(color, 0.7), shade(color, 0.45)
    canvas.stroke((0.1, 0.42), (0.04, 0.55), (0.05, 0.7), fill=dark, width=0.035)
    canvas.disc(0.05, 0.73, 0.04, patch)
    legs(canvas, (0.2, 0.52), 0.6, 0.075, dark, HOOF)
    canvas.ellipse(0.3, 0.62, 0.46, 0.74, PINK)
    canvas.rectangle(0.08, 0.36, 0.7, 0.68, color, radius=0.1)
    canvas.blob((0.16, 0.36), (0.34, 0.36), (0.36, 0.48), (0.24, 0.54), fill=patch)
    canvas.blob((0.46, 0.5), (0.58, 0.46), (0.64, 0.58), (0.52, 0.66), fill=patch)
    legs(canvas, (0.1, 0.6), 0.6, 0.085, color, HOOF)
    for x in (0.66, 0.84):
        canvas.stroke((x, 0.26), (x + 0.03 * (1 if x > 0.7 else -1), 0.17), fill=HORN, width=0.04)
    canvas.ellipse(0.54, 0.25, 0.68, 0.34, patch)
    canvas.blob((0.62, 0.24), (0.88, 0.24), (0.9, 0.42), (0.86, 0.54), (0.68, 0.54), (0.62, 0.42), fill=color)
    canvas.ellipse(0.63, 0.43, 0.93, 0.6, PINK)
    for x in (0.72, 0.84):
        canvas.disc(x, 0.51, 0.02, (150, 80, 90))
        eye(canvas, x - 0.01, 0.35, 0.035)


def cow_face(canvas: Canvas, color: Color) -> None:
    patch = shade(color, 0.45)
    for side in (-1, 1):
        canvas.stroke(
            (0.5 + 0.16 * side, 0.2), (0.5 + 0.3 * side, 0.16), (0.5 + 0.33 * side, 0.04), fill=HORN, width=0.075
        )
        canvas.blob(
            *((0.5 + side * x, y) for x, y in ((0.22, 0.28), (0.4, 0.22), (0.48, 0.32), (0.32, 0.42))), fill=patch
        )
    canvas.blob((0.28, 0.2), (0.5, 0.13), (0.72, 0.2), (0.76, 0.45), (0.68, 0.8), (0.32, 0.8), (0.24, 0.45), fill=color)
    canvas.blob((0.52, 0.15), (0.72, 0.2), (0.75, 0.44), (0.62, 0.54), (0.52, 0.34), fill=patch)
    canvas.ellipse(0.22, 0.6, 0.78, 0.94, PINK)
    for x in (0.38, 0.62):
        canvas.ellipse(x - 0.045, 0.7, x + 0.045, 0.79, (150, 80, 90))
        eye(canvas, x, 0.4, 0.065)


def elephant_side(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.68)
    canvas.stroke((0.1, 0.42), (0.04, 0.52), (0.05, 0.62), fill=dark, width=0.035)
    legs(canvas, (0.24, 0.5), 0.6, 0.12, dark, dark)
    canvas.blob(
        (0.08, 0.5), (0.18, 0.26), (0.42, 0.2), (0.62, 0.28), (0.66, 0.56), (0.5, 0.72), (0.18, 0.72), fill=color
    )
    legs(canvas, (0.1, 0.42), 0.58, 0.14, color, (225, 215, 205))
    canvas.stroke((0.84, 0.36), (0.92, 0.52), (0.9, 0.74), (0.95, 0.84), fill=color, width=0.11)
    canvas.stroke((0.78, 0.52), (0.84, 0.6), (0.94, 0.6), fill=(245, 240, 225), width=0.04)
    canvas.ellipse(0.52, 0.16, 0.92, 0.56, color)
    canvas.blob((0.5, 0.2), (0.66, 0.18), (0.72, 0.36), (0.64, 0.56), (0.48, 0.52), (0.42, 0.36), fill=dark)
    eye(canvas, 0.8, 0.31, 0.035)


def elephant_face(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.7)
    for side in (-1, 1):
        ear = ((0.14, 0.2), (0.34, 0.08), (0.47, 0.24), (0.45, 0.5), (0.3, 0.6), (0.16, 0.48))
        canvas.blob(*((0.5 + side * x, y) for x, y in ear), fill=color)
        canvas.blob(*((0.5 + side * (x * 0.75 + 0.06), y * 0.75 + 0.08) for x, y in ear), fill=dark)
    canvas.blob((0.32, 0.16), (0.5, 0.08), (0.68, 0.16), (0.7, 0.42), (0.6, 0.6), (0.4, 0.6), (0.3, 0.42), fill=color)
    for side in (-1, 1):
        canvas.stroke((0.5 + 0.13 * side, 0.54), (0.5 + 0.17 * side, 0.68), fill=(245, 240, 225), width=0.06)
        eye(canvas, 0.5 + 0.11 * side, 0.32, 0.05)
    canvas.stroke((0.5, 0.44), (0.5, 0.7), (0.52, 0.86), (0.64, 0.88), fill=shade(color, 0.88), width=0.14)
    for y in (0.58, 0.67, 0.76):
        canvas.line((0.45, y), (0.55, y), dark, width=0.015)


def bear_face(canvas: Canvas, color: Color) -> None:
    for x in (0.23, 0.77):
        canvas.disc(x, 0.24, 0.16, color)
        canvas.disc(x, 0.24, 0.085, shade(color, 0.6))
    canvas.ellipse(0.12, 0.14, 0.88, 0.88, color)
    canvas.ellipse(0.3, 0.48, 0.7, 0.83, tint(color, 0.4))
    canvas.ellipse(0.41, 0.5, 0.59, 0.62, (25, 25, 25))
    canvas.line((0.5, 0.6), (0.5, 0.71), INK, width=0.015)
    canvas.arc(0.5, 0.66, (0.1, 0.07), (10, 170), INK, width=0.015)
    for x in (0.34, 0.66):
        eye(canvas, x, 0.4, 0.055)


def bear_sitting(canvas: Canvas, color: Color) -> None:
    dark, light = shade(color, 0.72), tint(color, 0.4)
    for side in (-1, 1):
        canvas.blob(*((0.5 + side * x, y) for x, y in ((0.14, 0.46), (0.3, 0.5), (0.36, 0.66), (0.26, 0.7))), fill=dark)
        canvas.disc(0.5 + 0.17 * side, 0.11, 0.085, color)
        canvas.disc(0.5 + 0.17 * side, 0.11, 0.045, light)
    canvas.ellipse(0.24, 0.4, 0.76, 0.93, color)
    canvas.ellipse(0.35, 0.5, 0.65, 0.85, light)
    for side in (-1, 1):
        canvas.ellipse(0.5 + 0.24 * side - 0.13, 0.74, 0.5 + 0.24 * side + 0.13, 0.96, dark)
        canvas.disc(0.5 + 0.24 * side, 0.86, 0.06, light)
    canvas.ellipse(0.26, 0.08, 0.74, 0.5, color)
    canvas.ellipse(0.38, 0.28, 0.62, 0.46, light)
    canvas.ellipse(0.45, 0.29, 0.55, 0.36, (25, 25, 25))
    for x in (0.39, 0.61):
        eye(canvas, x, 0.24, 0.038)


def bear_walking(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.68)
    legs(canvas, (0.26, 0.56), 0.62, 0.12, dark, dark)
    canvas.blob(
        (0.05, 0.56),
        (0.14, 0.36),
        (0.36, 0.3),
        (0.6, 0.3),
        (0.74, 0.42),
        (0.7, 0.64),
        (0.4, 0.74),
        (0.12, 0.74),
        fill=color,
    )
    legs(canvas, (0.09, 0.6), 0.6, 0.14, color, HOOF)
    canvas.disc(0.68, 0.24, 0.065, dark)
    canvas.blob(
        (0.6, 0.3), (0.72, 0.22), (0.84, 0.3), (0.97, 0.44), (0.93, 0.54), (0.76, 0.57), (0.62, 0.5), fill=color
    )
    canvas.blob((0.84, 0.4), (0.93, 0.4), (0.97, 0.47), (0.9, 0.54), (0.83, 0.52), fill=tint(color, 0.4))
    canvas.disc(0.945, 0.43, 0.033, (25, 25, 25))
    eye(canvas, 0.79, 0.37, 0.035)


def giraffe_side(canvas: Canvas, color: Color) -> None:
    dark, spot = shade(color, 0.72), shade(color, 0.5)
    canvas.stroke((0.2, 0.56), (0.12, 0.64), (0.13, 0.72), fill=spot, width=0.03)
    legs(canvas, (0.28, 0.5), 0.64, 0.055, dark, HOOF)
    canvas.blob((0.18, 0.56), (0.34, 0.5), (0.5, 0.46), (0.62, 0.5), (0.62, 0.66), (0.4, 0.7), (0.22, 0.69), fill=color)
    legs(canvas, (0.2, 0.56), 0.6, 0.065, color, HOOF)
    canvas.polygon((0.44, 0.54), (0.63, 0.1), (0.74, 0.14), (0.63, 0.58), fill=color)
    canvas.polygon((0.45, 0.48), (0.62, 0.08), (0.64, 0.12), (0.48, 0.48), fill=spot)
    for x in (0.66, 0.72):
        canvas.line((x, 0.1), (x, 0.02), spot, width=0.02)
        canvas.disc(x, 0.03, 0.022, HOOF)
    canvas.blob((0.6, 0.1), (0.72, 0.06), (0.9, 0.18), (0.88, 0.25), (0.72, 0.22), fill=color)
    canvas.blob((0.81, 0.16), (0.9, 0.18), (0.88, 0.25), (0.8, 0.23), fill=tint(color, 0.35))
    for x, y, r in (
        (0.3, 0.58, 0.04),
        (0.41, 0.55, 0.035),
        (0.36, 0.65, 0.03),
        (0.48, 0.63, 0.04),
        (0.56, 0.55, 0.035),
        (0.56, 0.43, 0.03),
        (0.62, 0.33, 0.027),
        (0.63, 0.23, 0.023),
    ):
        canvas.disc(x, y, r, spot)
    eye(canvas, 0.74, 0.13, 0.026)


def giraffe_head(canvas: Canvas, color: Color) -> None:
    spot = shade(color, 0.5)
    canvas.polygon((0.38, 0.4), (0.62, 0.4), (0.7, 0.97), (0.3, 0.97), fill=color)
    for x, y, r in (
        (0.42, 0.72, 0.05),
        (0.57, 0.78, 0.055),
        (0.42, 0.9, 0.055),
        (0.6, 0.93, 0.04),
        (0.54, 0.65, 0.035),
    ):
        canvas.disc(x, y, r, spot)
    for side in (-1, 1):
        canvas.line((0.5 + 0.07 * side, 0.16), (0.5 + 0.09 * side, 0.05), spot, width=0.035)
        canvas.disc(0.5 + 0.09 * side, 0.05, 0.04, HOOF)
        canvas.blob(
            *((0.5 + side * x, y) for x, y in ((0.13, 0.2), (0.28, 0.12), (0.3, 0.2), (0.16, 0.27))),
            fill=shade(color, 0.75),
        )
    canvas.blob(
        (0.36, 0.16),
        (0.5, 0.12),
        (0.64, 0.16),
        (0.66, 0.32),
        (0.58, 0.5),
        (0.6, 0.6),
        (0.4, 0.6),
        (0.42, 0.5),
        (0.34, 0.32),
        fill=color,
    )
    canvas.ellipse(0.36, 0.46, 0.64, 0.65, tint(color, 0.4))
    for x in (0.45, 0.55):
        canvas.disc(x, 0.54, 0.018, INK)
    for x in (0.4, 0.6):
        eye(canvas, x, 0.29, 0.045)


ANIMALS: dict[str, tuple[Style, ...]] = {
    "cat": (cat_face, cat_sitting, cat_walking),
    "dog": (dog_face, dog_standing, dog_sitting),
    "bird": (bird_side, bird_flying, bird_front),
    "fish": (fish_side, fish_tall, fish_long),
    "horse": (horse_side, horse_head),
    "sheep": (sheep_side, sheep_face),
    "cow": (cow_side, cow_face),
    "elephant": (elephant_side, elephant_face),
    "bear": (bear_face, bear_sitting, bear_walking),
    "giraffe": (giraffe_side, giraffe_head),
}
