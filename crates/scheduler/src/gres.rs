//! The site's table from a job's memory to the Slurm resource and partition that it gets.

use std::str::FromStr;

use thiserror::Error;

/// What a job asks Slurm for besides CPUs, memory and time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gres {
    /// `--gres`, such as `gpu:v100l:1`; `None` asks for nothing.
    pub gres: Option<String>,
    /// `--partition`, if the row names one.
    pub partition: Option<String>,
}

/// Rows of "up to this much memory: this resource", smallest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GresTable {
    rows: Vec<(u64, Gres)>,
}

/// A table that can't be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum GresTableError {
    /// A row is not `MEMORY_MB=GRES` or `MEMORY_MB=GRES@PARTITION`.
    #[error("row '{0}' is not MEMORY_MB=GRES or MEMORY_MB=GRES@PARTITION (MEMORY_MB may be *)")]
    Row(String),
    /// The memory of a row is not a number or `*`.
    #[error("row '{0}' does not begin with a number of MB or *")]
    Memory(String),
    /// Two rows count up to the same memory: the second one would never be taken.
    #[error("row '{0}' has the memory of another row")]
    Twice(String),
}

/// The generic resources of so many tasks on a node, where `gres` is what one of them gets: each
/// count times their number. `gpu:v100:1` becomes `gpu:v100:4`, and `gpu` becomes `gpu:4`.
pub(crate) fn of_tasks(gres: &str, tasks: u32) -> String {
    let of_one = |resource: &str| match resource.rsplit_once(':') {
        Some((name, count)) if count.starts_with(|c: char| c.is_ascii_digit()) => {
            let digits = count.find(|c: char| !c.is_ascii_digit()).unwrap_or(count.len());
            let (number, unit) = count.split_at(digits);
            // A number with a unit, such as 10G, keeps it.
            let number = number.parse::<u64>().unwrap_or(1).saturating_mul(tasks.into());
            format!("{name}:{number}{unit}")
        }
        _ => format!("{resource}:{tasks}"),
    };
    if tasks <= 1 {
        return gres.to_owned();
    }
    gres.split(',').map(of_one).collect::<Vec<_>>().join(",")
}

/// A word that is safe as the value of an sbatch option.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-:.=,/".contains(c))
}

impl FromStr for GresTable {
    type Err = GresTableError;

    /// Reads rows separated by commas or semicolons; spaces are ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rows: Vec<(u64, Gres)> = Vec::new();
        for row in text.split([',', ';']).map(str::trim).filter(|r| !r.is_empty()) {
            let (memory, rest) =
                row.split_once('=').ok_or_else(|| GresTableError::Row(row.into()))?;
            let memory = match memory.trim() {
                "*" => u64::MAX,
                number => number.parse().map_err(|_| GresTableError::Memory(row.into()))?,
            };
            let (gres, partition) = match rest.split_once('@') {
                Some((gres, partition)) => (gres.trim(), Some(partition.trim())),
                None => (rest.trim(), None),
            };
            if !is_word(gres) || partition.is_some_and(|p| !is_word(p)) {
                return Err(GresTableError::Row(row.into()));
            }
            if rows.iter().any(|(other, _)| *other == memory) {
                return Err(GresTableError::Twice(row.into()));
            }
            let gres = (gres != "none").then(|| gres.to_owned());
            rows.push((memory, Gres { gres, partition: partition.map(str::to_owned) }));
        }
        rows.sort_by_key(|(memory, _)| *memory);
        Ok(Self { rows })
    }
}

impl GresTable {
    /// The memory, in MB, up to which each row counts, smallest first.
    pub fn limits(&self) -> impl Iterator<Item = u64> {
        self.rows.iter().map(|(limit, _)| *limit)
    }

    /// The first row with enough memory for `memory_mb`; `None` if there is none.
    pub fn get(&self, memory_mb: u64) -> Option<&Gres> {
        self.rows.iter().find(|(limit, _)| memory_mb <= *limit).map(|(_, gres)| gres)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_that_share_a_node_ask_for_all_that_they_need_there() {
        for (gres, tasks, expected) in [
            ("gpu:1", 1, "gpu:1"),
            ("gpu", 1, "gpu"),
            ("gpu:1", 4, "gpu:4"),
            ("gpu", 2, "gpu:2"),
            ("gpu:p100l", 2, "gpu:p100l:2"),
            ("gpu:p100l:2", 3, "gpu:p100l:6"),
            ("gres/gpu:1,lscratch:10G", 2, "gres/gpu:2,lscratch:20G"),
        ] {
            assert_eq!(of_tasks(gres, tasks), expected, "{gres} {tasks}");
        }
    }

    #[test]
    fn the_smallest_row_that_suffices_is_taken() {
        let table: GresTable =
            "*=gpu:v100l:1@long; 64000 = gpu:p100l:1, 8000=none".parse().unwrap();
        let gres = |mb| table.get(mb).cloned().unwrap();
        assert_eq!(gres(8000), Gres::default());
        assert_eq!(gres(8001).gres.as_deref(), Some("gpu:p100l:1"));
        assert_eq!(
            gres(64001),
            Gres { gres: Some("gpu:v100l:1".into()), partition: Some("long".into()) }
        );
        assert_eq!("100=gpu:1".parse::<GresTable>().unwrap().get(101), None);
    }

    #[test]
    fn rows_that_are_not_rows_are_named() {
        assert_eq!("gpu:1".parse::<GresTable>(), Err(GresTableError::Row("gpu:1".into())));
        assert_eq!("8G=gpu:1".parse::<GresTable>(), Err(GresTableError::Memory("8G=gpu:1".into())));
        assert_eq!(
            "1=gpu:1 --wrap".parse::<GresTable>(),
            Err(GresTableError::Row("1=gpu:1 --wrap".into()))
        );
        for (table, row) in [
            ("*=gpu:1, *=gpu:2@long", "*=gpu:2@long"),
            ("8000=none; *=gpu:1; 08000=gpu:1", "08000=gpu:1"),
        ] {
            assert_eq!(table.parse::<GresTable>(), Err(GresTableError::Twice(row.into())));
        }
    }
}
