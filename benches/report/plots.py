"""Plots of a figure against the number of connections as SVG, without any library."""

import math
from html import escape

WIDTH, HEIGHT, MARGIN, LEGEND = 720, 360, 64, 176
COLOURS = ["#555555", "#0067c5", "#d9480f", "#2b8a3e", "#862e9c", "#c2255c", "#0b7285", "#5c940d", "#e67700", "#3b5bdb", "#087f5b"]


def lines_of(results, prefix, figure):
    """Of each server the points (N, figure) of the rows PREFIX + N."""
    points = {who: [(size, results.figure(f"{prefix}{size}/{who}", figure)) for size in results.sizes(prefix)] for who in results.subjects()}
    points = {who: [point for point in line if point[1] is not None] for who, line in points.items()}
    return {who: line for who, line in points.items() if len(line) > 1}


def plot(title, across, up, lines):
    """An SVG of lines: {name: [(x, y), ...]}; x on a logarithmic scale, y from 0."""
    xs, ys = zip(*(point for line in lines.values() for point in line))
    right, low, high, top = WIDTH - LEGEND, math.log10(min(xs)), math.log10(max(xs)), max(ys)
    step = next(step for power in range(-3, 9) for step in (10.0**power, 2 * 10.0**power, 5 * 10.0**power) if top / step <= 8)

    def at(x, y):
        return MARGIN + (math.log10(x) - low) / (high - low or 1) * (right - MARGIN), HEIGHT - MARGIN - y / top * (HEIGHT - MARGIN - 36)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/><text x="{MARGIN}" y="20" font-size="13">{escape(title)}</text>',
        f'<text x="{(MARGIN + right) / 2:.0f}" y="{HEIGHT - 22}" text-anchor="middle">{escape(across)}</text>',
        f'<text transform="translate(14 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(up)}</text>',
    ]
    out += [f'<text x="{at(x, 0)[0]:.0f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{x:,}</text>' for x in sorted(set(xs))]
    for value, y in ((step * index, at(1, step * index)[1]) for index in range(int(top / step) + 1)):
        out.append(f'<path d="M{MARGIN} {y:.0f}H{right}" stroke="#ddd"/><text x="{MARGIN - 6}" y="{y + 4:.0f}" text-anchor="end">{value:g}</text>')
    for index, (name, line) in enumerate(lines.items()):
        colour, points = COLOURS[index % len(COLOURS)], [at(*point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out.append(f'<text x="{right + 10}" y="{44 + 16 * index}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>\n"])
