//! Parquet, one row a document; in builds with the feature `parquet`.

use super::{Input, Sink};
use crate::DataError;

#[cfg(not(feature = "parquet"))]
pub(super) fn read(input: Input<'_>, _sink: &mut Sink<'_>) -> Result<(), DataError> {
    Err(DataError::Feature { url: input.name, feature: "parquet" })
}

#[cfg(feature = "parquet")]
pub(super) fn read(input: Input<'_>, sink: &mut Sink<'_>) -> Result<(), DataError> {
    // On some damaged footers the parquet crate panics (a negative offset of a column, say): that too is a torn file.
    let (name, bytes) = (input.name.clone(), input.bytes);
    let rows = std::panic::AssertUnwindSafe(|| read_rows(&input, sink));
    std::panic::catch_unwind(rows)
        .unwrap_or_else(|_| sink.fault(&name, bytes, super::Fault::Torn("its metadata contradict themselves".into())))
}

#[cfg(feature = "parquet")]
fn read_rows(input: &Input<'_>, sink: &mut Sink<'_>) -> Result<(), DataError> {
    use ::parquet::{
        file::reader::{FileReader, SerializedFileReader},
        schema::types::Type,
    };

    use super::{Fault, json, record::Node};

    let torn = |e: ::parquet::errors::ParquetError| Fault::Torn(e.to_string());
    let Some(path) = input.path else {
        return sink.fault(&input.name, input.bytes, Fault::Unsupported("parquet within an archive: unpack it".into()));
    };
    let file = match disk::open(path) {
        Ok(file) => file,
        Err(e) => return sink.fault(&input.name, input.bytes, Fault::of(&e)),
    };
    let reader = match SerializedFileReader::new(file) {
        Ok(reader) => reader,
        Err(e) => return sink.fault(&input.name, input.bytes, torn(e)),
    };
    let column = sink.options.text_column.clone();
    let schema = reader.metadata().file_metadata().schema();
    let is_wanted = |name: &str| column == name || column.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    let Some(field) = schema.get_fields().iter().find(|field| is_wanted(field.name())) else {
        let mut found = std::collections::BTreeSet::new();
        for leaf in reader.metadata().file_metadata().schema_descr().columns() {
            if leaf.physical_type() == ::parquet::basic::Type::BYTE_ARRAY {
                let path = leaf.path().parts().iter().filter(|part| !matches!(part.as_str(), "list" | "element" | "item" | "array"));
                found.insert(path.cloned().collect::<Vec<_>>().join("."));
            }
        }
        return sink.no_column(&input.name, input.bytes, &found);
    };
    // Only the column of text is read.
    let only = Type::group_type_builder(schema.name()).with_fields(vec![field.clone()]).build();
    let rows = match only.and_then(|only| reader.get_row_iter(Some(only))) {
        Ok(rows) => rows,
        Err(e) => return sink.fault(&input.name, input.bytes, torn(e)),
    };
    for (i, row) in rows.enumerate() {
        let name = format!("{}:{}", input.name, i + 1);
        let row = match row {
            Ok(row) => row,
            Err(e) => return sink.fault(&name, 0, torn(e)),
        };
        let node = Node::Object(row.get_column_iter().map(|(name, field)| (name.clone(), node(field))).collect());
        json::row(&name, &node, 0, &|| node.clone(), sink)?;
    }
    Ok(())
}

#[cfg(feature = "parquet")]
fn node(field: &::parquet::record::Field) -> super::record::Node {
    use ::parquet::record::Field;

    use super::record::Node;

    match field {
        Field::Str(text) => Node::Text(text.clone()),
        Field::Bytes(bytes) => Node::Text(super::encoding::decode(bytes.data()).0.into_owned()),
        Field::Null => Node::Null,
        Field::Group(row) => Node::Object(row.get_column_iter().map(|(name, field)| (name.clone(), node(field))).collect()),
        Field::ListInternal(list) => Node::List(list.elements().iter().map(node).collect()),
        _ => Node::Other,
    }
}

/// Every row of the file at `path` as a JSON object, with its number from 1; a row that cannot be read, and all after it, as its problem.
/// # Errors
/// When the file cannot be opened or is no parquet, or in builds without the feature `parquet`.
#[cfg(not(feature = "parquet"))]
pub fn records(path: &std::path::Path, _each: &mut dyn FnMut(usize, Result<serde_json::Value, String>)) -> Result<(), DataError> {
    Err(DataError::Feature { url: path.display().to_string(), feature: "parquet" })
}

#[cfg(feature = "parquet")]
pub fn records(path: &std::path::Path, each: &mut dyn FnMut(usize, Result<serde_json::Value, String>)) -> Result<(), DataError> {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};

    let refused = |fault: String| DataError::Refused { name: path.display().to_string(), fault };
    let file = disk::open(path).map_err(|e| refused(e.to_string()))?;
    // As above, damaged metadata may make the crate panic.
    let rows = std::panic::AssertUnwindSafe(|| {
        let reader = SerializedFileReader::new(file).map_err(|e| e.to_string())?;
        for (i, row) in reader.get_row_iter(None).map_err(|e| e.to_string())?.enumerate() {
            match row {
                Ok(row) => each(i + 1, Ok(object(&row))),
                Err(e) => {
                    each(i + 1, Err(format!("it is torn: {e}")));
                    break;
                }
            }
        }
        Ok(())
    });
    std::panic::catch_unwind(rows).unwrap_or_else(|_| Err("its metadata contradict themselves".into())).map_err(refused)
}

#[cfg(feature = "parquet")]
fn object(row: &::parquet::record::Row) -> serde_json::Value {
    serde_json::Value::Object(row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect())
}

/// Times, decimals and maps are none of what a record of text and numbers holds, and become null.
#[cfg(feature = "parquet")]
fn value(field: &::parquet::record::Field) -> serde_json::Value {
    use ::parquet::record::Field;
    use serde_json::Value;

    match field {
        Field::Bool(v) => Value::from(*v),
        Field::Byte(v) => Value::from(*v),
        Field::Short(v) => Value::from(*v),
        Field::Int(v) => Value::from(*v),
        Field::Long(v) => Value::from(*v),
        Field::UByte(v) => Value::from(*v),
        Field::UShort(v) => Value::from(*v),
        Field::UInt(v) => Value::from(*v),
        Field::ULong(v) => Value::from(*v),
        Field::Float16(v) => Value::from(f32::from(*v)),
        Field::Float(v) => Value::from(*v),
        Field::Double(v) => Value::from(*v),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => Value::from(super::encoding::decode(bytes.data()).0.into_owned()),
        Field::Group(row) => object(row),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        _ => Value::Null,
    }
}

#[cfg(all(test, feature = "parquet"))]
pub(super) mod tests {
    use std::sync::Arc;

    use ::parquet::{
        data_type::{ByteArray, ByteArrayType},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::super::tests::texts;

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
        texts("a.parquet", bytes)
    }

    #[test]
    fn rows_are_documents_and_other_columns_and_torn_files_are_faults() {
        let texts = ["one", "two", "three"];
        assert_eq!(read_file(&file("text", &texts)), (texts.map(str::to_owned).to_vec(), vec![]));
        assert_eq!(read_file(&file("body", &texts)), (vec![], vec![("no_column".into(), 1)]));
        let whole = file("text", &texts);
        assert_eq!(read_file(&whole[..whole.len() - 9]), (vec![], vec![("torn".into(), 1)]));
    }

    #[test]
    fn rows_are_records_and_a_torn_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let whole = file("text", &["one", "two", "three"]);
        std::fs::write(&path, &whole).unwrap();
        let mut found = Vec::new();
        super::records(&path, &mut |number, record| found.push((number, record.unwrap()["text"].as_str().unwrap().to_owned()))).unwrap();
        assert_eq!(found, [(1, "one".to_owned()), (2, "two".into()), (3, "three".into())]);
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        assert!(super::records(&path, &mut |_, _| unreachable!()).is_err());
    }
}
