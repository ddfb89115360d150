//! A small text that can be learnt.

use std::{fs, path::Path};

/// Sixty files in `corpus`, below `at`.
pub fn write(at: &Path) {
    fs::create_dir(at.join("corpus")).unwrap();
    for i in 0..60 {
        let line = |j: u64| format!("the road number {} turns beyond the hill {} of {i} and goes on\n", engine::mix(i * 99 + j) % 97, j);
        fs::write(at.join(format!("corpus/{i}.txt")), (0..30).map(line).collect::<String>()).unwrap();
    }
}
