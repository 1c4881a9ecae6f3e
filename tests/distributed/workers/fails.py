"""A worker that raises on its last rank, while the others wait for it."""

import torch.distributed as dist


def main():
    dist.init_process_group("gloo")
    if dist.get_rank() == 1:
        raise ValueError("as asked for")
    dist.barrier()


if __name__ == "__main__":
    main()
