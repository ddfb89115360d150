//! TensorBoard's event files: framed records (TFRecord) of `tensorflow.Event` messages, as much of them as scalars need.
//!
//! Record: length u64, masked CRC-32C of it, data, masked CRC-32C of the data. Event: 1 wall_time double, 2 step int64,
//! 3 file_version string, 5 summary { 1 value { 1 tag string, 2 simple_value float } }.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// An event file of its own in a folder; the reader merges those of one folder.
pub struct EventFile(File);

impl EventFile {
    /// # Errors
    /// When it cannot be written.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let name = format!("events.out.tfevents.{:.6}.hairpin", crate::clock::unix_secs());
        let mut file = Self(File::create(folder.join(name))?);
        let mut event = wall_time();
        bytes_field(&mut event, 3, b"brain.Event:2");
        file.record(&event)?;
        Ok(file)
    }

    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, step: u64, scalars: &[(&str, f32)]) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut one = Vec::new();
            bytes_field(&mut one, 1, tag.as_bytes());
            one.push(2 << 3 | 5);
            one.extend(value.to_le_bytes());
            bytes_field(&mut summary, 1, &one);
        }
        let mut event = wall_time();
        event.push(2 << 3);
        varint(&mut event, step);
        bytes_field(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked_crc(data).to_le_bytes());
        self.0.write_all(&record)
    }
}

fn wall_time() -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend(crate::clock::unix_secs().to_le_bytes());
    event
}

fn bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
