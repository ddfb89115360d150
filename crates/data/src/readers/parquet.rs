//! Parquet, one row a document; in builds with the feature `parquet`.

use super::{Sink, Source};
use crate::DataError;

#[cfg(not(feature = "parquet"))]
pub(super) fn read(source: &Source, _sink: &mut Sink<'_>) -> Result<(), DataError> {
    Err(DataError::Feature { url: source.name.clone(), feature: "parquet" })
}

#[cfg(feature = "parquet")]
pub(super) fn read(source: &Source, sink: &mut Sink<'_>) -> Result<(), DataError> {
    // On some damaged footers the parquet crate panics (a negative offset of a column, say): that too is a torn file.
    let rows = std::panic::AssertUnwindSafe(|| read_rows(source, sink));
    std::panic::catch_unwind(rows)
        .unwrap_or_else(|_| sink.fault(&source.name, super::Fault::Torn("its metadata contradict themselves".into())))
}

#[cfg(feature = "parquet")]
fn read_rows(source: &Source, sink: &mut Sink<'_>) -> Result<(), DataError> {
    use ::parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::Field,
        schema::types::Type,
    };

    use super::Fault;

    let torn = |e: ::parquet::errors::ParquetError| Fault::Torn(e.to_string());
    let file = match disk::open(&source.path) {
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

#[cfg(all(test, feature = "parquet"))]
pub(super) mod tests {
    use std::sync::Arc;

    use ::parquet::{
        data_type::{ByteArray, ByteArrayType},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::super::{CorpusOptions, Source, read_all};

    /// A file of one column of texts, two rows a group.
    pub(in super::super) fn file(column: &str, texts: &[&str]) -> Vec<u8> {
        let schema = parse_message_type(&format!("message documents {{ required binary {column} (STRING); }}")).unwrap();
        let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(WriterProperties::default())).unwrap();
        for rows in texts.chunks(2) {
            let mut group = writer.next_row_group().unwrap();
            let mut column = group.next_column().unwrap().unwrap();
            let rows: Vec<ByteArray> = rows.iter().map(|text| ByteArray::from(*text)).collect();
            column.typed::<ByteArrayType>().write_batch(&rows, None, None).unwrap();
            column.close().unwrap();
            group.close().unwrap();
        }
        writer.into_inner().unwrap()
    }

    fn read_file(bytes: &[u8]) -> (Vec<String>, Vec<(String, u64)>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let source = Source { name: "a.parquet".into(), path: file.path().to_owned(), bytes: bytes.len() as u64 };
        let (documents, faults) = read_all(&source, &CorpusOptions::default()).unwrap();
        (documents.into_iter().map(|d| d.text).collect(), faults.faults.into_iter().map(|(kind, loss)| (kind, loss.count)).collect())
    }

    #[test]
    fn rows_are_documents_and_other_columns_and_torn_files_are_faults() {
        let texts = ["one", "two", "three"];
        assert_eq!(read_file(&file("text", &texts)), (texts.map(str::to_owned).to_vec(), vec![]));
        assert_eq!(read_file(&file("body", &texts)), (vec![], vec![("no_column".into(), 1)]));
        let whole = file("text", &texts);
        assert_eq!(read_file(&whole[..whole.len() - 9]), (vec![], vec![("torn".into(), 1)]));
    }
}
