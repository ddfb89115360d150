//! Opening what somebody named: a regular file or an error at once. A FIFO would wait for a writer, a device never end.

use std::{
    fs::{File, FileType},
    io::{Error, ErrorKind, Read, Result},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

/// Open a regular file, through links.
/// # Errors
/// [`ErrorKind::InvalidInput`] that names what else stands there; whatever the system says.
pub fn open(path: &Path) -> Result<File> {
    regular(path.metadata()?.file_type())?;
    // Between the two looks a FIFO may have taken the file's place: without `NONBLOCK` it would hold us.
    let file = File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?);
    regular(file.metadata()?.file_type())?;
    Ok(file)
}

/// All of a regular file, if that is at most `limit_bytes`.
/// # Errors
/// Those of [`open`]; [`ErrorKind::FileTooLarge`].
pub fn read(path: &Path, limit_bytes: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is larger than {limit_bytes} bytes")));
    }
    Ok(bytes)
}

/// [`read`] as text.
/// # Errors
/// Those of [`read`]; [`ErrorKind::InvalidData`] with the place where it is no UTF-8.
pub fn read_text(path: &Path, limit_bytes: u64) -> Result<String> {
    String::from_utf8(read(path, limit_bytes)?).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::new(ErrorKind::InvalidData, format!("it is not UTF-8 from byte {at} on"))
    })
}

fn regular(kind: FileType) -> Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let other = match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_dir() => "a folder",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(Error::new(ErrorKind::InvalidInput, format!("it is {other}, not a file")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_no_more_is_read_than_was_bargained_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "eight by").unwrap();
        std::os::unix::fs::symlink(&file, folder.path().join("link")).unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();

        assert_eq!(read_text(&folder.path().join("link"), 8).unwrap(), "eight by");
        assert_eq!(read(&file, 7).unwrap_err().kind(), ErrorKind::FileTooLarge);
        for (path, want) in [
            (fifo.as_path(), "it is a FIFO, not a file"),
            (&folder.path().join("socket"), "it is a socket, not a file"),
            (folder.path(), "it is a folder, not a file"),
            (Path::new("/dev/zero"), "it is a device, not a file"),
        ] {
            assert_eq!(open(path).unwrap_err().to_string(), want);
        }
        std::fs::write(&file, b"ab\xff").unwrap();
        assert_eq!(read_text(&file, 8).unwrap_err().to_string(), "it is not UTF-8 from byte 2 on");
    }
}
