"""The published rivals by the name of their form."""

from __future__ import annotations

from umair.baselines.dcn import Dcn
from umair.baselines.dcn_v2 import DcnV2
from umair.baselines.difm import Difm
from umair.baselines.fibinet import FiBiNet
from umair.baselines.final_mlp import FinalMlp
from umair.baselines.rival import Rival
from umair.baselines.xdeepfm import XDeepFm

RIVALS: dict[str, type[Rival]] = {"dcn": Dcn, "xdeepfm": XDeepFm, "fibinet": FiBiNet, "difm": Difm, "dcn_v2": DcnV2,
                                  "final_mlp": FinalMlp}
