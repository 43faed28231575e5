"""What a check of `doctor` comes to: a line with ok, warn or fail, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` says what to do; there is none for what is well."""

    verdict: Verdict
    subject: str
    text: str
    advice: str = ""

    def line(self) -> str:
        advice = f". {self.advice}" if self.advice else ""
        return f"{self.verdict:<4}  {self.subject:<12}  {self.text}{advice}"


def ok(subject: str, text: str) -> Finding:
    return Finding("ok", subject, text)


def warn(subject: str, text: str, advice: str) -> Finding:
    return Finding("warn", subject, text, advice)


def fail(subject: str, text: str, advice: str) -> Finding:
    return Finding("fail", subject, text, advice)
