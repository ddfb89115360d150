//! What a launcher tells the processes that it starts: the one place where its variables are read.

/// A process among those that were started together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launched {
    pub rank: usize,
    pub ranks: usize,
}

/// Rank and ranks, as Open MPI and as launchers that speak PMI (MPICH, Intel MPI, `srun --mpi=pmi2`) call them. Slurm's own variables are not
/// among them: a batch script has them too, and is no rank.
const VARIABLES: [[&str; 2]; 2] = [["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"], ["PMI_RANK", "PMI_SIZE"]];

/// This process, where a launcher started it; `None` when it was started in another way.
#[must_use]
pub fn launched() -> Option<Launched> {
    read(|name| std::env::var(name).ok())
}

fn read(variable: impl Fn(&str) -> Option<String>) -> Option<Launched> {
    let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
    let found = VARIABLES.iter().find_map(|[rank, ranks]| Some(Launched { rank: number(rank)?, ranks: number(ranks)? }));
    found.filter(|launched| launched.rank < launched.ranks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_is_believed_where_it_says_both_and_they_can_be() {
        let of = |pairs: &[(&str, &str)]| read(|name| Some(pairs.iter().find(|(key, _)| *key == name)?.1.to_owned()));
        assert_eq!(of(&[("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "4")]), Some(Launched { rank: 2, ranks: 4 }));
        assert_eq!(of(&[("PMI_RANK", "0"), ("PMI_SIZE", "1")]), Some(Launched { rank: 0, ranks: 1 }));
        for not in
            [&[("OMPI_COMM_WORLD_SIZE", "4")][..], &[("PMI_RANK", "4"), ("PMI_SIZE", "4")], &[("PMI_RANK", "x"), ("PMI_SIZE", "4")], &[]]
        {
            assert_eq!(of(not), None, "{not:?}");
        }
    }
}
