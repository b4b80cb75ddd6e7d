"""The UMAIR-FPS ranker: towers, contribution mechanism, DCN-V2, deep and linear part; and the match beside them.

B rows, I illustrations, M modalities, D modality width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from umair.config import Section
from umair.model.batch import (
    COUNTERS,
    ITEM_FIELDS,
    ITEM_TAGS,
    MODALITIES,
    TAG_BUCKETS,
    USER_FIELDS,
    USER_TAGS,
    Batch,
)
from umair.model.compact import Axes, compact_width
from umair.model.contribution import (
    AttentionContribution,
    AttentionExpert,
    ExpertContribution,
    ItemContribution,
    SenetExpert,
)
from umair.model.cross_network import CrossNetMix
from umair.model.match import Match, Matches, ProfilePlace, meet
from umair.model.new_ids import NewIds
from umair.model.norm import BatchNorm
from umair.model.presets import with_preset
from umair.model.profiles import ITEM_COUNTERS, USER_COUNTERS, Counters, LinearPart, Profile, tower
from umair.model.projection import Projection
from umair.model.sides import ItemSide, UserSide

PENALTIES = {"modality": 1e-4, "deep": 1e-2, "cross": 1e-2, "senet": 1e-3}  # on squared weights, in the authors' code
TOTALS = ("total_bookmarks", "total_view")
Modality = Literal["semantic", "style", "text", "profile"]


def _complete(known: dict[str, int]) -> BeforeValidator:
    """Fills in the fields that a mapping leaves out, keeps their order, and refuses fields that there are not."""
    def complete(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        strangers = sorted(set(value) - set(known))
        if strangers:
            raise ValueError(f"no field {', '.join(strangers)}; known: {', '.join(known)}")
        return {name: value.get(name, size) for name, size in known.items()}
    return BeforeValidator(complete)


def _in_order(value: Any) -> Any:
    """Modalities in the order of MODALITIES, each once; pydantic says what is wrong with anything else."""
    known = isinstance(value, list | tuple) and all(name in MODALITIES for name in value)
    return tuple(name for name in MODALITIES if name in value) if known else value


def _all_or_none(value: Any) -> Any:
    """True stands for all modalities, false for none."""
    if isinstance(value, bool):
        return MODALITIES if value else ()
    return _in_order(value)


Buckets = Annotated[int, Field(ge=2)]  # one of them is bucket 0, unknown
Hidden = Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]  # widths, first to last


class RankerConfig(Section):
    """What a ranker is made of: a preset (`umair.model.presets`) and what differs from it. Without a preset, keys are the
    paper's but for the penalties; sizes of towers and tables are those of the authors' code. Raises, when read, ConfigError
    for a key that was asked for beside another that leaves it nothing to say (`silent_keys` knows more of them)."""

    shorthands: ClassVar[tuple[str, ...]] = ("preset",)

    form: Literal["umair", "dcn", "xdeepfm", "fibinet", "difm", "dcn_v2", "final_mlp"] = "umair"  # ours, or a rival
    inputs: Literal["ids", "authors", "all"] = "ids"  # of a rival: ids and tags, the same as
    #                                                the authors embed them, or everything that ours reads
    vector_fields: int = Field(1, gt=0)  # of a rival that reads all: how many fields each vector becomes
    user_fields: Annotated[dict[str, Buckets], _complete(USER_FIELDS)] = USER_FIELDS  # buckets of each field of a user
    item_fields: Annotated[dict[str, Buckets], _complete(ITEM_FIELDS)] = ITEM_FIELDS  # of an illustration
    tag_buckets: Buckets = TAG_BUCKETS  # of all tags, hashed
    exact: bool = False  # refuse tables in which two users, illustrations, artists or tags would share a bucket
    embedding_width: int = Field(8, gt=0)  # numbers of each id and tag
    embedding_std: float = Field(0.01, ge=0)  # deviation of fresh embeddings; an unseen id keeps its draw, so small
    counters: bool = False  # as-of counters as inputs of both towers, of the head and of the logit
    ids: bool = True  # false: every bucket of a field or tag is 0, so that vectors, history and counters are all there is
    totals: bool = True  # the illustration's as-of counts in bins, which the paper has among its fields
    interests: bool = True  # vectors of the tags that the user bookmarked lately and for long, beside those tags' embeddings
    id_dropout: float = Field(0.0, ge=0, lt=1)  # share of rows that train what a new user, illustration, artist is like
    tower: Hidden = (128, 64)  # hidden widths of the user and of the item tower
    tower_dropout: float = Field(0.5, ge=0, lt=1)  # behind each hidden layer of the towers
    modalities: Annotated[tuple[Modality, ...], BeforeValidator(_in_order)] = Field(
        ("semantic", "style", "text", "profile"), min_length=1)  # what of an illustration is weighed
    text_for_style: bool = False  # the style's place reads the tags' text once more: the authors' run "w/o SEM"
    standardise: bool = False  # vectors in standard deviations of the week's illustrations
    contribution: Literal["attention", "senet", "mixed", "item", "none"] = "attention"  # item: for all; none: side by side
    experts: int = Field(3, gt=0)  # of the contribution; mixed: attention and SENet in turns
    projected_experts: bool = False  # maps of its own for each attention expert; else they differ in training only
    score: Literal["dot", "hadamard"] = "dot"  # one weight a modality, or one for each of its numbers
    scaled_scores: bool = False  # dot products of the contribution divided by the root of their width
    batch_mean: bool = False  # the authors' computation: every row's weights averaged over all users of the batch, which
    #                           makes its score depend on the rows that it is scored with
    senet_sum: bool = False  # SENet experts sum the weighed modalities (eq. 6); false: average them, as the authors do
    attention_dropout: float = Field(0.5, ge=0, lt=1)  # of the contribution's weights
    cross_layers: int = Field(2, ge=0)  # 0: no cross network
    cross_rank: int = Field(32, gt=0)  # of the matrices of DCN-V2
    cross_experts: int = Field(4, gt=0)  # of each of its layers, mixed by a gate
    deep: Hidden = (64, 32, 16)  # hidden widths of the head
    deep_dropout: float = Field(0.5, ge=0, lt=1)  # behind each of them
    residual: bool = False  # batch norm and ReLU of the crosses plus what they cross
    machine: bool = False  # a factorization machine over all fields, beside everything else
    linear: bool = True  # one weight a bucket, beside everything else
    penalties: bool = False  # the squared weights that the authors add to the loss: the paper's ranker's, or a rival's
    match: Annotated[tuple[Modality, ...], BeforeValidator(_all_or_none)] = ()  # true: all `modalities`; false: none
    match_width: int = Field(64, gt=1)  # numbers that a modality is projected to and matched in
    match_passed: bool = True  # what the user passed over counts against; false: bookmarks alone
    match_weights: bool = True  # each user weighs the matches' sums for itself; false: they are added as they are
    match_shrink: float = Field(3.0, ge=0)  # illustrations that pull a user's means toward zero
    match_mixed: bool = False  # the contribution weighs, and the crosses read, each modality's vector plus its match

    @model_validator(mode="before")
    @classmethod
    def _from_its_preset(cls, values: Any) -> Any:
        return with_preset(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _every_key_says_something(self) -> RankerConfig:
        attends, gated = self.contribution in ("attention", "mixed"), self.contribution not in ("item", "none")
        silent = {"batch_mean with score hadamard": self.batch_mean and self.score == "hadamard",
                  f"batch_mean with contribution {self.contribution}": self.batch_mean and not gated,
                  f"projected_experts with contribution {self.contribution}": self.projected_experts and not attends,
                  f"score hadamard with contribution {self.contribution}": self.score == "hadamard" and not attends}
        found = [what for what, so in silent.items() if so]
        if found:
            raise ValueError(f"{found[0]}, which would change nothing; leave the first out")
        if self.text_for_style and "style" in self.matched:
            raise ValueError("text_for_style with a match of the style, which would read the style itself; leave one out")
        return self

    @property
    def matched(self) -> tuple[str, ...]:
        """The modalities that are matched; one that `modalities` leaves out is left out here too."""
        return tuple(name for name in self.match if name in self.modalities)

    @property
    def reads_interests(self) -> bool:
        """Whether the vectors of the user's tags are looked at."""
        return self.interests and (self.form == "umair" or self.inputs == "all")

    def user_profile(self) -> Profile:
        """Fresh embeddings of a user's fields and interest tags."""
        return Profile(tuple(self.user_fields.values()), USER_TAGS, self.tag_buckets,
                       self.embedding_width, self.embedding_std)

    def item_profile(self) -> Profile:
        """Fresh embeddings of an illustration's fields and tags."""
        return Profile(tuple(self.item_fields.values()), ITEM_TAGS, self.tag_buckets,
                       self.embedding_width, self.embedding_std)

    def linear_part(self) -> LinearPart:
        return LinearPart(tuple(self.user_fields.values()), tuple(self.item_fields.values()), self.tag_buckets)


class Scores(NamedTuple):
    """What a ranker says of each row. Columns of the weights follow `modalities` and `matched` of the ranker."""

    logit_B: Tensor  # of the probability that the user bookmarks the illustration
    contribution_BM: Tensor | None = None  # weight of each modality; rows sum to one
    match_BM: Tensor | None = None  # what each matched modality adds to the logit


class Ranker(nn.Module, ABC):
    """What training and evaluation know of a ranker: `ranker(batch) -> Scores`, and the scale of its vectors.

    Raises ValueError for one row in training mode, from which batch norm can take no variance. A ranker is made from
    its config and the widths of the semantic, style and text vectors, and says in `score` what it thinks of a batch.
    """

    modalities: tuple[str, ...] = ()  # columns of Scores.contribution_BM
    matched: tuple[str, ...] = ()  # columns of Scores.match_BM

    def __init__(self, config: RankerConfig) -> None:
        super().__init__()
        self.config = config
        sizes = list(config.user_fields.values()), list(config.item_fields.values())
        self.new_ids = NewIds(config.id_dropout, *sizes) if config.id_dropout else None
        self.axes = nn.ModuleDict()  # of the modalities that are read as compact vectors

    def forward(self, batch: Batch) -> Scores:
        if self.training and len(batch) < 2:
            raise ValueError("a batch of one row in training; batch norm needs two: drop or merge the last batch")
        return self.score(self.prepared(batch))

    def prepared(self, batch: Batch) -> Batch:
        """The batch with ids and totals as this ranker should see them."""
        batch = batch if self.config.totals else _without_totals(batch)
        batch = batch if self.config.ids else _without_ids(batch)
        return self.new_ids(batch) if self.new_ids else batch

    @abstractmethod
    def score(self, batch: Batch) -> Scores:
        """What this form of ranker makes of a batch that `prepared` has returned."""

    def penalty(self) -> Tensor | None:
        """What the configuration adds to the loss for large weights; None: nothing."""
        return None

    def set_axes(self, modality: str, mean_D: Tensor, axes_DC: Tensor) -> None:
        """Takes a modality's principal axes (`packing.fit_axes`); ignored unless its compact vectors are read."""
        for name, axes in self.axes.items():
            if name == modality and isinstance(axes, Axes):
                axes.set_axes(mean_D, axes_DC)

    def set_vector_scale(self, modality: str, mean_D: Tensor, scale_D: Tensor) -> None:
        """Takes mean and deviation of a modality's vectors; ignored unless `standardise` and the modality is used."""
        for layer in self.modules():
            if self.config.standardise and isinstance(layer, Projection) and layer.modality == modality:
                layer.set_scale(mean_D, scale_D)


class UmairRanker(Ranker):
    """UMAIR-FPS (section 3); with `match`, what the user's history says of each modality joins the head. batch -> Scores.

    The match reaches the logit in three ways. With `match_mixed` each modality's products are added to its vector, so that
    the contribution weighs, and the crosses read, what suits the user. Products, sums and known flags enter the deep part
    beside the crosses. And the sums are added with positive weights of the user's own, which come from the user's ids, tags
    and counters, not from the user vector, which weighs worse: it has passed dropout, and forgets how long the history is.
    Counters, too, go to the head and straight to the logit: in the towers alone they drown (MovieLens: test AUC 0.75 instead
    of 0.80). Raises ContractError for vectors of another width. Departures from the authors' code: the contribution is
    computed per user, and a modality that is not known has no weight.
    """

    def __init__(self, config: RankerConfig, widths: dict[str, int]) -> None:
        super().__init__(config)
        self.modalities, self.matched = tuple(config.modalities), config.matched
        shared = config.tower[-1]  # width of the user vector and of each modality's
        self.user_profile = config.user_profile()
        facts = self.user_profile.width + config.counters * len(COUNTERS[USER_COUNTERS])
        self.user_tower = tower(facts + config.interests * 2 * widths["text"], config.tower, config.tower_dropout)
        self.item_profile = config.item_profile() if "profile" in self.modalities or config.machine else None
        if self.item_profile is not None and "profile" in self.modalities:
            item_width = self.item_profile.width + config.counters * len(COUNTERS[ITEM_COUNTERS])
            self.item_tower = tower(item_width, config.tower, config.tower_dropout)
        self.read = {name: "text" if name == "style" and config.text_for_style else name for name in self.modalities}
        self.project = nn.ModuleDict({name: Projection(read, widths[read], shared)
                                      for name, read in self.read.items() if name != "profile"})
        self.contribution = _contribution(config)
        mixed = shared * (1 if self.contribution else len(self.modalities))
        self.counters = Counters() if config.counters else None
        head = mixed + shared + config.counters * len(COUNTERS)
        self.cross = cross_network(config, head)
        self.cross_norm = BatchNorm(head) if config.residual else None
        self.axes.update({name: Axes(widths[name]) for name in self.matched if name != "profile"})
        self.match = _match(config, widths)
        self.mix = _mix(config)
        self.weigh = nn.Linear(facts, len(self.matched)) if self.match and config.match_weights else None
        matches = len(self.matched) * (config.match_width + 2)
        self.deep = nn.Sequential(*tower(head + matches, config.deep, config.deep_dropout),
                                  nn.Linear(config.deep[-1], 1, bias=False))
        self.linear = config.linear_part() if config.linear else None

    def score(self, batch: Batch) -> Scores:
        return self.meet(self.user_side(batch), self.item_side(batch))

    def user_side(self, batch: Batch) -> UserSide:
        """Of the users of a batch that `prepared` has returned; its illustrations are not looked at."""
        buckets = batch.user_fields_BF, batch.user_tags_BT
        counters_BC, profile_BX = batch.counters_BC[:, USER_COUNTERS], self.user_profile(*buckets)
        facts_BX = torch.cat([profile_BX, counters_BC], 1) if self.config.counters else profile_BX
        interests = (batch.long_interest_BD, batch.short_interest_BD) if self.config.interests else ()
        return UserSide(
            counters_BC, user_BD=self.user_tower(torch.cat([facts_BX, *interests], 1)),
            suits_BMP=None if self.match is None else self.match.suits(batch),
            weight_BM=None if self.weigh is None else F.softplus(self.weigh(facts_BX)),
            linear_B=None if self.linear is None else self.linear.of_user(*buckets), factors_BX=self._factors(profile_BX))

    def item_side(self, batch: Batch) -> ItemSide:
        """Of the illustrations of a batch that `prepared` has returned; its users are not looked at."""
        buckets = batch.item_fields_BF, batch.item_tags_BT
        counters_BC = batch.counters_BC[:, ITEM_COUNTERS]
        profile_BX = None if self.item_profile is None else self.item_profile(*buckets)
        place_BMP, placed_BM = (None, None) if self.match is None else self.match.own(batch)
        return ItemSide(
            counters_BC, modality_BMD=self._modality_vectors(batch, profile_BX, counters_BC),
            known_BM=torch.stack([batch.known(read) for read in self.read.values()], 1),
            place_BMP=place_BMP, placed_BM=placed_BM,
            linear_B=None if self.linear is None else self.linear.of_item(*buckets), factors_BX=self._factors(profile_BX))

    def meet(self, user: UserSide, item: ItemSide) -> Scores:
        """The score of each user with the illustration in the same row."""
        matches, modality_BMD = self._matches(user, item), item.modality_BMD
        if matches is not None and self.config.match_mixed:
            modality_BMD = self._with_matches(modality_BMD, matches)
        mixed_BX, weight_BM = self._contribute(user.user_BD, modality_BMD, item.known_BM)
        head, logits = [mixed_BX, user.user_BD], []
        if self.counters is not None:
            counters_BC, counted_B = self.counters(torch.cat([user.counters_BC, item.counters_BC], 1))
            head.append(counters_BC)
            logits.append(counted_B)
        head_BX, match_BM = self._crossed(torch.cat(head, 1)), None
        if matches is not None:
            head_BX = torch.cat([head_BX, matches.product_BMP.flatten(1), matches.sum_BM, matches.known_BM], 1)
            match_BM = matches.sum_BM if user.weight_BM is None else user.weight_BM * matches.sum_BM
            logits.append(match_BM.sum(1))
        if user.linear_B is not None and item.linear_B is not None:
            logits.append(user.linear_B + item.linear_B)
        if user.factors_BX is not None and item.factors_BX is not None:
            logits.append(factorization(user.factors_BX + item.factors_BX))
        return Scores(sum(logits, self.deep(head_BX)[:, 0]), weight_BM, match_BM)

    def penalty(self) -> Tensor | None:
        if not self.config.penalties:
            return None
        weights: list[tuple[float, Any]] = [(PENALTIES["modality"], layer.weight) for layer in self.project.values()]
        weights += [(PENALTIES["deep"], layer.weight) for layer in list(self.deep)[:-1] if isinstance(layer, nn.Linear)]
        for part in self.modules():
            if isinstance(part, CrossNetMix):
                weights += [(PENALTIES["cross"], weight) for weight in part.kernels()]
            if isinstance(part, SenetExpert):
                weights += [(PENALTIES["senet"], layer.weight) for layer in (part.squeeze, part.excite)]
        return torch.stack([factor * weight.square().sum() for factor, weight in weights]).sum()

    def _crossed(self, head_BX: Tensor) -> Tensor:
        crossed_BX: Tensor = self.cross(head_BX)
        return crossed_BX if self.cross_norm is None else F.relu(self.cross_norm(crossed_BX + head_BX))

    def _factors(self, profile_BX: Tensor | None) -> Tensor | None:
        """[B, E + 1]: what a side's embeddings are to the factorization machine, if there is one."""
        if profile_BX is None or not self.config.machine:
            return None
        return factors(profile_BX.view(len(profile_BX), -1, self.config.embedding_width))

    def _modality_vectors(self, batch: Batch, profile_BX: Tensor | None, counters_BC: Tensor) -> Tensor:
        """[B, M, D]: each modality of the illustration, brought to one width."""
        facts = [part for part in (profile_BX, counters_BC if self.config.counters else None) if part is not None]
        return torch.stack([F.relu(self.project[name](batch.vectors_BD[read])) if name in self.project
                            else self.item_tower(torch.cat(facts, 1)) for name, read in self.read.items()], 1)

    def _matches(self, user: UserSide, item: ItemSide) -> Matches | None:
        if user.suits_BMP is None or item.place_BMP is None or item.placed_BM is None:
            return None
        return meet(user.suits_BMP, item.place_BMP, item.placed_BM)

    def _with_matches(self, modality_BMD: Tensor, matches: Matches) -> Tensor:
        """Each modality plus its match, if it is matched."""
        mixed_BMD: Tensor = self.mix(matches.product_BMP)
        if self.matched == self.modalities:
            return modality_BMD + mixed_BMD
        match_of = dict(zip(self.matched, mixed_BMD.unbind(1), strict=True))
        vectors = zip(self.modalities, modality_BMD.unbind(1), strict=True)
        return torch.stack([vector_BD + match_of[name] if name in match_of else vector_BD for name, vector_BD in vectors], 1)

    def _contribute(self, user_BD: Tensor, modality_BMD: Tensor, known_BM: Tensor) -> tuple[Tensor, Tensor | None]:
        """The modalities mixed by their weights and the weights, or the modalities side by side and none."""
        if self.contribution is None:
            return (modality_BMD * known_BM[:, :, None]).flatten(1), None
        mixed_BD, weight_BM = self.contribution(user_BD, modality_BMD, known_BM)
        return mixed_BD, weight_BM


def _contribution(config: RankerConfig) -> nn.Module | None:
    """The configured mechanism; plain attention experts, which are one after training, are computed as one."""
    if config.contribution == "none":
        return None
    if config.contribution == "item":
        return ItemContribution(config.tower[-1])
    different = config.projected_experts or config.score == "hadamard" or config.batch_mean
    if config.contribution == "attention" and not different:
        return AttentionContribution(config.experts, config.attention_dropout, config.scaled_scores)
    kinds = {"attention": ("attention",), "senet": ("senet",), "mixed": ("attention", "senet")}[config.contribution]
    experts = [_expert(kinds[number % len(kinds)], config) for number in range(config.experts)]
    return ExpertContribution(experts, scaled=config.scaled_scores, batch_mean=config.batch_mean)


def _expert(kind: str, config: RankerConfig) -> nn.Module:
    width = config.tower[-1]
    if kind == "senet":
        return SenetExpert(len(config.modalities), width, summed=config.senet_sum)
    return AttentionExpert(width, config.attention_dropout, scaled=config.scaled_scores, projected=config.projected_experts,
                           hadamard=config.score == "hadamard", batch_mean=config.batch_mean)


def factors(fields_BFE: Tensor) -> Tensor:
    """[B, E + 1]: what `factorization` asks of embeddings, their sum and that of all their squares. Of more fields it is the
    sum of what it is of each part of them."""
    return torch.cat([fields_BFE.sum(1), fields_BFE.square().sum((1, 2))[:, None]], 1)


def factorization(factors_BX: Tensor) -> Tensor:
    """[B]: the sum over all pairs of fields of their dot products (Rendle 2010), in time linear in the fields."""
    return 0.5 * (factors_BX[:, :-1].square().sum(1) - factors_BX[:, -1])


def cross_network(config: RankerConfig, width: int) -> nn.Module:
    """The config's cross network over `width` numbers, or nothing where it has no layers."""
    if not config.cross_layers:
        return nn.Identity()
    return CrossNetMix(width, config.cross_layers, config.cross_rank, config.cross_experts)


def _mix(config: RankerConfig) -> nn.Module:
    """Brings a match to the width of the modalities, where it has another and is added to them."""
    shared = config.tower[-1]
    if config.match_width == shared or not (config.match_mixed and config.matched):
        return nn.Identity()
    return nn.Linear(config.match_width, shared, bias=False)


def _match(config: RankerConfig, widths: dict[str, int]) -> Match | None:
    if not config.matched:
        return None
    width = config.match_width
    projects: dict[str, nn.Linear | ProfilePlace] = {name: nn.Linear(compact_width(widths[name]), width)
                                                     for name in config.matched if name != "profile"}
    if "profile" in config.matched:
        projects["profile"] = ProfilePlace(config.item_fields["artist_id"], config.tag_buckets, width)
    return Match(projects, width, config.match_shrink, passed=config.match_passed)


def _without_totals(batch: Batch) -> Batch:
    fields_BF = batch.item_fields_BF.clone()
    for place, name in enumerate(ITEM_FIELDS):
        if name in TOTALS:
            fields_BF[:, place] = 0  # one by one: a list of places would make a GPU wait
    return replace(batch, item_fields_BF=fields_BF)


def _without_ids(batch: Batch) -> Batch:
    names = ("user_fields_BF", "user_tags_BT", "item_fields_BF", "item_tags_BT")
    nothing: dict[str, Any] = {name: torch.zeros_like(getattr(batch, name)) for name in names}
    of_all = batch.catalogue
    none_I, none_IT = (table.new_zeros(1).expand_as(table) for table in (of_all.artist_I, of_all.tags_IT))
    return replace(batch, **nothing, catalogue=replace(of_all, artist_I=none_I, tags_IT=none_IT))


def count_parameters(model: nn.Module) -> dict[str, int]:
    """`trainable` weights, and `keras`: with the running statistics of batch norm, as the paper counts them."""
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    running = sum(2 * layer.num_features for layer in model.modules() if isinstance(layer, nn.BatchNorm1d))
    return {"trainable": trainable, "keras": trainable + running}
