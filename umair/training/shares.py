"""Which rank reads which files, and how its rows are cut into steps. Pure arithmetic.

Every rank must take the same number of steps (an allreduce waits for all), and every row must be read once an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from umair.errors import ContractError


def share_files(rows_by_file: dict[str, int], ranks: int, where: str = "window") -> list[list[str]]:
    """One list of files for each rank: every file once, and row sums that differ by at most the largest file.

    The largest file goes to the rank with the fewest rows, and so on; ties go by name and by rank, so every rank computes
    the same lists. Raises ContractError when a rank would have no rows; `where` names the table.
    """
    shares: list[list[str]] = [[] for _ in range(ranks)]
    rows = [0] * ranks
    for file in sorted(rows_by_file, key=lambda name: (-rows_by_file[name], name)):
        emptiest = min(range(ranks), key=lambda rank: (rows[rank], len(shares[rank]), rank))
        shares[emptiest].append(file)
        rows[emptiest] += rows_by_file[file]
    if min(rows) == 0:
        filled = sum(count > 0 for count in rows_by_file.values())
        raise ContractError(f"table '{where}'", f"{filled} files with rows for {ranks} ranks",
                            f"at least {ranks} files with rows, one for each rank",
                            f"set windows.files to {ranks} or more and build the windows again, or use fewer ranks")
    return [sorted(share) for share in shares]


def count_steps(rows_by_rank: list[int], batch: int) -> int:
    """Steps of an epoch, the same on every rank: as many as the fullest rank needs for batches of at most `batch` rows."""
    return -(-max(rows_by_rank) // batch)


def step_sizes(rows: int, steps: int) -> list[int]:
    """`rows` cut into exactly `steps` batches whose sizes differ by at most one."""
    return [step_size(rows, steps, step) for step in range(steps)]


def step_size(rows: int, steps: int, step: int) -> int:
    """One of `step_sizes`."""
    return rows * (step + 1) // steps - rows * step // steps


@dataclass(frozen=True)
class EpochPlan:
    """One rank's view of an epoch that all ranks plan alike."""

    rank: int
    rows_by_file: dict[str, int]  # of this rank's share
    rows_by_rank: list[int]
    steps: int

    @property
    def sizes(self) -> list[int]:
        """Rows of each of this rank's batches, none of them empty: a rank with fewer rows than `steps`, which training
        refuses and validation does not, has a batch for each row."""
        return [size for size in step_sizes(self.rows_by_rank[self.rank], self.steps) if size]

    @property
    def rows(self) -> int:
        return sum(self.rows_by_rank)

    def share(self, step: int) -> float:
        """How many times its equal share of the step's rows this rank has; 1 when all ranks have equally many.

        A loss times this, averaged over the ranks, is the mean over all rows of the step, each of which counts alike.
        """
        by_rank = [step_size(rows, self.steps, step) for rows in self.rows_by_rank]
        return by_rank[self.rank] * len(by_rank) / sum(by_rank)

    def rows_after(self, step: int) -> int:
        """Rows that all ranks together have read after `step` steps."""
        return sum(rows * step // self.steps for rows in self.rows_by_rank)


def plan_epoch(rows_by_file: dict[str, int], ranks: int, rank: int, batch: int, where: str = "window") -> EpochPlan:
    """Shares the files out and cuts each rank's rows into equal steps of at most `batch` rows."""
    shares = share_files(rows_by_file, ranks, where)
    rows = [sum(rows_by_file[file] for file in share) for share in shares]
    return EpochPlan(rank, {file: rows_by_file[file] for file in shares[rank]}, rows, count_steps(rows, batch))
