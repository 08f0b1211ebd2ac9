"""What a machine computes quickly, told from its processor's flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from search import native
from search.check import all_problems
from search.cli.init import write_example

AVX2 = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma\n"
AVX512 = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw avx512vl\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with AVX2 alone and no card."""
    info = tmp_path / "cpuinfo"
    info.write_text(AVX2)
    monkeypatch.setattr(native, "CPUINFO", info)
    monkeypatch.setattr(native, "GPUS", tmp_path / "gpus")
    return info


@pytest.mark.parametrize(("text", "is_slow"), [(AVX2, True), (AVX512, False), (ARM, False)])
def test_bfloat16_is_slow_without_instructions_for_it(text: str, is_slow: bool, cpu: Path) -> None:
    cpu.write_text(text)
    assert native.is_bfloat16_slow("cpu") is is_slow


def test_a_card_makes_up_for_the_processor_where_the_study_uses_it(
    cpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (native.GPUS / "0000:01:00.0").mkdir(parents=True)
    assert not native.is_bfloat16_slow("auto")
    assert native.is_bfloat16_slow("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert native.is_bfloat16_slow("auto")


def test_a_machine_that_does_not_say_is_not_called_slow(cpu: Path) -> None:
    cpu.unlink()
    assert not native.is_bfloat16_slow("cpu")


def test_check_warns_of_slow_bfloat16_and_says_what_to_do(good_study: Path, cpu: Path) -> None:
    good_study.write_text(good_study.read_text() + "training: {precision: bfloat16}\n")
    (warning,) = [found for found in all_problems(good_study) if "bfloat16" in found.text]
    assert warning.is_warning
    assert "set it to float32" in warning.text
    cpu.write_text(AVX512)
    assert not [found for found in all_problems(good_study) if "bfloat16" in found.text]


@pytest.mark.parametrize(("text", "precision"), [(AVX2, "float32"), (AVX512, "bfloat16")])
def test_the_example_comes_in_the_precision_that_is_fast_here(
    text: str, precision: str, cpu: Path, tmp_path: Path
) -> None:
    cpu.write_text(text)
    write_example("inner_voice", tmp_path / "study")
    assert f"precision: {precision}\n" in (tmp_path / "study" / "study.yaml").read_text()
