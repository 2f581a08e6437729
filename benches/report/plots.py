"""Plots of a run as SVG, without any library: memory per connection, CPU per delivery and per message against the number of
connections, and the distributions of latency."""

import math
from html import escape

WIDTH, HEIGHT, MARGIN, LEGEND = 720, 360, 64, 176
COLOURS = ["#555555", "#0067c5", "#d9480f", "#2b8a3e", "#862e9c", "#c2255c", "#0b7285", "#5c940d", "#e67700", "#3b5bdb", "#087f5b"]


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


def number(value):
    """A tick's text."""
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:g}"


def percentile(inverse):
    """The text of a tick at 1 / (1 - quantile)."""
    return f"{100 * (1 - 1 / inverse):g} %"


def plot(title, across, up, lines, logarithmic=(False, False), across_text=number):
    """An SVG of lines: {name: [(x, y), ...]}."""
    points = [point for line in lines.values() for point in line]
    right = WIDTH - LEGEND
    x = Axis([point[0] for point in points], MARGIN, right, logarithmic[0])
    y = Axis([point[1] for point in points], HEIGHT - MARGIN, 36, logarithmic[1])
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/><text x="{MARGIN}" y="20" font-size="13">{escape(title)}</text>',
    ]
    for tick in x.ticks():
        out.append(f'<text x="{x.at(tick):.0f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{across_text(tick)}</text>')
    for tick in y.ticks():
        height = y.at(tick)
        out.append(f'<line x1="{MARGIN}" x2="{right}" y1="{height:.0f}" y2="{height:.0f}" stroke="#ddd"/>')
        out.append(f'<text x="{MARGIN - 6}" y="{height + 4:.0f}" text-anchor="end">{number(tick)}</text>')
    out.append(f'<text x="{(MARGIN + right) / 2:.0f}" y="{HEIGHT - 22}" text-anchor="middle">{escape(across)}</text>')
    out.append(f'<text transform="translate(11 {HEIGHT / 2:.0f}) rotate(-90)" text-anchor="middle">{escape(up)}</text>')
    for index, (name, line) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out += [f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="2" fill="{colour}"/>' for a, b in line]
        out.append(f'<text x="{right + 10}" y="{44 + 16 * index}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*out, "</svg>\n"])


def against_connections(results, prefix, *figure):
    """Lines of a figure against N, where rows are called PREFIX + N."""
    lines = {}
    for subject in results.subjects():
        points = [(size, results.figure(f"{prefix}{size}/{subject}", *figure)) for size in results.sizes(prefix)]
        points = [point for point in points if point[1] is not None]
        if points:
            lines[subject] = points
    # Where nobody has two sizes there is nothing to see that a table does not show.
    return lines if any(len(line) > 1 for line in lines.values()) else {}


def curves(results, row):
    """Latency distributions of a row: microseconds against 1 / (1 - quantile)."""
    lines = {}
    for subject in results.subjects():
        curve = results.figure(f"{row}/{subject}", "latency_curve")
        points = [(1 / (1 - quantile), us) for quantile, us in curve or [] if quantile < 1 and us > 0]
        if len(points) > 1:
            lines[subject] = points
    return lines


def draw(results, out, run):
    """Draws every plot that the results allow; yields file names and titles."""
    linear, across_log, both_log = (False, False), (True, False), (True, True)
    cpu, per_message, per_delivery = "Server CPU", "server_cpu_us_per_message", "server_cpu_us_per_delivery"
    echo, fanout = (against_connections(results, *row) for row in (("echo-", per_message), ("fanout-", per_delivery)))
    user, kernel = (against_connections(results, "idle-", key) for key in ("user_bytes", "kernel_bytes"))
    wanted = [
        ("memory-user", "User memory per idle connection", "connections", "bytes", user, linear, number),
        ("memory-kernel", "Kernel memory per idle connection", "connections", "bytes", kernel, linear, number),
        ("delivery", f"{cpu} per delivery", "members", "µs", fanout, linear, number),
        ("echo", f"{cpu} per echoed message", "connections", "µs", echo, across_log, number),
    ]
    beginnings = ("echo-", "fanout-", "flat-out-", "half-load", "cross-node")
    for row in (row for beginning in beginnings for row in results.named(beginning)):
        title = f"There and back: {row}" if row.startswith("echo-") else f"Publish to delivery: {row}"
        wanted.append((f"latency-{row}", title, "percentile", "µs", curves(results, row), both_log, percentile))
    for name, title, across, up, lines, logarithmic, text in wanted:
        if lines:
            file = f"plots/{run}-{name}.svg"
            (out / "plots").mkdir(parents=True, exist_ok=True)
            (out / file).write_text(plot(title, across, up, lines, logarithmic, text), encoding="utf-8")
            yield file, title
