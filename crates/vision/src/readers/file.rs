//! An image in a file of its own. Its folder is its class, and a text of the same name beside it (`x.txt`, `x.caption`) its caption.

use super::{Entry, IMAGES, LARGEST_TEXT, Place, Reader, Sink, Source, said};

pub(super) const READER: Reader = Reader { name: "file", endings: IMAGES, read };

fn read(source: &Source<'_>, sink: &mut Sink) {
    let beside = |ending: &str| disk::read_text(&source.path.with_extension(ending), LARGEST_TEXT).ok();
    let caption = beside("txt").or_else(|| beside("caption")).and_then(|text| said(&text));
    let place = Place::File(source.path.to_owned());
    sink.entries.push(Entry { name: source.name(), class: source.folder(), caption, place });
}
