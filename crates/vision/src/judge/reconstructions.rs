//! What a masked autoencoder makes of held-out images: each as it is, what the encoder saw of it, and the whole again.

use train::{TrainError, run::Loaded};

use super::Shown;
use crate::{
    feed::Images,
    sheet::sheet,
    tasks::{Hidden, hidden},
};

/// Images that are shown.
const SHOWN: u64 = 8;

/// A sheet of three lines.
/// # Errors
/// When an image cannot be read, or memory is short.
pub fn reconstructions(loaded: &mut Loaded, images: &Images) -> Result<Shown, TrainError> {
    let Hidden { lines, patches, hidden } = hidden(&*loaded.model, &mut loaded.store, loaded.precision, images, SHOWN)?;
    let columns = lines[0].len();
    Ok(Shown {
        title: "Reconstructions".into(),
        text: format!(
            "held-out images; what the encoder saw of them ({} of {patches} patches); and what was made of that, under the mean and spread of \
             each hidden patch",
            patches - hidden
        ),
        image: sheet(&lines.concat(), columns),
    })
}
