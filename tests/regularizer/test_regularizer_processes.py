"""Under several processes, the gradient is that of one process with the whole batch."""

import subprocess
import sys
import textwrap

import pytest
import torch

WORKER = textwrap.dedent("""
    import sys, torch, torch.distributed as dist
    from torch import nn
    import unitprobe as up

    out, measure = sys.argv[1:]
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)).double()
    images, labels = torch.randn(18, 3, 8, 8, dtype=torch.double), torch.arange(18) % 4
    labels[:9] = labels[:9].clamp(max=1)  # classes that one process has and the other has not
    wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    mine = slice(rank * 18 // world, (rank + 1) * 18 // world)
    with up.SelectivityRegularizer(wrapped, measure=measure, class_count=4) as regularizer:
        loss = nn.functional.cross_entropy(wrapped(images[mine]), labels[mine])
        (loss + regularizer(labels[mine])).backward()
    if rank == 0:
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        torch.save((gradient, regularizer.selectivity), out)
    dist.destroy_process_group()
""")


def gradient_of(processes, measure, folder):
    script, out = folder / "worker.py", folder / f"{processes}.pt"
    script.write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launch, f"--nproc-per-node={processes}", str(script), str(out), measure]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 0, run.stderr
    return torch.load(out)


@pytest.mark.process
@pytest.mark.parametrize("measure", ["class_selectivity", "d_prime"])
def test_two_processes_with_half_the_batch_have_the_gradient_of_one(tmp_path, measure):
    whole, selectivity = gradient_of(1, measure, tmp_path)
    halves, same = gradient_of(2, measure, tmp_path)
    torch.testing.assert_close(halves, whole)
    torch.testing.assert_close(same, selectivity)
