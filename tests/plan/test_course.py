"""Stages and batches of runs."""

from __future__ import annotations

import pytest

from homegrown.config import ConfigError
from homegrown.plan.catalogue import Catalogue
from homegrown.plan.course import Leg, course_of, tokens_of, usual_batch, usual_course
from homegrown.plan.shapes import preset_shape

DEEPSEEK = Catalogue.load().shape("deepseek-v3")


class TestGiven:
    def test_lengths_in_binary_tokens_in_decimal(self):
        course = course_of("8K:33T, 131072:1.5T,1M:0.5T")
        assert course.legs == (Leg(8192, 33e12), Leg(131_072, 1.5e12), Leg(1_048_576, 0.5e12))
        assert course.tokens == 35e12
        assert [leg.name for leg in course.legs] == ["8K", "128K", "1M"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("8K", "stages = '8K': '8K' must be SEQUENCE:TOKENS"),
            ("8K:33T,", "stages = '8K:33T,': '' must be SEQUENCE:TOKENS"),
            ("8K:33", "stages = '33': 33 tokens are no training run; write a unit"),
            ("8K:33X", "stages = '33X': 'X' is no unit"),
            ("0:33T", "stages = '0': must be positive"),
            ("8.3:33T", "stages = '8.3': must be a whole number of tokens"),
            ("8K:-1T", "stages = '-1T': must be positive"),
        ],
    )
    def test_that_cannot_be(self, text, message):
        with pytest.raises(ConfigError) as error:
            course_of(text)
        assert str(error.value).startswith(message)

    def test_a_forgotten_unit(self):
        with pytest.raises(ConfigError, match="tokens = '35': 35 tokens are no training run"):
            tokens_of("35")
        assert tokens_of("14.8T") == 14.8e12


class TestUsual:
    def test_stages_of_a_model_that_is_known(self):
        course = usual_course(preset_shape("longcat-2.0"), 70e12)
        assert [(leg.sequence, leg.tokens) for leg in course.legs] == [
            (8192, pytest.approx(66e12)), (131_072, pytest.approx(3e12)), (1_048_576, pytest.approx(1e12)),
        ]  # fmt: skip
        assert "guessed" in course.reason

    def test_one_stage_of_another(self):
        assert usual_course(DEEPSEEK, 14.8e12).legs == (Leg(4096, 14.8e12),)
        assert usual_course(DEEPSEEK, 14.8e12, 32_768).legs == (Leg(32_768, 14.8e12),)

    def test_batch_grows_with_the_compute_of_the_run(self):
        """0.292 C^0.3271 by hand: C = 14.8e12 * 260 GFLOP (the draft head counted) = 3.85e24."""
        tokens, reason = usual_batch(DEEPSEEK, [Leg(4096, 14.8e12)])
        best = 0.292 * (14.8e12 * 260e9) ** 0.3271
        assert best <= tokens < 2 * best
        assert tokens == 2.0**25
        assert f"{best / 1e6:.0f}" in reason
        assert usual_batch(DEEPSEEK, [Leg(4096, 4 * 14.8e12)])[0] == 2 * tokens
