"""Small charts as inline SVG: no script, no font, no request; colours are the page's CSS variables."""

from html import escape

WIDTH, HEIGHT = 340, 180
"""Units are near pixels where charts stand three in a row, and on a phone: text of 12 units can be read."""
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 30
ROW = 22

Points = list[tuple[float, float]]


def line_chart(caption: str, title: str, points: Points) -> str:
    """A curve over training steps; `caption` is HTML, `title` what a screen reader says."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    if low == high:
        low, high = low - 0.5, high + 0.5

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[-1] - xs[0] or 1)
        up = (y - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    ticks = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
        for value, y in ((value, place(xs[0], value)[1]) for value in (low, (low + high) / 2, high))
    )
    steps = "".join(
        f'<text x="{place(x, low)[0]:.1f}" y="{HEIGHT - 10}" text-anchor="{anchor}">{x:.0f}</text>'
        for x, anchor in ((xs[0], "start"), (xs[-1], "end"))
    )
    name = f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">step</text>'
    return figure(caption, title, f'{ticks}{steps}{name}<polyline class="curve" points="{path}"/>', HEIGHT)


def interval_chart(title: str, rows: list[tuple[str, list[tuple[str, dict[str, float]]]]]) -> str:
    """Shares in [0, 1] with their intervals: for each label, a dot with whiskers for each named series."""
    left = 122
    lines, y = [], TOP + 4

    def across(value: float) -> float:
        return left + min(max(value, 0), 1) * (WIDTH - left - RIGHT)

    for label, series in rows:
        lines.append(
            f'<text x="{left - 8}" y="{y + ROW * len(series) / 2:.1f}" text-anchor="end">{escape(label)}</text>'
        )
        for name, cell in series:
            middle = y + ROW / 2
            told = f"{name}: {cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"
            lines.append(
                f'<g class="{escape(name)}"><title>{escape(told)}</title>'
                f'<line class="whisker" x1="{across(cell["low"]):.1f}" x2="{across(cell["high"]):.1f}" '
                f'y1="{middle:.1f}" y2="{middle:.1f}"/>'
                f'<circle cx="{across(cell["value"]):.1f}" cy="{middle:.1f}" r="4.5"/></g>'
            )
            y += ROW
        y += 8
    scale = "".join(
        f'<line class="grid" x1="{across(v):.1f}" x2="{across(v):.1f}" y1="{TOP}" y2="{y}"/>'
        f'<text x="{across(v):.1f}" y="{y + 16}" text-anchor="middle">{v:g}</text>'
        for v in (0, 0.25, 0.5, 0.75, 1)
    )
    names = dict.fromkeys(name for _, series in rows for name, _ in series)
    legend = "".join(f' <span class="tag {escape(name)}">● {escape(name)}</span>' for name in names)
    return figure(escape(title) + legend, title, scale + "".join(lines), y + 24)


def bar_chart(caption: str, title: str, rows: list[tuple[str, int]]) -> str:
    """Counts by name, such as the rows left after each step; see line_chart for the other arguments."""
    left, top = 132, TOP
    most = max(count for _, count in rows) or 1
    lines = []
    for index, (name, count) in enumerate(rows):
        y = top + index * (ROW + 4)
        width = count / most * (WIDTH - left - 52)
        lines.append(
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{ROW}" rx="3"/>'
            f'<text x="{left + width + 6:.1f}" y="{y + 15}">{count:,}</text>'
        )
    return figure(caption, title, "".join(lines), top + len(rows) * (ROW + 4) + 4)


def figure(caption: str, title: str, content: str, height: float) -> str:
    """A captioned drawing that is as wide as its place."""
    return (
        f'<figure><figcaption>{caption}</figcaption><svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}">{content}</svg></figure>'
    )
