//! Shards in the layout of webdataset: `000000123.jpg` with `.txt`, `.cls` and, for a person, `.json` of where it came from.

use std::{fs::File, io::BufWriter, path::Path};

use serde_json::json;
use train::TrainError;

use super::{HELD_OUT, Kept, PERCENTS, Sample, Shard, TRAIN};

/// Write the images that are learnt from, of each share what the one before has not, and those that are held out.
/// # Errors
/// When an image can no longer be read, or a shard not be written.
pub(super) fn write(folder: &Path, train: &[Kept], held_out: &[Kept], shard_bytes: u64) -> Result<(Vec<Shard>, Vec<Sample>), TrainError> {
    let (mut shards, mut samples, mut first) = (Vec::new(), Vec::new(), 0);
    for percent in PERCENTS {
        let end = (train.len() * percent as usize).div_ceil(100);
        shards.extend(group(folder, &format!("{TRAIN}{percent:03}-"), &train[first..end], first, shard_bytes)?);
        samples.push(Sample { percent, images: end as u64, bytes: shards.iter().map(|shard: &Shard| shard.bytes).sum() });
        first = end;
    }
    shards.extend(group(folder, HELD_OUT, held_out, 0, shard_bytes)?);
    Ok((shards, samples))
}

/// One run of shards whose names begin alike; numbers go on from `first`.
fn group(folder: &Path, prefix: &str, all: &[Kept], first: usize, shard_bytes: u64) -> Result<Vec<Shard>, TrainError> {
    let (mut shards, mut from) = (Vec::new(), 0);
    while from < all.len() {
        let mut bytes = 0;
        let fits = |kept: &&Kept| {
            let is_room = bytes < shard_bytes;
            bytes += kept.bytes;
            is_room
        };
        let count = all[from..].iter().take_while(fits).count();
        let file = format!("{prefix}{:05}.tar", shards.len());
        shards.push(one(folder, file, &all[from..from + count], first + from)?);
        from += count;
    }
    Ok(shards)
}

fn one(folder: &Path, file: String, all: &[Kept], first: usize) -> Result<Shard, TrainError> {
    let path = folder.join(&file);
    let io = |source| TrainError::Io { action: "write", path: path.clone(), source };
    let mut tar = tar::Builder::new(BufWriter::new(File::create(&path).map_err(io)?));
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes)
    };
    for (i, kept) in all.iter().enumerate() {
        let (key, entry) = (format!("{:09}", first + i), &kept.entry);
        let bytes = entry.place.read().map_err(|source| TrainError::Io { action: "read", path: entry.name.clone().into(), source })?;
        let about = json!({"name": entry.name, "width": kept.seen.width, "height": kept.seen.height}).to_string();
        add(format!("{key}.{}", ending(&bytes)), &bytes).map_err(io)?;
        add(format!("{key}.cls"), entry.class.as_bytes()).map_err(io)?;
        if let Some(caption) = &entry.caption {
            add(format!("{key}.txt"), caption.as_bytes()).map_err(io)?;
        }
        add(format!("{key}.json"), about.as_bytes()).map_err(io)?;
    }
    let inner = tar.into_inner().and_then(|buffered| buffered.into_inner().map_err(std::io::IntoInnerError::into_error)).map_err(io)?;
    inner.sync_all().map_err(io)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(&path).map_err(io)?).map_err(io)?;
    let bytes = path.metadata().map_err(io)?.len();
    Ok(Shard { file, images: all.len() as u64, bytes, blake3: hasher.finalize().to_hex().to_string() })
}

/// By what the bytes are, whatever the file was called.
fn ending(bytes: &[u8]) -> &'static str {
    match image::guess_format(bytes) {
        Ok(image::ImageFormat::Jpeg) => "jpg",
        Ok(image::ImageFormat::WebP) => "webp",
        Ok(image::ImageFormat::Png) => "png",
        _ => "svg",
    }
}
