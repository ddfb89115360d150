//! Reports: one HTML file about a project, a run or a plan, without network, scripts or fonts from elsewhere; charts are inline SVG.
//!
//! Of a project it reads what a climb left behind (`ledger.jsonl`, each phase's `metrics.jsonl` and `recipe.toml`, the data's
//! `stats.json`) and leaves out what is not there; an [`Answer`] of the planner it is given. **Absent on purpose:** any computation of results.

mod answer;
mod bars;
mod chart;
pub mod corpus;
mod film;
pub mod images;
mod page;
mod ranks;
mod run;
mod shell;
pub mod terminal;

use std::path::{Path, PathBuf};

pub use answer::{Answer, Picture, Table};
pub use bars::Bars;
pub use chart::{Axis, Chart, Dot, DotKind, Series};

/// What can go wrong with a report.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ReportError {
    #[error("`{}` holds no ledger, no run and no data", folder.display())]
    #[diagnostic(code(report::empty), help("give the folder of a project or a run; `hairpin climb` and `hairpin train` fill one"))]
    Empty { folder: PathBuf },

    #[error("cannot write `{}`", path.display())]
    #[diagnostic(code(report::io), help("check that the disk has room and that you may write there"))]
    Io { path: PathBuf, source: std::io::Error },
}

/// A page that was written.
pub struct Written {
    pub path: PathBuf,
    /// What is damaged, and so is not on it.
    pub damage: Vec<String>,
}

/// Write `report.html` into the folder of a project or a run.
/// # Errors
/// When there is nothing to tell, or the file cannot be written.
pub fn write(folder: &Path) -> Result<Written, ReportError> {
    let (html, damage) = page::page(folder)?;
    let path = folder.join("report.html");
    disk::write(&path, html).map_err(|source| ReportError::Io { path: path.clone(), source })?;
    Ok(Written { path: path.canonicalize().unwrap_or(path), damage })
}
