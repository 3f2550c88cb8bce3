"""Plans: what a run does, as data. Drawn from a seed, written as JSON, shrunk by taking things away.

A plan says everything that a run depends on, so that the same plan is the same run. Must not know how it is run.
"""

from mqcore_conformance.plans._data import (
    CHURN_SIZES,
    FLUSH_POLICIES,
    TAGS,
    TOPIC,
    AlterPlan,
    ConsumerPlan,
    FaultPlan,
    GroupPlan,
    LibraryPlan,
    NamePlan,
    ProducerPlan,
    RunPlan,
    SeekPlan,
    SendPlan,
    plan_from_json,
    plan_to_json,
)
from mqcore_conformance.plans._drawing import CRASH_POINTS, crash_point_bases, crash_points, draw_plan
from mqcore_conformance.plans._families import FAMILIES
from mqcore_conformance.plans._member_families import MEMBER_FAMILIES
from mqcore_conformance.plans._process_families import (
    CONTROLLED_FAMILIES,
    DIVERTED_FAMILIES,
    PROXY_FAMILIES,
    T1_FAMILIES,
    draw_processes_plan,
    simpler_plans,
)
from mqcore_conformance.plans._set_families import SET_FAMILIES, SET_REPLICATIONS, draw_set_plan
from mqcore_conformance.plans._shrinking import shrink_steps
from mqcore_conformance.plans._simulated_sets import SIMULATED_SET_FAMILIES, draw_simulated_set_plan
from mqcore_conformance.plans._small_files import with_small_files

EVERY_FAMILY = tuple(
    dict.fromkeys((*FAMILIES, *MEMBER_FAMILIES, CRASH_POINTS, *T1_FAMILIES, *SIMULATED_SET_FAMILIES, *SET_FAMILIES))
)
"""Families of faults of every tier, of brokers and of sets: what may be asked for, and in which order it is shown."""

__all__ = [
    "CHURN_SIZES",
    "CONTROLLED_FAMILIES",
    "CRASH_POINTS",
    "DIVERTED_FAMILIES",
    "EVERY_FAMILY",
    "FAMILIES",
    "FLUSH_POLICIES",
    "MEMBER_FAMILIES",
    "PROXY_FAMILIES",
    "SET_FAMILIES",
    "SET_REPLICATIONS",
    "SIMULATED_SET_FAMILIES",
    "T1_FAMILIES",
    "TAGS",
    "TOPIC",
    "AlterPlan",
    "ConsumerPlan",
    "FaultPlan",
    "GroupPlan",
    "LibraryPlan",
    "NamePlan",
    "RunPlan",
    "ProducerPlan",
    "SeekPlan",
    "SendPlan",
    "crash_point_bases",
    "crash_points",
    "draw_plan",
    "draw_processes_plan",
    "draw_set_plan",
    "draw_simulated_set_plan",
    "plan_from_json",
    "plan_to_json",
    "shrink_steps",
    "simpler_plans",
    "with_small_files",
]
