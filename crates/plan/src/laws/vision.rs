//! Laws of images: contrastive pairs (CLIP), classification (ViT), generation (diffusion). Each gives a trend along one
//! family of runs, with its constants as published: none says what a new architecture will do.

/// How much a zero-shot error falls when training compute grows `ratio` times: `ratio^exponent`.
/// Cherti et al., arXiv:2212.07143, figure 1: ImageNet, models trained on LAION.
///
/// ```
/// // Ten times the compute takes about a fifth off the error.
/// assert!((plan::laws::vision::clip_error_ratio(10.0) - 0.776).abs() < 0.01);
/// ```
#[must_use]
pub fn clip_error_ratio(flops_ratio: f64) -> f64 {
    flops_ratio.powf(-0.11)
}

/// ImageNet 10-shot error of ViT pretrained on JFT-3B after `core_days` TPUv3 core-days:
/// `0.09 + 0.26 (C + 0.01)^-0.35`, C in thousands of core-days; Zhai et al., arXiv:2106.04560, figure 2. It levels off at
/// both ends.
///
/// ```
/// // ViT-G/14 printed 84.86% after about 27,200 core-days.
/// let error = plan::laws::vision::vit_ten_shot_error(27_200.0);
/// assert!((error - 0.1514).abs() < 0.03);
/// ```
#[must_use]
pub fn vit_ten_shot_error(core_days: f64) -> f64 {
    0.09 + 0.26 * (core_days / 1000.0 + 0.01).powf(-0.35)
}

/// Parameters that are best for compute of autoregressive models of images, video and text alike grow as this power of it:
/// Henighan et al., arXiv:2010.14701, figure 2.
pub const GENERATIVE_PARAMS_SHARE: f64 = 0.7;

/// Forward FLOPs of a diffusion transformer at 256 pixels beside its FID-50K after 400k steps without guidance: Peebles and
/// Xie, arXiv:2212.09748, table 4 (patch size 2). More FLOPs, lower FID: their correlation of the logarithms is -0.93.
pub const DIT_GFLOPS_FID: [(&str, f64, f64); 4] =
    [("DiT-S/2", 6.06, 68.40), ("DiT-B/2", 23.01, 43.47), ("DiT-L/2", 80.71, 23.33), ("DiT-XL/2", 118.64, 19.47)];

/// FID after 400k steps of a diffusion transformer of `gflops` a forward pass: a straight line through the logarithms of
/// [`DIT_GFLOPS_FID`].
///
/// ```
/// let fid = plan::laws::vision::dit_fid(118.64);
/// assert!((fid / 19.47 - 1.0).abs() < 0.1, "{fid}");
/// ```
#[must_use]
pub fn dit_fid(gflops: f64) -> f64 {
    let n = DIT_GFLOPS_FID.len() as f64;
    let mean = |of: fn(&(&str, f64, f64)) -> f64| DIT_GFLOPS_FID.iter().map(|row| of(row).ln()).sum::<f64>() / n;
    let (x, y) = (mean(|row| row.1), mean(|row| row.2));
    let slope = DIT_GFLOPS_FID.iter().map(|row| (row.1.ln() - x) * (row.2.ln() - y)).sum::<f64>()
        / DIT_GFLOPS_FID.iter().map(|row| (row.1.ln() - x).powi(2)).sum::<f64>();
    (y + slope * (gflops.ln() - x)).exp()
}
