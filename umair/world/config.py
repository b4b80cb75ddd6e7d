"""What a drawn world is made of: how many, how often, how damaged. Set before any ranker is trained."""

from __future__ import annotations

from pydantic import Field, model_validator

from umair.config import Section
from umair.weeks import Week

FEWEST_VIEWS = 20  # of any user: below that an AUC per user says nothing


class DamageConfig(Section):
    """Damage by kind, each a share of the clean rows of its table; at least one when above zero."""

    truncated_picture: float = Field(0.002, ge=0, le=0.1)  # share of illustrations: JPEG cut off half way
    html_picture: float = Field(0.001, ge=0, le=0.1)  # share of illustrations: an error page named .jpg
    empty_picture: float = Field(0.001, ge=0, le=0.1)  # share of illustrations: zero bytes
    huge_picture: float = Field(0.001, ge=0, le=0.1)  # share of illustrations: a header that claims 40,000 x 40,000 pixels
    missing_picture: float = Field(0.002, ge=0, le=0.1)  # share of illustrations: no file
    absurd_size: float = Field(0.001, ge=0, le=0.1)  # extra catalogue rows: width 0 or height -1
    path_leaves_root: float = Field(0.001, ge=0, le=0.1)  # extra catalogue rows: an image path that climbs out
    duplicate_event: float = Field(0.003, ge=0, le=0.1)  # extra events: exact copies
    unknown_user: float = Field(0.001, ge=0, le=0.1)  # extra events of users that no table knows
    unknown_illustration: float = Field(0.001, ge=0, le=0.1)  # extra events on illustrations that no table knows
    broken_time: float = Field(0.001, ge=0, le=0.1)  # extra events: 'not a date', '0000-00-00', year 9999
    unknown_kind: float = Field(0.001, ge=0, le=0.1)  # extra events that are neither view nor bookmark
    null_id: float = Field(0.001, ge=0, le=0.1)  # extra events without user_id or illust_id


class WorldConfig(Section):
    """A world: sizes, times, how users choose. The same values give the same bytes."""

    seed: int = Field(0, ge=0)  # of everything drawn
    illustrations: int = Field(3_000, ge=200, le=100_000)
    users: int = Field(800, ge=20, le=1_000_000)
    views: int = Field(150_000, ge=1)  # events; about a quarter more come on top: the bookmarks
    artists: int = Field(150, ge=5)
    start_week: str = "2026-W01"  # ISO week of the first view
    weeks: int = Field(11, ge=1, le=500)  # of events
    back_weeks: int = Field(26, ge=1, le=500)  # of publishing before the first view
    back_share: float = Field(0.5, gt=0, lt=1)  # share of illustrations published before the first view
    picture_size: int = Field(112, ge=32, le=512)  # pixels of the longer side
    jpeg_quality: int = Field(90, ge=30, le=95)  # of Pillow
    artist_style: float = Field(0.8, ge=0, le=1)  # share of the style's variance that is its artist's
    missing_tag: float = Field(0.15, ge=0, lt=1)  # share of concepts in a picture that its artist does not name
    noise_tag: float = Field(0.35, ge=0, le=1)  # share of illustrations with one tag about nothing in the picture
    other_language: float = Field(0.15, ge=0, le=1)  # share of tags not in their artist's language
    fresh_days: float = Field(10, gt=0)  # how long an illustration counts as new
    fresh_share: float = Field(0.16, ge=0, le=1)  # share of views that come from the list of new illustrations
    follow_share: float = Field(0.12, ge=0, le=1)  # share of views that come from a favourite artist's page
    exposure: float = Field(0.8, ge=0, le=1)  # how steeply views follow popularity; 0 = not at all
    appetite: tuple[float, float, float, float, float] = (1.2, 1.2, 1.0, 0.6, 0.6)  # Dirichlet:
    #                         style, content, tags, artist, popularity, by which a user chooses
    gain: float = Field(2.0, gt=0)  # log odds per standard deviation of utility
    bias: float = -1.3  # log odds of a bookmark at average utility, of the average user
    bias_spread: float = Field(0.5, ge=0)  # standard deviation of that over users
    damage: DamageConfig = DamageConfig()

    @model_validator(mode="after")
    def _views_fit(self) -> WorldConfig:
        fewest, most = FEWEST_VIEWS * self.users, self.users * self.illustrations // 4
        if not fewest <= self.views <= most:
            raise ValueError(f"views must lie between {FEWEST_VIEWS} a user and a quarter of all pairs: {fewest} to {most}")
        Week.parse(self.start_week)
        return self

    @property
    def start(self) -> int:
        """Seconds since 1970 of the first moment with events."""
        return int(Week.parse(self.start_week).start.timestamp())

    @property
    def end(self) -> int:
        """Seconds since 1970 before which every view falls."""
        return int(Week.parse(self.start_week).plus(self.weeks).start.timestamp())
