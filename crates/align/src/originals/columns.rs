//! Replies as the columns of a parquet file.

use std::sync::Arc;

use parquet::{
    basic::{Compression, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, DoubleType, FloatType, Int64Type},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::parser::parse_message_type,
};

use crate::respond::Responses;

/// In the order in which [`write()`] gives them.
const SCHEMA: &str = "message replies {
    required binary prompt (STRING);
    required binary response (STRING);
    required int64 seed (INTEGER(64, false));
    required group log_probs (LIST) { repeated group list { required float element; } }
    optional double reward;
    required binary model (STRING);
    required binary tokenizer (STRING);
}";

/// A file with a row for each reply of `all`.
/// # Errors
/// Of the writer.
pub(super) fn write(all: &[Responses]) -> Result<Vec<u8>, ParquetError> {
    let each = || all.iter().flat_map(|one| (0..one.responses.len()).map(move |i| (one, i)));
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(parse_message_type(SCHEMA)?), Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    texts(&mut group, each().map(|(one, _)| one.prompt.as_str()))?;
    texts(&mut group, each().map(|(one, i)| one.responses[i].as_str()))?;

    let seeds: Vec<i64> = each().map(|(one, i)| one.seeds.get(i).copied().unwrap_or_default().cast_signed()).collect();
    column::<Int64Type>(&mut group, &seeds, None, None)?;

    // A list is its numbers, of which the first begins the row; an empty one is a level alone.
    let (mut numbers, mut there, mut goes_on) = (Vec::new(), Vec::new(), Vec::new());
    for (one, i) in each() {
        let of = one.log_probs.get(i).map_or(&[][..], Vec::as_slice);
        numbers.extend_from_slice(of);
        there.extend(std::iter::repeat_n(i16::from(!of.is_empty()), of.len().max(1)));
        goes_on.extend((0..of.len().max(1)).map(|at| i16::from(at > 0)));
    }
    column::<FloatType>(&mut group, &numbers, Some(&there), Some(&goes_on))?;

    let rewards: Vec<Option<f64>> = each().map(|(one, i)| one.rewards.get(i).copied()).collect();
    let there: Vec<i16> = rewards.iter().map(|reward| i16::from(reward.is_some())).collect();
    column::<DoubleType>(&mut group, &rewards.into_iter().flatten().collect::<Vec<_>>(), Some(&there), None)?;

    texts(&mut group, each().map(|(one, _)| one.model.as_str()))?;
    texts(&mut group, each().map(|(one, _)| one.tokenizer.as_deref().unwrap_or_default()))?;
    group.close()?;
    writer.into_inner()
}

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

fn texts<'t>(group: &mut Group<'_>, all: impl Iterator<Item = &'t str>) -> Result<(), ParquetError> {
    column::<ByteArrayType>(group, &all.map(ByteArray::from).collect::<Vec<_>>(), None, None)
}

fn column<T: parquet::data_type::DataType>(
    group: &mut Group<'_>,
    values: &[T::T],
    there: Option<&[i16]>,
    goes_on: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else { return Err(ParquetError::General("there is no such column".into())) };
    column.typed::<T>().write_batch(values, there, goes_on)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_to_the_bit() {
        let of = |text: &str, log_probs: Vec<f32>, rewards: Vec<f64>| Responses {
            prompt: "p\u{0}é".into(),
            responses: vec![text.into()],
            seeds: vec![u64::MAX - 3],
            model: "m".into(),
            tokenizer: Some("t".into()),
            log_probs: vec![log_probs],
            rewards,
        };
        let all = [of("a", vec![-0.1, -1e-30, -88.5], vec![0.1]), of("", vec![], vec![]), of("b\n", vec![-3.25], vec![f64::MIN_POSITIVE])];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replies.parquet");
        let bytes = write(&all).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(super::super::read(&path).unwrap(), all);
        // What is torn is named, and no part of it is taken.
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        let error = super::super::read(&path).unwrap_err().to_string();
        assert!(error.contains("replies.parquet"), "{error}");
    }
}
