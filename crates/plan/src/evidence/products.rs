//! Matrix products that others measured alone, held against the tiles that [`Hardware`] takes them in.

use serde::Serialize;

use crate::{
    PlanError,
    catalogue::{self, Catalogue},
    simulation::hardware::{Constants, Hardware},
};

/// One row of `catalogue/products.csv`, see its head.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Product {
    pub accelerator: String,
    /// Rows, columns and summed length.
    pub size: [usize; 3],
    pub measured_tflops: f64,
}

/// All rows.
#[must_use]
pub fn all() -> Vec<Product> {
    catalogue::cells(include_str!("../catalogue/products.csv")).filter_map(row).collect()
}

fn row(cells: Vec<&str>) -> Option<Product> {
    let [accelerator, m, n, k, tflops] = cells[..] else { return None };
    let size = [m.parse().ok()?, n.parse().ok()?, k.parse().ok()?];
    Some(Product { accelerator: accelerator.into(), size, measured_tflops: tflops.parse().ok()? })
}

impl Product {
    /// TFLOPS as simulated; a launch is in the measured time.
    /// # Errors
    /// When the row names what is not in the catalogue.
    pub fn tflops(&self, catalogue: &Catalogue, constants: Constants) -> Result<f64, PlanError> {
        let hardware = Hardware::from(catalogue.accelerator(&self.accelerator)?);
        let secs = hardware.product_secs(self.size, 1.0, constants) + constants.launch_secs;
        Ok(2e-12 * self.size.iter().map(|n| *n as f64).product::<f64>() / secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_two_generations_are_as_fast_as_measured_within_an_eighth() {
        let catalogue = Catalogue::load(None).unwrap();
        let rows = all();
        assert_eq!(rows.len(), 106);
        let mean = |constants: Constants| {
            let error = |row: &Product| (row.tflops(&catalogue, constants).unwrap() / row.measured_tflops).ln().abs();
            rows.iter().map(error).sum::<f64>() / rows.len() as f64
        };
        let as_set = mean(Constants::default());
        assert!(as_set < 0.13, "{as_set}");
        for factor in [0.7, 1.4] {
            let other = Constants { tile_ends: factor * Constants::default().tile_ends, ..Constants::default() };
            assert!(mean(other) > as_set, "{factor} times as many would be better");
        }
    }
}
