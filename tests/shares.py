"Losses and gradients of one process of a group, for tests that compare groups with a single process."
import torch


def share_of(task, batch):
    "Return the terms of this process's rows, and gradients averaged over processes as in DDP."
    rank, n = torch.distributed.get_rank(), torch.distributed.get_world_size()
    terms = task({k: v[rank::n] for k, v in batch.items()})
    sum(v.mean() for v in terms.values()).backward()
    grads = {k: p.grad for k, p in task.named_parameters() if p.grad is not None}
    for g in grads.values(): torch.distributed.all_reduce(g)
    return {k: v.detach().numpy() for k, v in terms.items()}, {k: (g/n).numpy() for k, g in grads.items()}
