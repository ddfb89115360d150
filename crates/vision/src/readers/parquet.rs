//! Parquet with the bytes of images in a column, bare or as the struct `{bytes, path}` of Hugging Face's datasets, whose metadata say what
//! classes are called; in builds with the feature `parquet`. The bytes are copied into one file without a name, from which an image can be read at any time.

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
        basic::{ConvertedType, Type as Physical},
        file::{
            metadata::KeyValue,
            reader::{FileReader, SerializedFileReader},
        },
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
    if !holds_bytes(&image) {
        return Err(format!("has in its column `{}` no bytes of images, bare or as {{bytes, path}}, but {}", image.name(), kind(&image)));
    }
    let (caption, class) = (column(CAPTION_KEYS), column(CLASS_KEYS));
    let classes = class.as_ref().map_or_else(Vec::new, |class| names(reader.metadata().file_metadata().key_value_metadata(), class.name()));
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
            class: text(&class_name).map_or_else(|| source.folder(), |class| named(class, &classes)),
            caption: text(&caption_name),
            place: Place::Part { file: shared.clone(), first, bytes: bytes.len() as u64 },
        });
        first += bytes.len() as u64;
    }
    Ok(())
}

/// Whether a column is of bytes that are no text, or a struct with such bytes.
#[cfg(feature = "parquet")]
fn holds_bytes(column: &Type) -> bool {
    match column {
        Type::PrimitiveType { physical_type, .. } => {
            *physical_type == Physical::BYTE_ARRAY && column.get_basic_info().converted_type() != ConvertedType::UTF8
        }
        Type::GroupType { fields, .. } => fields.iter().any(|field| field.name() == "bytes" && field.is_primitive() && holds_bytes(field)),
    }
}

#[cfg(feature = "parquet")]
fn kind(column: &Type) -> String {
    match column {
        Type::PrimitiveType { .. } if column.get_basic_info().converted_type() == ConvertedType::UTF8 => "text".into(),
        Type::PrimitiveType { physical_type, .. } => physical_type.to_string(),
        Type::GroupType { fields, .. } => {
            format!("a struct of {}", fields.iter().map(|field| field.name()).collect::<Vec<_>>().join(", "))
        }
    }
}

/// What Hugging Face's metadata call the classes of a column, by their numbers; nothing where they do not say.
#[cfg(feature = "parquet")]
fn names(metadata: Option<&Vec<KeyValue>>, column: &str) -> Vec<String> {
    let text = metadata.into_iter().flatten().find(|pair| pair.key == "huggingface").and_then(|pair| pair.value.as_deref());
    let json = text.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok()).unwrap_or_default();
    let listed = json["info"]["features"][column]["names"].as_array();
    listed.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

#[cfg(feature = "parquet")]
fn named(class: String, classes: &[String]) -> String {
    let name = class.parse::<usize>().ok().and_then(|number| classes.get(number));
    name.cloned().unwrap_or(class)
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
