import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from homegrown import host
from homegrown.config import UserError


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


class TestCgroupVersion2:
    def test_tightest_limit_of_the_chain_counts(self, tmp_path):
        write(
            tmp_path,
            {
                "proc/self/cgroup": "0::/user.slice/job\n",
                "sys/fs/cgroup/user.slice/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/user.slice/memory.max": "1073741824\n",
                "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
                "sys/fs/cgroup/user.slice/job/memory.max": "2147483648\n",
            },
        )
        assert host.cgroup_cpus(tmp_path / "proc", tmp_path / "sys") == 1.5
        assert host.cgroup_memory(tmp_path / "proc", tmp_path / "sys") == 1 << 30

    def test_container_that_sees_its_group_as_the_root(self, tmp_path):
        write(
            tmp_path,
            {
                "proc/self/cgroup": "0::/docker/0123abcd\n",
                "sys/fs/cgroup/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/memory.max": "max\n",
            },
        )
        assert host.cgroup_cpus(tmp_path / "proc", tmp_path / "sys") == 4.0
        assert host.cgroup_memory(tmp_path / "proc", tmp_path / "sys") is None


class TestCgroupVersion1:
    GROUPS = "5:cpu,cpuacct:/job\n4:memory:/job\n1:name=systemd:/\n"

    def test_limits(self, tmp_path):
        write(
            tmp_path,
            {
                "proc/self/cgroup": self.GROUPS,
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "536870912\n",
            },
        )
        assert host.cgroup_cpus(tmp_path / "proc", tmp_path / "sys") == 2.5
        assert host.cgroup_memory(tmp_path / "proc", tmp_path / "sys") == 512 << 20

    def test_no_quota(self, tmp_path):
        write(
            tmp_path,
            {
                "proc/self/cgroup": self.GROUPS,
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
            },
        )
        assert host.cgroup_cpus(tmp_path / "proc", tmp_path / "sys") is None


def test_system_without_control_groups(tmp_path):
    assert host.cgroup_cpus(tmp_path, tmp_path) is None
    assert host.cgroup_memory(tmp_path, tmp_path) is None


def test_hyperthreads_are_one_core(tmp_path):
    topology = "devices/system/cpu/cpu{}/topology/thread_siblings_list"
    siblings = {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5"}
    write(tmp_path, {topology.format(cpu): text + "\n" for cpu, text in siblings.items()})
    assert host.physical_cores({0, 4}, tmp_path) == 1
    assert host.physical_cores({0, 1, 4, 5}, tmp_path) == 2
    assert host.physical_cores({7, 8}, tmp_path) == 2, "without a topology each CPU counts"


def test_this_process():
    assert 1 <= host.usable_cores() <= (os.cpu_count() or 1)
    assert host.usable_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < host.peak_resident() < host.usable_memory()


X86 = "processor\t: 0\nmodel name\t: Chip X\nflags\t\t: fpu avx2 avx512f{}\n\nprocessor\t: 1\nmodel name\t: Chip Y\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd{}\n"


class TestCpuinfo:
    def test_first_processor_counts(self, tmp_path):
        path = write(tmp_path, {"cpuinfo": X86.format("")}) / "cpuinfo"
        assert host.cpu_name(host.cpuinfo(path)) == "Chip X"

    def test_absent(self, tmp_path):
        info = host.cpuinfo(tmp_path / "cpuinfo")
        assert info == {}
        assert host.cpu_name(info)
        assert not host.cpu_bf16(info)

    @pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without its CPU matrix library")
    @pytest.mark.parametrize(
        ("text", "fast"),
        [
            (X86.format(""), False),
            (X86.format(" avx512_bf16"), True),
            (X86.format(" amx_bf16"), True),
            (ARM.format(""), False),
            (ARM.format(" bf16"), True),
        ],
    )
    def test_bf16_flags(self, tmp_path, text, fast):
        assert host.cpu_bf16(host.cpuinfo(write(tmp_path, {"cpuinfo": text}) / "cpuinfo")) is fast


class TestThreads:
    @pytest.fixture(autouse=True)
    def keep(self):
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)

    def test_stated_number(self):
        assert host.set_threads(3) == torch.get_num_threads() == 3

    def test_zero_is_all_cores(self, monkeypatch):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        assert host.set_threads(0) == torch.get_num_threads() == host.usable_cores()

    @pytest.mark.parametrize("limit", ["1", "1,4"])
    def test_zero_respects_the_launcher(self, monkeypatch, limit):
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
        assert host.set_threads(0) == torch.get_num_threads() == 1

    def test_negative(self):
        with pytest.raises(UserError, match="threads = -1"):
            host.set_threads(-1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults of glibc's allocator")
def test_kept_memory_is_not_faulted_in_again():
    code = """
        import resource
        import torch
        from homegrown.host import keep_host_memory

        def faults(rounds=5):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(rounds):
                torch.ones(48 << 20, dtype=torch.uint8)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        faults()
        usual = faults()
        done = keep_host_memory()
        faults()
        print(int(done), usual, faults())
    """
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    done, usual, kept = map(int, out.stdout.split())
    if not done:
        pytest.skip("this system's C library is not glibc")
    assert kept < usual / 10
