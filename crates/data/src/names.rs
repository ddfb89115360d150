//! What the name of a file tells of it.

/// Endings of packed files; what they are packed with is told by their bytes.
pub(crate) const PACKED: &[&str] = &["gz", "dz", "bgz", "bz2", "zst", "zstd", "xz", "lz4"];

/// The kind of a file or document by its name: the ending, with that of the packing, in small letters: `jsonl.gz`.
pub(crate) fn kind(name: &str) -> String {
    let file = file_of(name).rsplit('/').next().unwrap_or_default().to_lowercase();
    let mut endings = file.rsplit('.');
    match (endings.next(), endings.next(), endings.next()) {
        (Some(packed), Some(ending), Some(_)) if PACKED.contains(&packed) => format!("{ending}.{packed}"),
        (Some(ending), Some(_), _) => ending.to_owned(),
        _ => "none".to_owned(),
    }
}

/// The name of the file that a document is from: without the `:row` and `#part` that readers add.
pub(crate) fn file_of(name: &str) -> &str {
    let mut file = name;
    for mark in ['#', ':'] {
        if let Some((before, number)) = file.rsplit_once(mark)
            && !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
        {
            file = before;
        }
    }
    file
}
