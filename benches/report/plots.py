"""Plots of a run as SVG, without any library: CPU per delivery and per message against the number of connections, and the
distributions of latency."""

import math

WIDTH, HEIGHT, MARGIN = 640, 360, 56
COLOURS = ["#555555", "#0067c5", "#d9480f", "#2b8a3e", "#862e9c", "#c2255c", "#0b7285", "#5c940d"]


class Axis:
    """Values onto pixels, linear or logarithmic."""

    def __init__(self, values, start, end, logarithmic=False):
        self.logarithmic = logarithmic
        low, high = (min(values), max(values)) if logarithmic else (0, max(values))
        self.low, self.high = low, high if high > low else low + 1
        self.start, self.end = start, end

    def at(self, value):
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return self.start + (value - low) / (high - low or 1) * (self.end - self.start)

    def ticks(self):
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            return [10**power for power in range(first, last + 1) if self.low <= 10**power <= self.high]
        step = 10 ** math.floor(math.log10(self.high))
        step = step / 5 if self.high / step < 2 else step / 2 if self.high / step < 5 else step
        return [step * index for index in range(int(self.high / step) + 1)]


def plot(title, across, up, lines, logarithmic=(False, False)):
    """An SVG of lines: {name: [(x, y), ...]}."""
    points = [point for line in lines.values() for point in line]
    x = Axis([point[0] for point in points], MARGIN, WIDTH - 140, logarithmic[0])
    y = Axis([point[1] for point in points], HEIGHT - MARGIN, 32, logarithmic[1])
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/><text x="{MARGIN}" y="18" font-size="13">{title}</text>',
    ]
    for tick in x.ticks():
        out.append(f'<text x="{x.at(tick):.0f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks():
        height = y.at(tick)
        out.append(f'<line x1="{MARGIN}" x2="{WIDTH - 140}" y1="{height:.0f}" y2="{height:.0f}" stroke="#ddd"/>')
        out.append(f'<text x="{MARGIN - 6}" y="{height + 4:.0f}" text-anchor="end">{tick:g}</text>')
    out.append(f'<text x="{(WIDTH - 84) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">{across}</text>')
    out.append(f'<text transform="translate(14 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">{up}</text>')
    for index, (name, line) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out.append(f'<text x="{WIDTH - 132}" y="{44 + 16 * index}" fill="{colour}">{name}</text>')
    return "\n".join([*out, "</svg>\n"])


def against_connections(results, prefix, *figure):
    """Lines of a figure against N, where rows are called PREFIX + N."""
    lines = {}
    for row in results.named(prefix):
        count = row.removeprefix(prefix)
        for subject in results.subjects() if count.isdigit() else []:
            value = results.figure(f"{row}/{subject}", *figure)
            if value is not None:
                lines.setdefault(subject, []).append((int(count), value))
    return {subject: sorted(line) for subject, line in lines.items() if len(line) > 1}


def curves(results, row):
    """Latency distributions of a row: microseconds against 1 / (1 - quantile)."""
    lines = {}
    for subject in results.subjects():
        curve = results.figure(f"{row}/{subject}", "latency_curve")
        points = [(1 / (1 - quantile), us) for quantile, us in curve or [] if quantile < 1 and us > 0]
        if len(points) > 1:
            lines[subject] = points
    return lines


def draw(results, out, number):
    """Draws every plot that the results allow; yields file names and titles."""
    wanted = [
        ("delivery", "Server CPU per delivery", "members", "µs", against_connections(results, "fanout-", "server_cpu_us_per_delivery"), (False, False)),
        ("echo", "Server CPU per echoed message", "connections", "µs", against_connections(results, "echo-", "server_cpu_us_per_message"), (True, False)),
    ]
    for row in [*results.named("fanout-"), *results.named("half-load")]:
        wanted.append((f"latency-{row}", f"Publish to delivery: {row}", "1 / (1 − quantile)", "µs", curves(results, row), (True, True)))
    for name, title, across, up, lines, logarithmic in wanted:
        if lines:
            file = f"plot-{number}-{name}.svg"
            (out / file).write_text(plot(title, across, up, lines, logarithmic), encoding="utf-8")
            yield file, title
