//! Files: the one way that state gets onto a disk, and the one way that a file somebody names is opened.
//!
//! ```text
//! write, append_line, swap_folder     whole before it is seen: after a kill or a full disk there is the old or the new, never a part
//! open, read                          regular files only, and no more of them than was bargained for
//! plain_name, printable               what names and texts from outside may be and may show
//! ```
//! **Absent on purpose:** formats, hashes and locks of whole folders; they belong to whoever owns the format.

mod names;
mod read;
mod write;

pub use names::{is_hidden, plain_name, printable, printable_line, without_secrets};
pub use read::{open, read, read_text};
pub use write::{append_line, beside, swap_folder, write, write_with};
