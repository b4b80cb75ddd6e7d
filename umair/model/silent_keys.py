"""Keys of a ranker that say nothing beside the others: presets carry them from form to form."""

from __future__ import annotations

from umair.model.ranker import RankerConfig

OF_OURS = frozenset(RankerConfig.model_fields) - {  # keys that no rival reads: those below are read by rivals too
    "form", "inputs", "vector_fields", "user_fields", "item_fields", "tag_buckets", "exact", "embedding_width",
    "embedding_std", "counters", "ids", "totals", "interests", "id_dropout", "standardise", "deep", "deep_dropout", "linear",
    "penalties", "cross_layers", "cross_rank", "cross_experts"}
OF_CROSSES, OF_GATED_CROSSES = frozenset({"cross_layers"}), frozenset({"cross_rank", "cross_experts"})
OF_MATCHES = frozenset({"match_width", "match_passed", "match_weights", "match_shrink", "match_mixed"})
OF_ATTENTION = frozenset({"attention_dropout", "projected_experts", "score"})
OF_EXPERTS = frozenset({"experts", "scaled_scores", "batch_mean", "senet_sum"}) | OF_ATTENTION
OF_ITEMS = frozenset({"totals", "item_fields"})


def silent_keys(config: RankerConfig) -> frozenset[str]:
    """The keys of which no value changes a weight or a score of such a ranker, in training or after it."""
    return _silent_to_ours(config) if config.form == "umair" else _silent_to_a_rival(config)


def _silent_to_ours(config: RankerConfig) -> frozenset[str]:
    silent = {"inputs", "vector_fields"} | _of_the_contribution(config) | _of_hidden_ids(config)
    if not config.cross_layers:
        silent |= OF_GATED_CROSSES
    if not config.matched:
        silent |= OF_MATCHES
    if set(config.modalities) == {"profile"}:
        silent |= {"standardise"}
    if "style" not in config.modalities:
        silent |= {"text_for_style"}
    if not ("profile" in config.modalities or config.linear or config.machine):
        silent |= OF_ITEMS
    return frozenset(silent)


def _of_the_contribution(config: RankerConfig) -> frozenset[str]:
    if config.contribution in ("item", "none"):
        return OF_EXPERTS
    if config.contribution == "senet":
        return OF_ATTENTION
    if config.contribution == "mixed":
        return frozenset({"senet_sum"} if config.experts == 1 else ())  # the first of them is attention
    different = config.projected_experts or config.score == "hadamard" or config.batch_mean
    alike = not (different or config.attention_dropout)  # without weights of their own, experts differ by what they drop
    return frozenset({"senet_sum", "experts"} if alike else {"senet_sum"})


def _silent_to_a_rival(config: RankerConfig) -> frozenset[str]:
    silent = set(OF_OURS)
    if config.form not in ("dcn", "dcn_v2"):
        silent |= OF_CROSSES
    if config.form != "dcn_v2" or not config.cross_layers:
        silent |= OF_GATED_CROSSES
    if config.form == "final_mlp":
        silent |= {"deep", "linear"}
    if config.inputs != "all":
        silent |= {"vector_fields", "interests", "standardise"}
    if config.inputs == "authors":
        silent |= {"counters"}
    return frozenset(silent | _of_hidden_ids(config))


def _of_hidden_ids(config: RankerConfig) -> frozenset[str]:
    """Without ids every field is in one bucket anyway."""
    return frozenset() if config.ids else frozenset({"totals"})
