//! Reports: one HTML file about a project or a plan, without network, scripts or fonts from elsewhere; charts are inline SVG.
//!
//! Of a project it reads what a climb left behind (`ledger.jsonl`, each phase's `metrics.jsonl` and `recipe.toml`, the data's
//! `stats.json`) and leaves out what is not there; an [`Answer`] of the planner it is given. **Absent on purpose:** any computation of results.

mod answer;
mod bars;
mod chart;
pub mod corpus;
mod page;
mod ranks;
pub mod terminal;

use std::path::{Path, PathBuf};

pub use answer::{Answer, Table};
pub use bars::Bars;
pub use chart::{Axis, Chart, Dot, DotKind, Series};

/// What can go wrong with a report.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ReportError {
    #[error("`{}` holds no ledger and no data", folder.display())]
    #[diagnostic(code(report::empty), help("give a project's folder; `hairpin climb` fills one"))]
    Empty { folder: PathBuf },

    #[error("cannot write `{}`", path.display())]
    #[diagnostic(code(report::io), help("check that the disk has room and that you may write there"))]
    Io { path: PathBuf, source: std::io::Error },
}

/// Write `report.html` into a project's folder and give its path.
/// # Errors
/// When there is nothing to tell, or the file cannot be written.
pub fn write(folder: &Path) -> Result<PathBuf, ReportError> {
    let html = page::page(folder)?;
    let path = folder.join("report.html");
    disk::write(&path, html).map_err(|source| ReportError::Io { path: path.clone(), source })?;
    Ok(path.canonicalize().unwrap_or(path))
}
