//! Parquet with the bytes of images in a column, bare or as the struct `{bytes, path}` of Hugging Face's datasets; in builds with the
//! feature `parquet`. The bytes are copied into one file without a name, from which an image can be read at any time.

#[cfg(not(feature = "parquet"))]
use super::{Reader, Sink, Source};

pub(super) const READER: Reader = Reader { name: "parquet", endings: &["parquet"], read };

#[cfg(not(feature = "parquet"))]
fn read(source: &Source<'_>, sink: &mut Sink) {
    sink.faults.add(&source.name(), "is parquet, which this build does not read: build with `--features parquet`");
}

#[cfg(feature = "parquet")]
use {
    super::{CAPTION_KEYS, CLASS_KEYS, Entry, IMAGE_KEYS, LARGEST_IMAGE, Place, Reader, Sink, Source, first_of, said},
    ::parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::{Field, Row},
        schema::types::Type,
    },
    std::{io::Write, sync::Arc},
};

#[cfg(feature = "parquet")]
fn read(source: &Source<'_>, sink: &mut Sink) {
    // On some damaged footers the parquet crate panics: that too is a torn file.
    let rows = std::panic::AssertUnwindSafe(|| rows(source, sink));
    match std::panic::catch_unwind(rows) {
        Ok(Ok(())) => {}
        Ok(Err(problem)) => sink.faults.add(&source.name(), &problem),
        Err(_) => sink.faults.add(&source.name(), "is torn: its metadata contradict themselves"),
    }
}

#[cfg(feature = "parquet")]
fn rows(source: &Source<'_>, sink: &mut Sink) -> Result<(), String> {
    let torn = |e: &dyn std::fmt::Display| format!("is torn: {e}");
    let file = disk::open(source.path).map_err(|e| format!("cannot be read: {e}"))?;
    let reader = SerializedFileReader::new(file).map_err(|e| torn(&e))?;
    let schema = reader.metadata().file_metadata().schema();
    let column = |keys: &[&'static str]| first_of(keys, |key| schema.get_fields().iter().find(|field| field.name() == *key).cloned());
    let image = column(IMAGE_KEYS).ok_or_else(|| {
        let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        format!("has no column of images (one of {}), but {}", IMAGE_KEYS.join(", "), names.join(", "))
    })?;
    let (caption, class) = (column(CAPTION_KEYS), column(CLASS_KEYS));
    let name = |field: &Option<Arc<Type>>| field.as_ref().map(|field| field.name().to_owned());
    let (image_name, caption_name, class_name) = (image.name().to_owned(), name(&caption), name(&class));
    let fields = [Some(image), caption, class].into_iter().flatten().collect();
    let only = Type::group_type_builder(schema.name()).with_fields(fields).build().map_err(|e| torn(&e))?;
    let mut spill = tempfile::tempfile().map_err(|e| format!("cannot be unpacked: {e}"))?;
    let shared = Arc::new(spill.try_clone().map_err(|e| format!("cannot be unpacked: {e}"))?);
    let mut first = 0;
    for (row, number) in reader.get_row_iter(Some(only)).map_err(|e| torn(&e))?.zip(1_u64..) {
        let row = row.map_err(|e| torn(&e))?;
        let at = format!("{}:{number}", source.name());
        let Some(bytes) = get(&row, &image_name).and_then(bytes) else {
            sink.faults.add(&at, "holds no bytes of an image");
            continue;
        };
        if bytes.len() as u64 > LARGEST_IMAGE {
            sink.faults.add(&at, &format!("has {} bytes", bytes.len()));
            continue;
        }
        spill.write_all(bytes).map_err(|e| format!("cannot be unpacked: {e}"))?;
        let text = |name: &Option<String>| name.as_ref().and_then(|name| get(&row, name)).and_then(text);
        sink.entries.push(Entry {
            name: at,
            class: text(&class_name).unwrap_or_else(|| source.folder()),
            caption: text(&caption_name),
            place: Place::Part { file: shared.clone(), first, bytes: bytes.len() as u64 },
        });
        first += bytes.len() as u64;
    }
    Ok(())
}

#[cfg(feature = "parquet")]
fn get<'a>(row: &'a Row, name: &str) -> Option<&'a Field> {
    row.get_column_iter().find(|(column, _)| *column == name).map(|(_, field)| field)
}

#[cfg(feature = "parquet")]
fn bytes(field: &Field) -> Option<&[u8]> {
    match field {
        Field::Bytes(bytes) => Some(bytes.data()),
        Field::Group(row) => get(row, "bytes").and_then(bytes),
        _ => None,
    }
}

#[cfg(feature = "parquet")]
fn text(field: &Field) -> Option<String> {
    match field {
        Field::Null | Field::Group(_) | Field::MapInternal(_) => None,
        Field::Str(text) => said(text),
        Field::ListInternal(list) => list.elements().first().and_then(text),
        other => said(&other.to_string()),
    }
}
