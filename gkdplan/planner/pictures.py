"""Images of rows: how many a row shows, and how large they may be."""

from dataclasses import replace

from gkdplan.facts.model import Facts
from gkdplan.pictures import USUAL_LIMITS, PictureLimits
from gkdplan.planner.engine import most_images
from gkdplan.spec.plan import Plan
from gkdplan.units import parse_bytes


def shown_pictures(plan: Plan, facts: Facts) -> PictureLimits:
    """No more of them than the rows show."""
    return replace(picture_limits(plan), number=most_images(facts))


def picture_limits(plan: Plan) -> PictureLimits:
    """Of what a row may show."""
    data, usual = plan.data, USUAL_LIMITS
    size = data.max_image_bytes
    return PictureLimits(
        data.max_images or usual.number,
        usual.num_bytes if size is None else parse_bytes(size),
        data.max_image_pixels or usual.num_pixels,
        data.image_hosts or usual.hosts,
    )
