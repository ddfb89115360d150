//! Writing state: beside its place, flushed, then renamed onto it.

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, ErrorKind, Read, Result, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags};

/// Put `bytes` at `path`: whoever looks, also after a kill or with a full disk, finds the old file or the new one whole.
/// A link at `path` stays, and what it points at is replaced.
/// # Errors
/// Whatever the system says; the old file is then as it was.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    write_with(path, |file| file.write_all(bytes.as_ref()))
}

/// [`write()`] for what is too large to hold: `fill` writes it piece by piece.
/// # Errors
/// Those of `fill`, and whatever the system says; the old file is then as it was.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let path = target(path);
    let scratch = hidden(&path);
    let file = claim(&scratch)?;
    let filled = (|| {
        if let Ok(old) = path.metadata() {
            file.set_permissions(old.permissions())?;
        }
        let mut buffered = BufWriter::new(file);
        fill(&mut buffered)?;
        // Open, and so locked, until it has its name.
        let file = buffered.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&scratch, &path)
    })();
    if let Err(error) = filled {
        let _ = std::fs::remove_file(&scratch);
        return Err(error);
    }
    sync_parent(&path)
}

/// Add a line to a file of lines, flushed. A last line that a kill has torn stays, on a line of its own.
/// # Errors
/// Whatever the system says.
pub fn append_line(path: &Path, line: &str) -> Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let before = if last == [b'\n'] { "" } else { "\n" };
    file.write_all(format!("{before}{line}\n").as_bytes())?;
    file.sync_all()?;
    sync_parent(path)
}

/// Where to prepare what shall take `out`'s place: the same file system as what `out` is, or points at.
#[must_use]
pub fn beside(out: &Path, suffix: &str) -> PathBuf {
    let out = target(out);
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    out.with_file_name(name)
}

/// Let the folder `new` take the place of `out` in one step, and remove the old one. A link at `out` stays, and the folder
/// that it points at is replaced; `new` has to stand [`beside`] it.
/// # Errors
/// Whatever the system says; `out` is then the old or the new one, whole.
pub fn swap_folder(new: &Path, out: &Path) -> Result<()> {
    let out = target(out);
    if out.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        std::fs::rename(new, &out)?;
        return sync_parent(&out);
    }
    match rustix::fs::renameat_with(CWD, new, CWD, &out, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // Some file systems cannot exchange: the old one steps aside for a moment.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            let old = beside(&out, ".old");
            std::fs::rename(&out, &old)?;
            if let Err(error) = std::fs::rename(new, &out) {
                let _ = std::fs::rename(&old, &out);
                return Err(error);
            }
            std::fs::rename(&old, new)?;
        }
        Err(error) => return Err(error.into()),
    }
    sync_parent(&out)?;
    std::fs::remove_dir_all(new)
}

/// What `path` is or, as a link, points at.
fn target(path: &Path) -> PathBuf {
    let is_link = path.symlink_metadata().is_ok_and(|m| m.is_symlink());
    // A link to nothing yet has a target too.
    let pointed = || path.canonicalize().or_else(|_| path.read_link().map(|to| path.parent().unwrap_or(Path::new("")).join(to)));
    if is_link { pointed().unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() }
}

/// `folder/.name.tmp`: of always the same name, so that kills leave at most one.
fn hidden(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// An empty file at `scratch`, locked: of several writers one goes first.
fn claim(scratch: &Path) -> Result<File> {
    loop {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(scratch)?;
        file.lock()?;
        // Whoever was first has renamed theirs by now.
        if scratch.metadata().is_ok_and(|m| file.metadata().is_ok_and(|f| (m.dev(), m.ino()) == (f.dev(), f.ino()))) {
            file.set_len(0)?;
            return Ok(file);
        }
    }
}

/// A rename is on the disk when its folder is.
fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(parent)?.sync_all() {
        // Not every file system can flush a folder.
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write(&path, "old").unwrap();
        let failed = write_with(&path, |file| {
            file.write_all(&[b'x'; 1 << 16])?;
            Err(std::io::Error::from(ErrorKind::StorageFull))
        });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::StorageFull);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(folder.path())), ("old", vec!["state".into()]));
        // What a kill left is written over.
        fs::write(folder.path().join(".state.tmp"), "a longer text than the new one").unwrap();
        write(&path, "new").unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(folder.path())), ("new", vec!["state".into()]));
    }

    #[test]
    fn several_writers_at_once_leave_one_of_their_files_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let path = &path;
                scope.spawn(move || (0..20).for_each(|_| write(path, vec![b'a' + writer; 10_000]).unwrap()));
            }
        });
        let got = fs::read(&path).unwrap();
        assert!(got.len() == 10_000 && got.iter().all(|b| *b == got[0]));
    }

    #[test]
    fn a_link_stays_a_link_and_permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "old").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("real", &link).unwrap();
        write(&link, "new").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!((fs::read_to_string(&real).unwrap().as_str(), real.metadata().unwrap().mode() & 0o777), ("new", 0o640));
    }

    #[test]
    fn a_torn_last_line_does_not_swallow_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        append_line(&path, "one").unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"tor").unwrap();
        append_line(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntor\ntwo\n");
    }

    #[test]
    fn a_folder_takes_anothers_place_also_behind_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, out) = (folder.path().join("disk"), folder.path().join("data"));
        fs::create_dir(&disk).unwrap();
        symlink(disk.join("data"), &out).unwrap();
        for round in ["first", "second"] {
            let new = beside(&out, ".tmp");
            assert_eq!(new.parent().unwrap().file_name(), disk.file_name());
            fs::create_dir(&new).unwrap();
            fs::write(new.join("file"), round).unwrap();
            swap_folder(&new, &out).unwrap();
            assert_eq!((fs::read_to_string(out.join("file")).unwrap().as_str(), names(&disk)), (round, vec!["data".into()]));
        }
        assert!(out.symlink_metadata().unwrap().is_symlink());
    }
}
