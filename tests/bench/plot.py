"""A picture of the cost of each relay in each workload, as a multiple of ours: one row a workload, one dot a relay."""

import math
from xml.sax.saxutils import escape

import figures

ROW, LEFT, WIDTH, TOP = 22, 150, 640, 60
COLOURS = ("#d62728", "#ff9896", "#1f77b4", "#17becf", "#9467bd", "#2ca02c", "#8c564b", "#ff7f0e", "#7f7f7f")
LEAST, MOST = 0.5, 16.0  # what is beyond is drawn at the edge


def place_of(multiple):
    share = math.log(min(max(multiple, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return LEFT + share * WIDTH


def ratios_svg(medians, judged, ours, relay_names):
    rows = []
    for workload, of_relays in medians.items():
        figure = judged[workload][0]
        dots = []
        for relay, own in of_relays.items():
            multiple = figures.ratio(figure, own, of_relays.get(ours, {}))
            if multiple:
                dots.append((relay, 1 / multiple if figure in figures.MORE_IS_BETTER else multiple))
        if dots:
            rows.append((f"{workload}", dots))
    height = TOP + ROW * (len(rows) + 1)
    colours = {relay: COLOURS[place % len(COLOURS)] for place, relay in enumerate(relay_names)}
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 40}" height="{height}" '
             'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>',
             f'<text x="10" y="18">cost as a multiple of {escape(ours)} (left is better)</text>']
    for place, relay in enumerate(name for name in relay_names if any(name == r for _, dots in rows for r, _ in dots)):
        x = 10 + 115 * (place % 7)
        y = 36 + 14 * (place // 7)
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="4" fill="{colours[relay]}"/><text x="{x + 7}" y="{y}">'
                     f'{escape(relay)}</text>')
    for multiple in (0.5, 1, 2, 4, 8, 16):
        x = place_of(multiple)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - ROW}" '
                     f'stroke="{"#000" if multiple == 1 else "#ddd"}"/>'
                     f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle">{multiple}</text>')
    for place, (title, dots) in enumerate(rows):
        y = TOP + ROW * place + ROW / 2
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{escape(title)}</text>')
        for relay, multiple in dots:
            parts.append(f'<circle cx="{place_of(multiple):.1f}" cy="{y}" r="4.5" fill="{colours[relay]}" '
                         f'fill-opacity="0.8"><title>{escape(relay)} {multiple:.2f}</title></circle>')
    return "\n".join([*parts, "</svg>", ""])
