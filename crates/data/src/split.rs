//! What becomes of each document: dropped as a duplicate, trained on, held out, or cut into both.
//!
//! Held out are the documents with the least of a second keyed hash, a share of all by number. Where few documents are most of the
//! text that share may be nothing or nearly all of it, and of one document there is none: then every document that is as large as
//! the held-out split should be gives its end to it.

use serde::{Deserialize, Serialize};

use crate::{
    DataError, PrepareOptions,
    dedup::Finder,
    gather::rank,
    spill::Entry,
    tally::{Stage, Tally},
};

/// What becomes of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Dropped,
    Train,
    HeldOut,
    /// The beginning is trained on, the end held out.
    Cut,
}

/// What was decided of all documents.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Choice {
    pub exact_duplicates: u64,
    pub near_duplicates: u64,
    /// What was kept, and what was dropped as duplicates.
    pub tally: Tally,
    /// Documents with a hash of at most this are held out; of one alone there is no such share.
    last: Option<u64>,
    /// Documents of at least so many bytes are cut.
    cut_bytes: Option<u64>,
    /// By number in the order of the merge.
    #[serde(skip)]
    pub stays: Vec<bool>,
}

/// What a [`Choice`] is made from: twice all entries in the order of the merge, each with how its text begins.
pub(crate) type Entries<'a> = dyn Fn(&mut Take<'_>) -> Result<(), DataError> + 'a;
pub(crate) type Take<'a> = dyn FnMut(&Entry, &dyn Fn() -> Result<String, DataError>) -> Result<(), DataError> + 'a;

impl Choice {
    pub(crate) fn make(
        options: &PrepareOptions,
        mut finder: Finder,
        entries: &Entries<'_>,
        check: &mut dyn FnMut() -> Result<(), DataError>,
    ) -> Result<Self, DataError> {
        let mut keys = Vec::new();
        entries(&mut |entry, _| {
            keys.push(held_out_key(&entry.name, options.seed));
            finder.add(options.dedup.exact.then_some(entry.words_hash), entry.bands.as_deref())
        })?;
        let unique = finder.finish(check)?;
        let mut choice = Self { exact_duplicates: unique.exact, near_duplicates: unique.near, ..Self::default() };
        choice.stays = (0..keys.len()).map(|i| unique.stays(i as u32)).collect();
        let mut stays = choice.stays.iter();
        keys.retain(|_| stays.next().is_some_and(|stays| *stays));
        if keys.len() > 1 {
            let count = ((keys.len() as f64 * options.held_out_ratio).round() as usize).clamp(1, keys.len() - 1);
            choice.last = Some(*keys.select_nth_unstable(count - 1).1);
        }
        let (mut number, mut held_out_bytes) = (0, 0);
        let mut tally = Tally::default();
        entries(&mut |entry, beginning| {
            number += 1;
            if unique.stays(number - 1) {
                tally.keep(&entry.name, entry.bytes);
                held_out_bytes += if choice.is_held_out(entry, options.seed) { entry.bytes } else { 0 };
                return Ok(());
            }
            let reason = unique.reason(number - 1);
            let text = if tally.wants_example(Stage::Duplicate, reason) { beginning()? } else { String::new() };
            tally.lose(Stage::Duplicate, reason, &entry.name, entry.bytes, &text);
            Ok(())
        })?;
        choice.tally = tally;
        let share = held_out_bytes as f64 / choice.tally.bytes_kept.max(1) as f64;
        let is_fair = (options.held_out_ratio / 4.0..=0.5_f64.max(4.0 * options.held_out_ratio)).contains(&share);
        if choice.tally.documents_kept == 1 || !is_fair {
            choice.cut_bytes = Some((options.held_out_ratio * choice.tally.bytes_kept as f64) as u64);
        }
        Ok(choice)
    }

    fn is_held_out(&self, entry: &Entry, seed: u64) -> bool {
        self.last.is_some_and(|last| held_out_key(&entry.name, seed) <= last)
    }

    /// Of the document that comes as number `number`.
    pub(crate) fn fate(&self, number: u64, entry: &Entry, seed: u64) -> Fate {
        if !self.stays[number as usize] {
            Fate::Dropped
        } else if self.cut_bytes.is_some_and(|least| entry.bytes >= least.max(2)) {
            Fate::Cut
        } else if self.is_held_out(entry, seed) {
            Fate::HeldOut
        } else {
            Fate::Train
        }
    }
}

fn held_out_key(name: &str, seed: u64) -> u64 {
    rank(name, !seed)
}

/// A text in two, the second about `ratio` of it: between paragraphs if there is such a place near, else lines, else words.
pub(crate) fn cut(text: &str, ratio: f64) -> (&str, &str) {
    let want = text.floor_char_boundary(text.len() - ((text.len() as f64 * ratio) as usize).clamp(1, text.len() - 1));
    // An eighth of the end may go to the beginning.
    let near = text.floor_char_boundary(want + (text.len() - want) / 8);
    let place = ["\n\n", "\n", " "].iter().find_map(|sign| text[want..near].find(sign).map(|at| want + at + sign.len()));
    let place = place.unwrap_or(want);
    // A first character longer than all that is kept of the text.
    let place = if place == 0 { text.chars().next().map_or(0, char::len_utf8) } else { place };
    text.split_at(place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choice(documents: &[(u64, &str)], ratio: f64) -> Vec<Fate> {
        let folder = tempfile::tempdir().unwrap();
        let options = PrepareOptions { held_out_ratio: ratio, ..PrepareOptions::default() };
        let entry = |(i, (bytes, name)): (usize, &(u64, &str))| Entry {
            rank: i as u64,
            name: (*name).to_owned(),
            place: (0, i as u64),
            bytes: *bytes,
            words_hash: i as u128,
            bands: None,
        };
        let entries: Vec<Entry> = documents.iter().enumerate().map(entry).collect();
        let each = |take: &mut Take<'_>| entries.iter().try_for_each(|entry| take(entry, &|| Ok(String::new())));
        let choice = Choice::make(&options, Finder::new(folder.path(), 0), &each, &mut || Ok(())).unwrap();
        entries.iter().enumerate().map(|(i, entry)| choice.fate(i as u64, entry, options.seed)).collect()
    }

    #[test]
    fn documents_are_held_out_whole_unless_few_are_most_of_the_text() {
        let names: Vec<String> = (0..100).map(|i| format!("{i}.txt")).collect();
        let mut documents: Vec<(u64, &str)> = names.iter().map(|name| (1000, name.as_str())).collect();
        let even = choice(&documents, 0.05);
        assert_eq!((even.iter().filter(|f| **f == Fate::HeldOut).count(), even.contains(&Fate::Cut)), (5, false));
        // One is as large as all others a hundred times: whichever way it fell, the share would be far off.
        documents[even.iter().position(|f| *f == Fate::Train).unwrap()].0 = 10_000_000;
        let uneven = choice(&documents, 0.05);
        assert_eq!((uneven.iter().filter(|f| **f == Fate::HeldOut).count(), uneven.iter().filter(|f| **f == Fate::Cut).count()), (5, 1));
        assert_eq!(choice(&[(300_000, "input.txt")], 0.02), [Fate::Cut]);
        assert!(choice(&[], 0.02).is_empty());
    }

    #[test]
    fn a_cut_stands_between_paragraphs_lines_or_words_that_are_near() {
        let text = |sign: &str| ["word ".repeat(180).trim(), sign, "word ".repeat(20).trim()].concat();
        for sign in ["\n\n", "\n", " "] {
            assert_eq!(cut(&text(sign), 0.103).1.len(), 99, "{sign:?}");
        }
        proptest!(|(text in "\\PC{2,40}", ratio in 0.01..0.5)| {
            let (start, end) = cut(&text, ratio);
            prop_assert!(!start.is_empty() && !end.is_empty());
            prop_assert_eq!([start, end].concat(), text);
        });
    }
}
