//! Parquet, one row a document; in builds with the feature `parquet`.

use super::{Sink, Source};
use crate::DataError;

#[cfg(not(feature = "parquet"))]
pub(super) fn read(source: &Source, _sink: &mut Sink<'_>) -> Result<(), DataError> {
    Err(DataError::Feature { url: source.name.clone(), feature: "parquet" })
}

#[cfg(feature = "parquet")]
pub(super) fn read(source: &Source, sink: &mut Sink<'_>) -> Result<(), DataError> {
    use ::parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::Field,
        schema::types::Type,
    };

    use super::Fault;

    let torn = |e: ::parquet::errors::ParquetError| Fault::Torn(e.to_string());
    let file = match std::fs::File::open(&source.path) {
        Ok(file) => file,
        Err(e) => return sink.fault(&source.name, Fault::Unreadable(e.to_string())),
    };
    let reader = match SerializedFileReader::new(file) {
        Ok(reader) => reader,
        Err(e) => return sink.fault(&source.name, torn(e)),
    };
    let column = sink.options.text_column.clone();
    let schema = reader.metadata().file_metadata().schema();
    let Some(field) = schema.get_fields().iter().find(|field| field.name() == column) else {
        return sink.fault(&source.name, Fault::NoColumn { column });
    };
    // Only the column of text is read.
    let only = Type::group_type_builder(schema.name()).with_fields(vec![field.clone()]).build();
    let rows = match only.and_then(|only| reader.get_row_iter(Some(only))) {
        Ok(rows) => rows,
        Err(e) => return sink.fault(&source.name, torn(e)),
    };
    for (i, row) in rows.enumerate() {
        let name = format!("{}:{}", source.name, i + 1);
        let row = match row {
            Ok(row) => row,
            Err(e) => return sink.fault(&name, torn(e)),
        };
        match row.get_column_iter().next() {
            Some((_, Field::Str(text))) => sink.document(name, text.clone())?,
            Some((_, Field::Bytes(bytes))) => match std::str::from_utf8(bytes.data()) {
                Ok(text) => sink.document(name, text.to_owned())?,
                Err(_) => sink.fault(&name, Fault::InvalidUtf8)?,
            },
            _ => sink.fault(&name, Fault::NoColumn { column: column.clone() })?,
        }
    }
    Ok(())
}
