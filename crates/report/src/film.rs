//! Pictures of a model over its training, line under line.

use std::path::Path;

use maud::{Markup, html};
use vision::film;

use crate::{Picture, answer::picture};

/// The section of one run's folder; nothing where it has no pictures.
pub(crate) fn section(title: &str, folder: &Path) -> Option<Markup> {
    let film::Film { originals, lines } = film::read(folder);
    if lines.is_empty() {
        return None;
    }
    let what = if originals.is_some() {
        "Held-out images, and what the model made of them; of a masked autoencoder the hidden patches, under the mean and spread of each."
    } else {
        "Drawn by the weights as they were, each time from the same noise."
    };
    let originals = originals.map(|png| ("held out".to_owned(), png)).into_iter();
    let lines = originals.chain(lines.into_iter().map(|(step, png)| (format!("step {step}"), png)));
    let pictures: Vec<Picture> = lines.map(|(title, png)| Picture { title, text: String::new(), png }).collect();
    Some(html! {
        section {
            h2 { "Pictures of " (title) }
            @for one in &pictures { (picture(one)) }
            p.what { (what) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_in_the_order_of_their_steps_under_what_they_are_of() {
        let run = tempfile::tempdir().unwrap();
        assert!(section("this run", run.path()).is_none());
        let folder = run.path().join("pictures");
        std::fs::create_dir(&folder).unwrap();
        for name in ["00000100.png", "00000020.png", "originals.png"] {
            std::fs::write(folder.join(name), name).unwrap();
        }
        let html = section("this run", run.path()).unwrap().into_string();
        let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text}: {html}"));
        assert!(at("held out") < at("step 20") && at("step 20") < at("step 100"), "{html}");
        assert!(html.contains(&base64::encode(b"00000020.png")) && html.contains("Held-out images, and what"), "{html}");
    }
}
