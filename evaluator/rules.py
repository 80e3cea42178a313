"""Flags of configuration version 2: rules in order, each with targeting and a typed value.

The first rule that comes to an end decides; one whose rollout misses and that says so lets the next one try. Invariant:
an empty identity is never rolled out, held out or given a variant, unlike in flags of conditions.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec

from evaluator.definitions import FilterDocument, FlagDocument, RuleDocument
from evaluator.filters import Filter
from evaluator.frame import Frame, Wanted
from evaluator.hashing import Buckets, Sha1Buckets, prehashed, threshold_at_most, variant_thresholds
from evaluator.identity import Identify
from evaluator.match import Condition, Match
from evaluator.types import UNSET, Absence, Encode, FlagResult, Missing, Outcome, Reason, ReasonCode, RuleAnswer

UNRESOLVED: Final = Missing("dependency_error", "A flag that this one depends on does not exist or is in a cycle")


class Continue(Enum):
    """That a rule leaves the decision to the next one."""

    CONTINUE = "continue"


CONTINUE: Final = Continue.CONTINUE


class Rule(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A compiled rule. `condition` has its filters, rollout and outcomes; the rest is what only rules have.

    `missed` is the condition's outcome, or CONTINUE. `holdout` is a hash, a threshold and the outcome of the held out.
    """

    condition: Condition
    continues: bool
    paused: Outcome | None
    holdout: tuple[Buckets, bytes, Outcome] | None

    def settle(self, frame: Frame) -> Outcome | Continue:
        """What the rule comes to for somebody its targeting holds for."""
        condition = self.condition
        if self.paused:
            return self.paused
        identity = condition.identify(frame)
        if not condition.hashes and not self.holdout:
            return condition.matched[0]
        if isinstance(identity, Absence) or not identity:
            return CONTINUE if self.continues else condition.missed
        if self.holdout and self.holdout[0].rollout_digest(identity) < self.holdout[1]:
            return self.holdout[2]
        if condition.admits(identity):
            return condition.outcome(frame)
        return CONTINUE if self.continues else condition.missed


def match_rules(rules: tuple[Rule, ...], nothing: Outcome, identify: Identify, missing_group: Outcome) -> Match:
    """The matcher of a flag of rules. A flag of groups wants a usable key before anything else."""

    def match(frame: Frame) -> Outcome | None:
        if identify(frame) is UNSET:
            return missing_group
        for rule in rules:
            holds = rule.condition.holds(frame)
            if holds is False:
                continue
            outcome = rule.settle(frame)
            if outcome is not CONTINUE:
                return outcome if holds else None
        return nothing

    return match


def want_rules(rules: tuple[Rule, ...], frame: Frame, wanted: Wanted, flag_key: str) -> None:
    """What could still change the outcome of a flag that is undecided."""
    for rule in rules:
        holds = rule.condition.holds(frame)
        if holds is False or rule.settle(frame) is CONTINUE:
            continue
        if holds:
            return
        rule.condition.want(frame, wanted, flag_key)


class RulesCompiler:
    """Compiles the rules of one flag."""

    def __init__(
        self,
        document: FlagDocument,
        encode: Encode,
        identify: Identify,
        compile_filter: Callable[[FilterDocument, str], Filter],
    ) -> None:
        self.document = document
        self.encode = encode
        self.identify = identify
        self.compile_filter = compile_filter

    def compile(self, path: str) -> tuple[Match, tuple[Rule, ...]]:
        rules = tuple(
            self.rule(index, rule, f"{path}.filters.rules[{index}]")
            for index, rule in enumerate(self.document.filters.rules)
        )
        nothing = self.default(Reason(ReasonCode.NO_RULE_MATCH, None, "No rule matched"), None)
        no_group = self.default(
            Reason(ReasonCode.MISSING_GROUP_KEY, None, "The request names no group of the type"), None
        )
        return match_rules(rules, nothing, self.identify, no_group), rules

    def rule(self, index: int, document: RuleDocument, path: str) -> Rule:
        number = index + 1
        is_split = document.rule_type == "experiment"
        percentage = 100.0 if document.rule_type == "targeted_release" else document.rollout_percentage
        matched = Reason(ReasonCode.TARGETING_MATCH, index, f"Matched rule {number}")
        split = Reason(ReasonCode.EXPERIMENT_SPLIT, index, f"Matched rule {number}")
        if is_split and document.variants:
            answers = [self.answer(split, document, variant.value, variant.key) for variant in document.variants]
            outcomes = (*answers, answers[-1])  # The last variant catches what rounding leaves over.
        else:
            outcomes = (self.answer(split if is_split else matched, document, document.value),)
        missed = self.default(Reason(ReasonCode.ROLLOUT_MISS, index, f"Rule {number} rollout miss"), document)
        thresholds = variant_thresholds(variant.weight for variant in document.variants) if is_split else []
        condition = Condition(
            index=index,
            filters=tuple(
                self.compile_filter(filter_, f"{path}.targeting.properties[{position}]")
                for position, filter_ in enumerate(document.targeting.properties)
            ),
            percentage=percentage,
            threshold=None if percentage >= 100 else threshold_at_most(percentage / 100),
            buckets=Sha1Buckets(prehashed(f"{document.seed}."), thresholds),
            identify=self.identify,
            is_of_group=False,
            matched=outcomes,
            missed=missed,
            unmatched=missed,
            unusable=missed,
        )
        paused = Reason(ReasonCode.EXPERIMENT_PAUSED, index, f"Rule {number} is paused")
        return Rule(
            condition=condition,
            continues=document.on_rollout_miss == "continue",
            paused=self.default(paused, document) if is_split and document.paused else None,
            holdout=self.holdout(index, document) if is_split else None,
        )

    def holdout(self, index: int, document: RuleDocument) -> tuple[Buckets, bytes, Outcome] | None:
        holdout = document.holdout
        if holdout is None:
            return None
        threshold = threshold_at_most(holdout.exclusion_percentage / 100)
        reason = Reason(ReasonCode.HOLDOUT, index, f"Rule {index + 1} holdout")
        held = self.default(reason, document, holdout_id=holdout.id)
        return Sha1Buckets(prehashed(f"{holdout.seed}."), []), threshold, held

    def default(self, reason: Reason, document: RuleDocument | None, *, holdout_id: int | None = None) -> Outcome:
        """The flag's default value, by the rule that came to it, or by none."""
        return self.answer(reason, document, self.document.filters.default_value, holdout_id=holdout_id)

    def answer(
        self,
        reason: Reason,
        document: RuleDocument | None,
        value: object,
        variant_key: str | None = None,
        *,
        holdout_id: int | None = None,
    ) -> Outcome:
        """An outcome with a typed value. In older shapes text is a variant, and numbers and objects are payloads."""
        rule = RuleAnswer(
            value=value,
            rule_type=document.rule_type if document else None,
            rule_id=document.id if document else None,
            variant_key=variant_key,
            experiment_id=document.experiment_id if document else None,
            holdout_id=holdout_id,
        )
        is_plain = value is None or isinstance(value, bool | str)
        result = FlagResult(
            key=self.document.key,
            id=self.document.id,
            version=self.document.version or 0,
            has_experiment=bool(self.document.has_experiment),
            enabled=value is not None and value is not False,
            variant=value if isinstance(value, str) else None,
            payload=None if is_plain else msgspec.json.encode(value).decode(),
            reason=reason,
            rule=rule,
        )
        return Outcome(result, self.encode(result))
