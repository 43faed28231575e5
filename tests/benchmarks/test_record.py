"""A record holds what each of the shipped draft models would propose."""

from __future__ import annotations

from benchmarks.record import MODELS, Family, record_all
from shared import served


def test_all_drafters_of_the_target_are_in_it() -> None:
    tracks = record_all(Family(), groups=1, length=2)
    (target,) = served.read(MODELS)
    wanted = {"ngram", "suffix", *target.drafters}
    assert len(target.drafters) == 2
    for track in tracks:
        assert len(track.tokens) == len(track.opinions) == 2
        drafters = {opinion.drafter for place in track.opinions for opinion in place}
        assert set(target.drafters) <= drafters <= wanted
