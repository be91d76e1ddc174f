"""GPUs are given out one by one and come back, also from processes that were killed."""

import os
import subprocess
import sys
import threading

from tools.lib.gpus import one_gpu, visible_gpus


def test_the_environment_says_which_gpus_there_are(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5,GPU-1f")
    assert visible_gpus() == ["3", "5", "GPU-1f"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_nvidia_smi_lists_them_otherwise(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA X (UUID: GPU-a)'\necho 'GPU 1: NVIDIA X (UUID: GPU-b)'\n")
    tool.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_gpus() == ["0", "1"]


def test_one_gpu_or_none_leaves_no_choice(monkeypatch, tmp_path):
    for visible in ("", "7"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        with one_gpu(tmp_path) as given:
            assert given == ("", None)


def test_a_third_point_waits_for_one_of_two(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    third: list[str] = []

    def take() -> None:
        with one_gpu(tmp_path) as (gpu, _):
            third.append(gpu)

    with one_gpu(tmp_path) as (first, _):
        with one_gpu(tmp_path) as (second, _):
            assert {first, second} == {"0", "1"}
            waiting = threading.Thread(target=take)
            waiting.start()
            waiting.join(0.3)
            assert third == []
        waiting.join(10)
    assert third == [second]


def test_a_gpu_stays_taken_while_a_child_lives_that_inherited_its_lock(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with one_gpu(tmp_path) as (gpu, descriptor):
        assert descriptor is not None
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    with one_gpu(tmp_path) as (other, _):
        assert other != gpu
    child.communicate(b"\n")
    with one_gpu(tmp_path) as (again, _):
        assert again == gpu
