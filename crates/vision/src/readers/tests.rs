//! Every reader on what its writers write, and on what is torn, empty or hostile.

use std::path::Path;

use image::{Rgb, RgbImage};

use super::*;
use crate::Pictures;

fn png(shade: u8) -> Vec<u8> {
    crate::sheet::png(&RgbImage::from_pixel(8, 8, Rgb([shade; 3])))
}

fn any(_: &Entry) -> Result<(), String> {
    Ok(())
}

/// Name, class, caption and the first byte of each picture.
fn seen(path: &Path) -> (Vec<(String, String, String, u8)>, String) {
    let read = Pictures::read(path, 8, u64::MAX, any).unwrap();
    let one = |i: usize| {
        let entry = &read.entries[i];
        (entry.name.clone(), entry.class.clone(), entry.caption.clone().unwrap_or_default(), read.pixels(i).unwrap().as_raw()[0])
    };
    ((0..read.entries.len()).map(one).collect(), read.notes.join("\n"))
}

fn is(name: &str, class: &str, caption: &str, shade: u8) -> (String, String, String, u8) {
    (name.into(), class.into(), caption.into(), shade)
}

#[test]
fn images_of_folders_have_their_folder_as_class_and_the_text_beside_them_as_caption() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.path().join(name), bytes).unwrap();
    };
    write("cats/a.png", &png(10));
    write("cats/a.txt", b" a grey\ncat ");
    write("dogs/b.PNG", &png(20));
    write("dogs/torn.png", &png(30)[..40]);
    write("dogs/empty.webp", b"");
    write("dogs/moving.gif", b"GIF89a");
    write("notes.md", b"not an image");
    let (all, notes) = seen(folder.path());
    assert_eq!(all, [is("cats/a.png", "cats", "a grey cat", 10), is("dogs/b.PNG", "dogs", "", 20)]);
    assert!(notes.contains("2 of 4 images are left out") && notes.contains("`dogs/empty.webp` is empty"), "{notes}");
    assert!(notes.contains("1 files ending in `gif` are not read"), "{notes}");
    let error = Pictures::read(&folder.path().join("nowhere"), 8, u64::MAX, any).err().unwrap().to_string();
    assert!(error.contains("holds no file"), "{error}");
}

#[test]
fn a_list_gives_captions_and_classes_and_its_images_are_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("x.png"), png(1)).unwrap();
    std::fs::write(at("y.png"), png(2)).unwrap();
    std::fs::write(at("alone.png"), png(3)).unwrap();
    let lines = "{\"file_name\": \"x.png\", \"text\": \"an x\", \"label\": 4}\n\n{\"file_name\": \"https://x.org/y.png\"}\nnonsense\n[1]\n{\"a\": 1}\n{\"image\":\"gone.png\",\"caption\":\"z\"}\n";
    std::fs::write(at("metadata.jsonl"), lines).unwrap();
    std::fs::write(at("more.csv"), "path,caption\ny.png,\"a y, as it is\"\n,\n").unwrap();
    std::fs::write(at("other.csv"), "a,b\n1,2\n").unwrap();
    let (all, notes) = seen(folder.path());
    let name = folder.path().file_name().unwrap().to_string_lossy();
    assert_eq!(
        all,
        [is("alone.png", &name, "", 3), is("metadata.jsonl:1 x.png", "4", "an x", 1), is("more.csv:2 y.png", &name, "a y, as it is", 2)]
    );
    for want in [
        "metadata.jsonl:3` names an address",
        "metadata.jsonl:4` is no JSON",
        "metadata.jsonl:5` is no JSON object",
        "metadata.jsonl:6` names no image",
        "gone.png` cannot be read",
        "more.csv:3` names no image",
        "other.csv` has no column of images",
    ] {
        assert!(notes.contains(want), "{want}: {notes}");
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ::tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn a_shard_of_webdataset_is_read_where_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] = [png(1), png(2), png(3)];
    let files: [(&str, &[u8]); 8] = [
        ("s/0001.png", &a),
        ("s/0001.txt", b"the first"),
        ("s/0001.cls", b"7"),
        ("s/0002.json", b"{\"caption\": \"the second\", \"label\": \"owl\"}"),
        ("s/0002.png", &b),
        ("s/0003.png", &c),
        ("s/0003.json", b"{"),
        ("s/0004.mp4", b"film"),
    ];
    let whole = tar(&files);
    let path = folder.path().join("00000.tar");
    std::fs::write(&path, &whole).unwrap();
    let (all, notes) = seen(&path);
    let class = folder.path().file_name().unwrap().to_string_lossy().into_owned();
    let want = [
        is("00000.tar/s/0001.png", "7", "the first", 1),
        is("00000.tar/s/0002.png", "owl", "the second", 2),
        is("00000.tar/s/0003.png", &class, "", 3),
    ];
    assert_eq!(all, want);
    assert!(notes.contains("s/0003.json` is no JSON"), "{notes}");
    // Torn anywhere, it gives what stands before the tear.
    for end in (0..whole.len()).step_by(97) {
        std::fs::write(&path, &whole[..end]).unwrap();
        if let Ok(read) = Pictures::read(&path, 8, u64::MAX, any) {
            assert!(read.entries.len() <= 3 && read.entries.iter().zip(&want).all(|(entry, want)| entry.name == want.0), "{end}");
        }
    }
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_holds_bytes_bare_or_in_a_struct() {
    use std::sync::Arc;

    use ::parquet::{
        data_type::{ByteArray, ByteArrayType, Int64Type},
        file::{metadata::KeyValue, properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };
    let folder = tempfile::tempdir().unwrap();
    let names = r#"{"info": {"features": {"label": {"names": ["ant", "bee", "cat", "dog", "eel", "fox"], "_type": "ClassLabel"}}}}"#;
    let hub = WriterProperties::builder().set_key_value_metadata(Some(vec![KeyValue::new("huggingface".into(), names.to_owned())]));
    let cases = [
        ("bare", "required binary image;", WriterProperties::default(), ["4", "6"]),
        // A number that has no name stays one.
        ("struct", "required group image { required binary bytes; }", hub.build(), ["eel", "6"]),
    ];
    for (name, image, properties, classes) in cases {
        let schema = format!("message images {{ {image} required binary caption (STRING); required int64 label; }}");
        let schema = parse_message_type(&schema).unwrap();
        let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties)).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let images = [png(1), b"no image".to_vec(), png(3)].map(ByteArray::from);
        let captions = ["one", "two", "three"].map(ByteArray::from);
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&images, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&captions, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[4, 5, 6], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        let bytes = writer.into_inner().unwrap();
        let path = folder.path().join(format!("{name}.parquet"));
        std::fs::write(&path, &bytes).unwrap();
        let (all, notes) = seen(&path);
        let at = |i: usize| format!("{name}.parquet:{i}");
        assert_eq!(all, [is(&at(1), classes[0], "one", 1), is(&at(3), classes[1], "three", 3)]);
        assert!(notes.contains(&format!("`{}` is no image", at(2))), "{notes}");
        for end in (1..bytes.len()).step_by(61) {
            std::fs::write(&path, &bytes[..end]).unwrap();
            assert!(Pictures::read(&path, 8, u64::MAX, any).is_err(), "{end}");
        }
    }
}

#[cfg(feature = "parquet")]
#[test]
fn a_column_of_another_type_is_refused_by_name() {
    use std::sync::Arc;

    use ::parquet::{
        data_type::{ByteArray, ByteArrayType, Int64Type},
        file::writer::SerializedFileWriter,
        schema::parser::parse_message_type,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("typed.parquet");
    let says = |schema: &str, want: &str| {
        let schema = parse_message_type(&format!("message images {{ {schema} }}")).unwrap();
        let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        match want {
            "INT64" => column.typed::<Int64Type>().write_batch(&[1, 2], None, None).unwrap(),
            _ => column.typed::<ByteArrayType>().write_batch(&["a.png", "b.png"].map(ByteArray::from), None, None).unwrap(),
        };
        column.close().unwrap();
        group.close().unwrap();
        std::fs::write(&path, writer.into_inner().unwrap()).unwrap();
        let error = Pictures::read(&path, 8, u64::MAX, any).err().unwrap().to_string();
        let want = format!("`typed.parquet` has in its column `image` no bytes of images, bare or as {{bytes, path}}, but {want}");
        assert!(error.contains(&want), "{error}");
    };
    says("required int64 image;", "INT64");
    says("required binary image (STRING);", "text");
    says("required group image { required binary path (STRING); }", "a struct of path");
}

#[test]
fn what_does_not_fit_in_memory_is_decoded_again_to_the_same_pixels() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..9 {
        std::fs::write(folder.path().join(format!("{i}.png")), png(10 * i)).unwrap();
    }
    let all = Pictures::read(folder.path(), 8, u64::MAX, any).unwrap();
    let few = Pictures::read(folder.path(), 8, 4 * 3 * 64, any).unwrap();
    assert_eq!(few.hashes, all.hashes);
    assert!(few.notes[0].starts_with("4 of 9 images stay decoded"), "{:?}", few.notes);
    assert!((0..9).all(|i| few.pixels(i).unwrap() == all.pixels(i).unwrap()));
    for i in 0..9 {
        std::fs::remove_file(folder.path().join(format!("{i}.png"))).unwrap();
    }
    let lost = (0..9).filter_map(|i| few.pixels(i).err()).map(|e| e.to_string()).collect::<Vec<_>>();
    assert!(lost.len() == 5 && lost[0].contains("could be read when the run began"), "{lost:?}");
}
