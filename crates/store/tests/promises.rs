//! What every store promises, asked of a folder and, with `--features cloud`, of objects under a URL.

use std::{fs, path::Path};

use store::{Folder, Store, StoreError};

/// A folder with these files, to be published.
fn folder(at: &Path, files: &[(&str, &str)]) -> std::path::PathBuf {
    let path = tempfile::tempdir_in(at).unwrap().keep();
    files.iter().for_each(|(name, text)| fs::write(path.join(name), text).unwrap());
    path
}

fn files(folder: &Path) -> Vec<(String, String)> {
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap());
    let mut all: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(read).collect();
    all.sort();
    all
}

fn suite(store: &dyn Store, at: &Path) {
    let to = at.join("fetched");
    assert!(store.list().unwrap().is_empty());
    assert!(matches!(store.fetch("a", &to), Err(StoreError::Missing { .. })));
    for (name, text) in [("b", "two"), ("a", "one")] {
        store.publish(&folder(at, &[("first", text), ("empty", "")]), name).unwrap();
    }
    assert_eq!(store.list().unwrap(), ["a", "b"]);
    assert!(store.unfinished().unwrap().is_empty());
    let one = [("empty".to_owned(), String::new()), ("first".to_owned(), "one".to_owned())];
    // Over what stood there, and again.
    for _ in 0..2 {
        store.fetch("a", &to).unwrap();
        assert_eq!(files(&to), one);
        fs::write(to.join("other"), "in the way").unwrap();
    }
    assert_eq!(store.read("b", "first", 3).unwrap(), b"two");
    assert!(store.read("b", "first", 2).is_err() && store.read("b", "none", 9).is_err());
    // The same again is no error.
    store.publish(&folder(at, &[("first", "one"), ("empty", "")]), "a").unwrap();
    store.rename("a", "aside/a").unwrap();
    assert!(!store.list().unwrap().contains(&"a".to_owned()));
    store.fetch("aside/a", &to).unwrap();
    assert_eq!(files(&to), one);
    store.remove("b").unwrap();
    assert!(!store.list().unwrap().contains(&"b".to_owned()));
    assert_eq!(store.get("log", 9).unwrap(), None);
    for text in ["one", "longer"] {
        store.put("log", text.into()).unwrap();
        assert_eq!(store.get("log", 9).unwrap().unwrap(), text.as_bytes());
    }
    assert!(store.get("log", 2).is_err());
}

#[test]
fn a_folder_keeps_the_promises() {
    let at = tempfile::tempdir().unwrap();
    let place = tempfile::tempdir_in(at.path()).unwrap();
    suite(&Folder::new(place.path()), at.path());
}

#[cfg(not(feature = "cloud"))]
#[test]
fn a_build_without_stores_names_the_feature() {
    let told = store::open(Path::new("s3://bucket/x")).err().unwrap();
    assert!(matches!(told, StoreError::Feature { .. }) && told.to_string().contains("s3://bucket/x"));
}

#[cfg(feature = "cloud")]
mod objects {
    use std::path::PathBuf;

    use store::Bucket;

    use super::*;

    /// Objects that are files under this folder.
    fn bucket(place: &Path) -> Bucket {
        Bucket::open(&format!("file://{}/run", place.display())).unwrap()
    }

    /// The file that is an object of a set.
    fn object(place: &Path, name: &str, file: &str) -> PathBuf {
        let all = fs::read_dir(place.join("run").join(name)).unwrap().flatten().map(|entry| entry.path());
        all.filter(|path| path.is_dir()).map(|path| path.join(file)).find(|path| path.is_file()).unwrap()
    }

    #[test]
    fn objects_keep_the_promises() {
        let (at, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        suite(&bucket(place.path()), at.path());
    }

    #[test]
    fn what_is_large_goes_in_parts_and_comes_back() {
        let (at, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = bucket(place.path());
        let large: String = (0..5_000_000_u64).map(|i| char::from(b'a' + (i * i % 23) as u8)).cycle().take(40_000_001).collect();
        store.publish(&folder(at.path(), &[("large", &large)]), "a").unwrap();
        store.fetch("a", &at.path().join("fetched")).unwrap();
        assert!(files(&at.path().join("fetched")) == [("large".to_owned(), large)]);
    }

    #[test]
    fn an_upload_that_was_cut_is_not_seen_and_goes_on() {
        let (at, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = bucket(place.path());
        let set = [("first", "one"), ("second", "two")];
        store.publish(&folder(at.path(), &set), "a").unwrap();
        let (first, second) = (object(place.path(), "a", "first"), object(place.path(), "a", "second"));
        // As a kill between two puts leaves it.
        fs::remove_file(place.path().join("run/a/published.json")).unwrap();
        fs::remove_file(&second).unwrap();
        assert!(store.list().unwrap().is_empty() && store.unfinished().unwrap() == ["a"]);
        assert!(matches!(store.fetch("a", &at.path().join("fetched")), Err(StoreError::Missing { .. })));
        let before = first.metadata().unwrap().modified().unwrap();
        store.publish(&folder(at.path(), &set), "a").unwrap();
        assert_eq!(first.metadata().unwrap().modified().unwrap(), before, "what lies there whole is not sent again");
        assert_eq!(store.list().unwrap(), ["a"]);
    }

    #[test]
    fn of_two_writers_one_is_refused_and_nothing_is_mixed() {
        let (at, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for round in 0..20 {
            let name = format!("set-{round}");
            let sets = ["one", "two"].map(|text| folder(at.path(), &[("first", text), ("second", text)]));
            let results: Vec<_> = std::thread::scope(|scope| {
                let publish = |set: &PathBuf| {
                    let set = set.clone();
                    let (name, place) = (&name, place.path());
                    scope.spawn(move || bucket(place).publish(&set, name))
                };
                sets.iter().map(publish).collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
            assert!(results.iter().any(|result| matches!(result, Err(StoreError::Taken { .. }))), "{results:?}");
            let to = at.path().join("fetched");
            bucket(place.path()).fetch(&name, &to).unwrap();
            let got = files(&to);
            assert_eq!(got[0].1, got[1].1, "of one writer");
        }
    }

    #[test]
    fn what_is_torn_is_damage_and_makes_room() {
        let (at, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = bucket(place.path());
        let to = at.path().join("fetched");
        for (torn, other) in [("on", "of another size"), ("onE", "of another hash")] {
            store.publish(&folder(at.path(), &[("first", "one")]), "a").unwrap();
            fs::write(object(place.path(), "a", "first"), torn).unwrap();
            assert!(matches!(store.fetch("a", &to), Err(StoreError::Damaged { .. })), "{other}");
            assert!(!to.exists());
            // The same again mends it.
            store.publish(&folder(at.path(), &[("first", "one")]), "a").unwrap();
            store.fetch("a", &to).unwrap();
            fs::remove_dir_all(&to).unwrap();
        }
        fs::write(place.path().join("run/a/published.json"), "{").unwrap();
        assert!(matches!(store.fetch("a", &to), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn a_manifest_from_elsewhere_opens_nothing_outside() {
        let (at, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = bucket(place.path());
        store.publish(&folder(at.path(), &[("first", "one")]), "a").unwrap();
        let path = place.path().join("run/a/published.json");
        let forged = fs::read_to_string(&path).unwrap().replace("\"first\"", "\"../../../x\"");
        fs::write(&path, forged).unwrap();
        assert!(matches!(store.fetch("a", &at.path().join("fetched")), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn urls_of_all_stores_open_and_others_are_refused_by_name() {
        // Nobody is asked before something is read or written.
        for url in
            ["s3://bucket/x", "gs://bucket/x", "abfss://container@account.dfs.core.windows.net/x", "https://example.com/x", "file:///x"]
        {
            assert!(Bucket::open(url).is_ok(), "{url}: {:?}", Bucket::open(url).err());
        }
        for url in ["ftp://host/x", "hdfs://host/x", "s3:/bucket"] {
            let told = format!("{:?}", miette::Report::new(Bucket::open(url).err().unwrap()));
            assert!(told.contains(url) && told.contains("gs://BUCKET/PATH"), "{told}");
        }
        // The account is no part of the URL.
        if std::env::vars().all(|(key, _)| !key.to_ascii_uppercase().starts_with("AZURE_")) {
            let told = format!("{:?}", miette::Report::new(Bucket::open("az://container/x").err().unwrap()));
            assert!(told.contains("AZURE_STORAGE_ACCOUNT_NAME"), "{told}");
        }
    }

    #[test]
    fn a_url_with_a_secret_is_refused_without_showing_it() {
        for url in ["s3://me:hunter2@bucket/x", "az://container/x?sig=hunter2"] {
            let told = format!("{:?}", miette::Report::new(Bucket::open(url).err().unwrap()));
            assert!(told.contains("credentials do not belong") && !told.contains("hunter2"), "{told}");
        }
    }
}
