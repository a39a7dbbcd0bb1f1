"""Vehicles, each in several styles; they drive to the right, or at you."""

from __future__ import annotations

from locinv_pl.scenes.canvas import GLASS, INK, WOOD, Canvas, Color, Style, shade, tint

RIM, LAMP, BUMPER, SAIL = (190, 190, 190), (255, 240, 160), (90, 90, 98), (245, 240, 230)


def wheel(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """A tyre with its rim."""
    canvas.disc(x, y, radius, INK)
    canvas.disc(x, y, radius * 0.45, RIM)


def car_sedan(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.22, 0.48), (0.34, 0.25), (0.7, 0.25), (0.82, 0.48), fill=shade(color, 0.85))
    canvas.polygon((0.29, 0.46), (0.37, 0.3), (0.5, 0.3), (0.5, 0.46), fill=GLASS)
    canvas.polygon((0.54, 0.46), (0.54, 0.3), (0.67, 0.3), (0.75, 0.46), fill=GLASS)
    canvas.rectangle(0.04, 0.45, 0.96, 0.7, color, radius=0.08)
    for x in (0.25, 0.75):
        canvas.disc(x, 0.7, 0.12, INK)
        canvas.disc(x, 0.7, 0.05, (190, 190, 190))


def car_round(canvas: Canvas, color: Color) -> None:
    canvas.blob(
        (0.05, 0.62),
        (0.12, 0.44),
        (0.28, 0.24),
        (0.55, 0.2),
        (0.74, 0.4),
        (0.93, 0.5),
        (0.96, 0.68),
        (0.5, 0.73),
        (0.08, 0.72),
        fill=color,
    )
    canvas.blob((0.24, 0.46), (0.32, 0.3), (0.44, 0.28), (0.45, 0.46), fill=GLASS)
    canvas.blob((0.5, 0.46), (0.5, 0.28), (0.58, 0.29), (0.7, 0.46), fill=GLASS)
    canvas.line((0.08, 0.62), (0.95, 0.62), shade(color, 0.7), width=0.025)
    canvas.rectangle(0.5, 0.5, 0.57, 0.53, shade(color, 0.6), radius=0.01)
    canvas.ellipse(0.88, 0.5, 0.96, 0.59, LAMP)
    for x in (0.25, 0.74):
        canvas.disc(x, 0.7, 0.15, shade(color, 0.7))
        wheel(canvas, x, 0.71, 0.12)


def car_front(canvas: Canvas, color: Color) -> None:
    for x in (0.1, 0.74):
        canvas.rectangle(x, 0.66, x + 0.16, 0.9, INK, radius=0.04)
    canvas.polygon((0.16, 0.46), (0.27, 0.16), (0.73, 0.16), (0.84, 0.46), fill=shade(color, 0.8))
    canvas.polygon((0.23, 0.44), (0.31, 0.21), (0.69, 0.21), (0.77, 0.44), fill=GLASS)
    canvas.rectangle(0.06, 0.42, 0.94, 0.8, color, radius=0.1)
    canvas.rectangle(0.32, 0.55, 0.68, 0.67, INK, radius=0.04)
    canvas.rectangle(0.08, 0.72, 0.92, 0.8, BUMPER, radius=0.03)
    for x in (0.19, 0.81):
        canvas.disc(x, 0.58, 0.085, LAMP)
        canvas.disc(x, 0.58, 0.045, (255, 255, 245))


def bus_side(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.02, 0.2, 0.98, 0.78, color, radius=0.07)
    canvas.rectangle(0.02, 0.58, 0.98, 0.65, shade(color, 0.65))
    for x in (0.07, 0.24, 0.41, 0.58):
        canvas.rectangle(x, 0.28, x + 0.13, 0.48, GLASS, radius=0.02)
    canvas.rectangle(0.77, 0.28, 0.94, 0.72, GLASS, radius=0.02)
    canvas.line((0.855, 0.28), (0.855, 0.72), shade(color, 0.65), width=0.02)
    canvas.rectangle(0.93, 0.66, 0.98, 0.71, LAMP, radius=0.01)
    for x in (0.22, 0.66):
        wheel(canvas, x, 0.78, 0.1)


def bus_double(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.1, 0.06, 0.9, 0.84, color, radius=0.06)
    canvas.rectangle(0.1, 0.43, 0.9, 0.48, shade(color, 0.6))
    for x in (0.15, 0.34, 0.53, 0.72):
        canvas.rectangle(x, 0.14, x + 0.14, 0.34, GLASS, radius=0.02)
    for x in (0.15, 0.34):
        canvas.rectangle(x, 0.54, x + 0.14, 0.7, GLASS, radius=0.02)
    canvas.rectangle(0.53, 0.54, 0.66, 0.82, tint(GLASS, 0.3), radius=0.02)
    canvas.rectangle(0.72, 0.54, 0.88, 0.7, GLASS, radius=0.02)
    canvas.rectangle(0.85, 0.75, 0.91, 0.79, LAMP)
    for x in (0.28, 0.76):
        wheel(canvas, x, 0.84, 0.1)


def bus_front(canvas: Canvas, color: Color) -> None:
    for x in (0.18, 0.68):
        canvas.rectangle(x, 0.75, x + 0.14, 0.93, INK, radius=0.03)
    for x in (0.04, 0.9):
        canvas.rectangle(x, 0.32, x + 0.06, 0.48, INK, radius=0.02)
    canvas.rectangle(0.13, 0.06, 0.87, 0.85, color, radius=0.09)
    canvas.rectangle(0.28, 0.1, 0.72, 0.18, INK, radius=0.02)
    canvas.rectangle(0.33, 0.125, 0.67, 0.155, LAMP)
    canvas.rectangle(0.18, 0.22, 0.82, 0.54, GLASS, radius=0.04)
    canvas.line((0.5, 0.22), (0.5, 0.54), shade(color, 0.7), width=0.02)
    canvas.rectangle(0.36, 0.62, 0.64, 0.72, shade(color, 0.6), radius=0.02)
    canvas.rectangle(0.13, 0.77, 0.87, 0.84, BUMPER, radius=0.03)
    for x in (0.24, 0.76):
        canvas.disc(x, 0.67, 0.06, LAMP)


def train_steam(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.68)
    canvas.rectangle(0.68, 0.18, 0.79, 0.42, INK)
    canvas.polygon((0.64, 0.2), (0.66, 0.1), (0.81, 0.1), (0.83, 0.2), fill=INK)
    canvas.ellipse(0.46, 0.28, 0.6, 0.46, dark)
    canvas.rectangle(0.3, 0.38, 0.88, 0.68, color, radius=0.08)
    for x in (0.48, 0.66):
        canvas.line((x, 0.38), (x, 0.67), dark, width=0.03)
    canvas.rectangle(0.06, 0.2, 0.38, 0.72, shade(color, 0.85))
    canvas.rectangle(0.02, 0.13, 0.42, 0.21, dark, radius=0.02)
    canvas.rectangle(0.12, 0.28, 0.32, 0.46, GLASS, radius=0.02)
    canvas.rectangle(0.04, 0.67, 0.92, 0.75, dark)
    canvas.polygon((0.88, 0.66), (0.99, 0.86), (0.84, 0.86), fill=BUMPER)
    canvas.disc(0.89, 0.45, 0.045, LAMP)
    for x, radius in ((0.2, 0.13), (0.5, 0.1), (0.74, 0.1)):
        wheel(canvas, x, 0.92 - radius, radius)
    canvas.line((0.2, 0.82), (0.74, 0.82), RIM, width=0.03)


def train_fast(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.04, 0.72, 0.88, 0.82, BUMPER, radius=0.03)
    for x in (0.15, 0.3, 0.6, 0.75):
        canvas.disc(x, 0.81, 0.055, INK)
    canvas.blob(
        (0.02, 0.5),
        (0.03, 0.3),
        (0.3, 0.28),
        (0.62, 0.29),
        (0.86, 0.5),
        (0.98, 0.68),
        (0.9, 0.76),
        (0.4, 0.76),
        (0.03, 0.75),
        fill=color,
    )
    canvas.polygon((0.03, 0.58), (0.91, 0.58), (0.97, 0.66), (0.03, 0.66), fill=shade(color, 0.6))
    for x in (0.08, 0.2, 0.32, 0.44):
        canvas.rectangle(x, 0.38, x + 0.09, 0.5, GLASS, radius=0.02)
    canvas.polygon((0.6, 0.36), (0.66, 0.36), (0.82, 0.52), (0.6, 0.52), fill=GLASS)
    canvas.line((0.0, 0.89), (1.0, 0.89), (120, 110, 100), width=0.025)


def train_front(canvas: Canvas, color: Color) -> None:
    canvas.line((0.22, 0.97), (0.34, 0.8), (110, 105, 100), width=0.04)
    canvas.line((0.78, 0.97), (0.66, 0.8), (110, 105, 100), width=0.04)
    for y, half in ((0.88, 0.3), (0.95, 0.36)):
        canvas.line((0.5 - half, y), (0.5 + half, y), WOOD, width=0.035)
    canvas.rectangle(0.2, 0.06, 0.8, 0.82, color, radius=0.16)
    canvas.rectangle(0.2, 0.56, 0.8, 0.64, shade(color, 0.6))
    canvas.rectangle(0.27, 0.2, 0.73, 0.46, GLASS, radius=0.05)
    canvas.line((0.5, 0.2), (0.5, 0.46), shade(color, 0.7), width=0.03)
    canvas.disc(0.5, 0.13, 0.04, LAMP)
    canvas.polygon((0.2, 0.76), (0.8, 0.76), (0.72, 0.88), (0.28, 0.88), fill=BUMPER)
    for x in (0.31, 0.69):
        canvas.disc(x, 0.69, 0.055, LAMP)


def truck_box(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.02, 0.7, 0.97, 0.77, BUMPER, radius=0.02)
    canvas.rectangle(0.02, 0.16, 0.64, 0.71, color, radius=0.02)
    canvas.rectangle(0.02, 0.6, 0.64, 0.65, shade(color, 0.65))
    for x in (0.2, 0.42):
        canvas.line((x, 0.18), (x, 0.6), shade(color, 0.85), width=0.02)
    canvas.polygon(
        (0.67, 0.73), (0.67, 0.32), (0.84, 0.32), (0.91, 0.5), (0.97, 0.54), (0.97, 0.73), fill=shade(color, 0.8)
    )
    canvas.polygon((0.72, 0.5), (0.72, 0.37), (0.82, 0.37), (0.87, 0.5), fill=GLASS)
    canvas.rectangle(0.93, 0.58, 0.98, 0.65, LAMP, radius=0.01)
    for x in (0.16, 0.36, 0.8):
        wheel(canvas, x, 0.78, 0.095)


def truck_pickup(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.42, 0.5), (0.45, 0.25), (0.63, 0.25), (0.75, 0.5), fill=shade(color, 0.8))
    canvas.polygon((0.49, 0.48), (0.5, 0.31), (0.61, 0.31), (0.69, 0.48), fill=GLASS)
    canvas.rectangle(0.02, 0.43, 0.46, 0.72, color, radius=0.02)
    canvas.rectangle(0.02, 0.4, 0.42, 0.47, shade(color, 0.6), radius=0.02)
    canvas.rectangle(0.4, 0.48, 0.97, 0.72, color, radius=0.05)
    canvas.rectangle(0.55, 0.53, 0.62, 0.56, shade(color, 0.6))
    canvas.rectangle(0.92, 0.52, 0.98, 0.6, LAMP, radius=0.01)
    canvas.rectangle(0.02, 0.67, 0.98, 0.74, BUMPER, radius=0.02)
    for x in (0.22, 0.77):
        wheel(canvas, x, 0.74, 0.125)


def truck_dump(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.04, 0.66, 0.96, 0.74, BUMPER, radius=0.02)
    canvas.polygon((0.02, 0.24), (0.66, 0.24), (0.58, 0.66), (0.12, 0.66), fill=color)
    canvas.polygon((0.02, 0.24), (0.66, 0.24), (0.65, 0.31), (0.03, 0.31), fill=shade(color, 0.6))
    for top, bottom in ((0.2, 0.24), (0.34, 0.34), (0.48, 0.44)):
        canvas.line((top, 0.31), (bottom, 0.65), shade(color, 0.75), width=0.025)
    canvas.rectangle(0.66, 0.3, 0.9, 0.68, shade(color, 0.82), radius=0.04)
    canvas.rectangle(0.72, 0.36, 0.87, 0.5, GLASS, radius=0.02)
    canvas.rectangle(0.86, 0.54, 0.97, 0.7, shade(color, 0.82), radius=0.02)
    canvas.disc(0.94, 0.6, 0.03, LAMP)
    for x in (0.2, 0.44, 0.8):
        wheel(canvas, x, 0.77, 0.11)


def boat_sail(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.05, 0.6), (0.95, 0.6), (0.8, 0.85), (0.2, 0.85), fill=color)
    canvas.line((0.5, 0.6), (0.5, 0.08), WOOD, width=0.04)
    canvas.polygon((0.53, 0.1), (0.53, 0.55), (0.88, 0.55), fill=(245, 240, 230))
    canvas.polygon((0.47, 0.18), (0.47, 0.55), (0.18, 0.55), fill=(230, 225, 215))


def boat_steamer(canvas: Canvas, color: Color) -> None:
    canvas.rectangle(0.36, 0.1, 0.48, 0.34, shade(color, 0.8))
    canvas.rectangle(0.35, 0.1, 0.49, 0.17, INK)
    canvas.rectangle(0.54, 0.18, 0.63, 0.34, shade(color, 0.8))
    canvas.rectangle(0.53, 0.18, 0.64, 0.23, INK)
    canvas.rectangle(0.2, 0.33, 0.76, 0.56, SAIL, radius=0.03)
    for x in (0.28, 0.42, 0.56, 0.68):
        canvas.disc(x, 0.44, 0.045, (110, 170, 215))
    canvas.polygon((0.02, 0.54), (0.98, 0.5), (0.84, 0.86), (0.14, 0.86), fill=color)
    canvas.polygon((0.11, 0.79), (0.87, 0.79), (0.84, 0.88), (0.14, 0.88), fill=shade(color, 0.6))
    canvas.line((0.03, 0.55), (0.97, 0.52), SAIL, width=0.025)


def boat_motor(canvas: Canvas, color: Color) -> None:
    canvas.polygon((0.4, 0.5), (0.52, 0.27), (0.58, 0.27), (0.7, 0.5), fill=GLASS)
    canvas.line((0.4, 0.5), (0.53, 0.27), (90, 100, 110), width=0.03)
    canvas.rectangle(0.18, 0.4, 0.34, 0.56, shade(color, 0.6), radius=0.03)
    canvas.rectangle(0.01, 0.42, 0.09, 0.7, INK, radius=0.03)
    canvas.blob(
        (0.06, 0.5),
        (0.4, 0.51),
        (0.7, 0.49),
        (0.99, 0.42),
        (0.88, 0.66),
        (0.72, 0.76),
        (0.3, 0.77),
        (0.08, 0.74),
        fill=color,
    )
    canvas.polygon((0.07, 0.6), (0.9, 0.58), (0.86, 0.66), (0.07, 0.68), fill=tint(color, 0.6))


def airplane_above(canvas: Canvas, color: Color) -> None:
    fin = shade(color, 0.8)
    canvas.ellipse(0.03, 0.4, 0.97, 0.6, color)
    canvas.polygon((0.4, 0.5), (0.6, 0.5), (0.45, 0.92), (0.3, 0.92), fill=shade(color, 0.7))
    canvas.polygon((0.42, 0.45), (0.58, 0.45), (0.42, 0.12), (0.3, 0.12), fill=fin)
    canvas.polygon((0.05, 0.48), (0.0, 0.2), (0.12, 0.2), (0.2, 0.45), fill=fin)
    for x in (0.45, 0.55, 0.65, 0.75):
        canvas.ellipse(x, 0.45, x + 0.04, 0.49, (200, 230, 250))


def airplane_jet(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.68)
    canvas.polygon((0.48, 0.46), (0.6, 0.46), (0.5, 0.26), (0.42, 0.26), fill=dark)
    canvas.polygon((0.05, 0.46), (0.02, 0.14), (0.13, 0.14), (0.28, 0.42), fill=dark)
    canvas.blob(
        (0.03, 0.46),
        (0.2, 0.4),
        (0.6, 0.39),
        (0.84, 0.42),
        (0.98, 0.54),
        (0.86, 0.61),
        (0.5, 0.63),
        (0.18, 0.56),
        fill=color,
    )
    for x in (0.3, 0.38, 0.46, 0.54, 0.62, 0.7):
        canvas.disc(x, 0.48, 0.022, GLASS)
    canvas.polygon((0.82, 0.46), (0.87, 0.44), (0.93, 0.5), (0.82, 0.5), fill=GLASS)
    canvas.rectangle(0.42, 0.68, 0.56, 0.77, BUMPER, radius=0.04)
    canvas.polygon((0.4, 0.56), (0.62, 0.56), (0.34, 0.86), (0.22, 0.86), fill=dark)


def airplane_propeller(canvas: Canvas, color: Color) -> None:
    dark = shade(color, 0.68)
    canvas.line((0.48, 0.6), (0.44, 0.82), BUMPER, width=0.03)
    canvas.line((0.56, 0.6), (0.62, 0.82), BUMPER, width=0.03)
    canvas.disc(0.53, 0.85, 0.075, INK)
    canvas.polygon((0.06, 0.44), (0.03, 0.2), (0.15, 0.22), (0.26, 0.44), fill=dark)
    canvas.blob(
        (0.04, 0.44),
        (0.3, 0.42),
        (0.6, 0.36),
        (0.84, 0.4),
        (0.87, 0.56),
        (0.74, 0.66),
        (0.4, 0.62),
        (0.12, 0.52),
        fill=color,
    )
    canvas.ellipse(0.4, 0.28, 0.6, 0.46, GLASS)
    canvas.rectangle(0.34, 0.42, 0.64, 0.48, color)
    canvas.rectangle(0.28, 0.53, 0.76, 0.61, dark, radius=0.04)
    canvas.disc(0.88, 0.48, 0.045, LAMP)
    canvas.ellipse(0.9, 0.2, 0.95, 0.48, BUMPER)
    canvas.ellipse(0.9, 0.48, 0.95, 0.76, BUMPER)


VEHICLES: dict[str, tuple[Style, ...]] = {
    "car": (car_sedan, car_round, car_front),
    "bus": (bus_side, bus_double, bus_front),
    "train": (train_steam, train_fast, train_front),
    "truck": (truck_box, truck_pickup, truck_dump),
    "boat": (boat_sail, boat_steamer, boat_motor),
    "airplane": (airplane_above, airplane_jet, airplane_propeller),
}
