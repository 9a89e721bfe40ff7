"""loss.svg of a training run: its losses over the iterations, smoothed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.results.files import write_text
from pipeline.results.overlays import colour
from training.log import read_log

SIZE = (720, 320)
"""width and height in px"""
PADDING = 40
POINTS = 200
"""of a curve, at most; each is the mean of its share of the iterations"""


def loss_plot(folder: Path) -> None:
    """Draw the folder's log.csv into loss.svg; nothing where there is no log yet."""
    rows = read_log(folder / "log.csv")
    if not rows:
        return
    names = [name for name in rows[-1] if name not in ("iteration", "rate")]
    curves = {name: _means([row[name] for row in rows if name in row]) for name in names}
    top = max(max(curve) for curve in curves.values()) or 1.0
    width, height = SIZE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<path d="M{PADDING} {PADDING / 2}V{height - PADDING}H{width - PADDING / 2}" '
        'fill="none" stroke="#888"/>',
        f'<text x="4" y="{PADDING / 2 + 4}">{top:.3g}</text>',
        f'<text x="4" y="{height - PADDING}">0</text>',
        f'<text x="{width - PADDING / 2}" y="{height - 12}" text-anchor="end">'
        f"iteration {rows[-1]['iteration'] + 1}</text>",
    ]
    for n, (name, curve) in enumerate(curves.items(), 1):
        shade = colour(n)
        parts.append(f'<path d="{_line(curve, top)}" fill="none" stroke="{shade}"/>')
        parts.append(
            f'<text x="{width - 130}" y="{PADDING / 2 + 16 * n}" fill="{shade}">'
            f"{name} {curve[-1]:.3f}</text>"
        )
    write_text(folder / "loss.svg", "\n".join([*parts, "</svg>", ""]))


def _means(values: Sequence[float]) -> list[float]:
    step = -(-len(values) // POINTS)
    parts = [values[n : n + step] for n in range(0, len(values), step)]
    return [sum(part) / len(part) for part in parts]


def _line(curve: Sequence[float], top: float) -> str:
    width, height = SIZE[0] - 1.5 * PADDING, SIZE[1] - 1.5 * PADDING
    places = (
        (PADDING + width * n / max(1, len(curve) - 1), PADDING / 2 + height * (1 - value / top))
        for n, value in enumerate(curve)
    )
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
