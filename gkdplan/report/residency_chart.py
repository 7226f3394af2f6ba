"""The residency timeline as a picture: what is on the device and on the host, scene by scene."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gkdplan.report.figures import Unit, unit_of
from gkdplan.report.markup import Markup, tag
from gkdplan.report.memory_chart import hues
from gkdplan.report.memory_table import row_names
from gkdplan.report.residency import Scene, timeline
from gkdplan.report.step_words import duration, exposed, verb
from gkdplan.runplan.ledger import ClassMemory
from gkdplan.runplan.model import RunPlan
from gkdplan.runplan.steps import Move

_WIDTH, _TOP, _DEVICE_HEIGHT = 880, 22, 220
_LEFT, _MOVE_WIDTH, _LEAST_PHASE_WIDTH, _GAP = 56, 86, 92, 3
_LABELS_TOP, _LINE = 18, 15
_LEAST_HOST_HEIGHT = 24
_HATCH = 7


@dataclass(frozen=True, slots=True)
class _Column:
    """A scene with its place from left to right."""

    scene: Scene
    x: float
    width: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class _Picture:
    """What every part of the drawing needs."""

    columns: Sequence[_Column]
    classes: Mapping[str, str]
    unit: Unit
    bytes_per_pixel: float

    @property
    def width(self) -> float:
        return self.columns[-1].x + self.columns[-1].width

    def height(self, num_bytes: int) -> float:
        return num_bytes / self.bytes_per_pixel


def residency_timeline(run_plan: RunPlan, memory: ClassMemory) -> Markup:
    """Columns from left to right: the phases of a step, and between them the moves; upwards the
    bytes on the device, downwards those on the host. An object is hatched while it is copied,
    between phases or beside one."""
    picture = _picture(run_plan, memory)
    floor = _TOP + _DEVICE_HEIGHT
    num_lines = max(len(_lines(column.scene)) for column in picture.columns)
    host_top = floor + _LABELS_TOP + num_lines * _LINE
    host = max(_bytes(column.scene.host) for column in picture.columns)
    height = host_top + max(_LEAST_HOST_HEIGHT, picture.height(host)) + _LINE + 6
    parts = [
        _words(_LEFT - 10, floor, "device", "side"),
        _words(_LEFT - 10, host_top + 12, "host", "side"),
        tag("line", x1=_LEFT, x2=picture.width, y1=floor, y2=floor, class_="axis"),
        tag("line", x1=_LEFT, x2=picture.width, y1=host_top, y2=host_top, class_="axis"),
    ]
    for column in picture.columns:
        parts += _on_device(picture, column, floor)
        parts += _labels(column, floor)
        parts += _on_host(picture, column, host_top)
    svg = tag(
        "svg",
        *parts,
        viewBox=f"0 0 {picture.width:.0f} {height:.0f}",
        role="img",
        aria_label="bytes on device and host by phase and move",
        class_="timeline",
    )
    return tag("div", svg, class_="scroll")


def _picture(run_plan: RunPlan, memory: ClassMemory) -> _Picture:
    scenes = timeline(run_plan, memory)
    num_moves = sum(scene.move is not None for scene in scenes)
    room = _WIDTH - _LEFT - num_moves * _MOVE_WIDTH
    phase_width = max(_LEAST_PHASE_WIDTH, room / (len(scenes) - num_moves))
    columns, x = [], float(_LEFT)
    for scene in scenes:
        width = _MOVE_WIDTH if scene.move else phase_width
        columns.append(_Column(scene, x, width))
        x += width
    largest = max(scene.device_bytes for scene in scenes)
    classes = hues(row_names(run_plan, memory))
    return _Picture(columns, classes, unit_of(run_plan), max(1, largest) / _DEVICE_HEIGHT)


def _on_device(picture: _Picture, column: _Column, floor: float) -> Iterator[Markup]:
    scene, top = column.scene, floor
    moving = {move.object for move in (scene.move, *scene.under_way) if move}
    for name in picture.classes:
        num_bytes = scene.device.get(name, 0)
        if num_bytes:
            top -= picture.height(num_bytes)
            yield from _block(picture, column, name, top, num_bytes, name in moving)
    yield _words(column.middle, top - 6, picture.unit.format(scene.device_bytes), "figure")


def _on_host(picture: _Picture, column: _Column, top: float) -> Iterator[Markup]:
    scene = column.scene
    moves = (scene.move, *scene.under_way)
    copied = {move.object for move in moves if move and move.seconds}
    for name, num_bytes in scene.host.items():
        yield from _block(picture, column, name, top, num_bytes, name in copied)
        top += picture.height(num_bytes)
    if scene.host and not scene.move:
        figure = picture.unit.format(_bytes(scene.host))
        yield _words(column.middle, top + _LINE, figure, "figure")


def _block(
    picture: _Picture, column: _Column, name: str, y: float, num_bytes: int, is_moving: bool
) -> Iterator[Markup]:
    """A row's bytes in a column, hatched while it moves."""
    x, width, height = column.x + _GAP / 2, column.width - _GAP, picture.height(num_bytes)
    title = tag("title", f"{name}: {picture.unit.format(num_bytes)} {picture.unit.name}")
    rect = tag(
        "rect",
        x=f"{x:.1f}",
        y=f"{y:.1f}",
        width=f"{width:.1f}",
        height=f"{height:.1f}",
        class_=f"block {picture.classes[name]}",
    )
    yield tag("g", title, rect)
    if is_moving:
        yield tag("path", d=_hatch(x, y, width, height), class_="hatch")


def _labels(column: _Column, floor: float) -> Iterator[Markup]:
    kind = "move-name" if column.scene.move else "phase-name"
    for index, line in enumerate(_lines(column.scene)):
        y = floor + _LABELS_TOP + index * _LINE
        yield _words(column.middle, y, line, "move-name" if index else kind)


def _lines(scene: Scene) -> list[str]:
    """The move; or the phase, and the moves that begin beside it."""
    if scene.move:
        return _lines_of(scene.move)
    begun = [move for move in scene.under_way if move.phase is scene.phase]
    return [scene.phase, *(line for move in begun for line in _lines_of(move))]


def _lines_of(move: Move) -> list[str]:
    """Its verb, its object on at most two lines, its time and, beside work, what is exposed."""
    first, _, rest = move.object.partition(" ")
    exposure = f"{exposed(move)} exposed" if move.due else ""
    return [line for line in (f"{verb(move)} {first}", rest, duration(move), exposure) if line]


def _hatch(x: float, y: float, width: float, height: float) -> str:
    """Diagonals that fill a rectangle, as a path."""
    ends = (
        (x + max(0, k - height), y + min(k, height), x + min(k, width), y + max(0, k - width))
        for k in range(0, int(width + height), _HATCH)
    )
    return " ".join(f"M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" for a, b, c, d in ends)


def _words(x: float, y: float, text: str, css_class: str) -> Markup:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=css_class)


def _bytes(rows: Mapping[str, int]) -> int:
    return sum(rows.values())
