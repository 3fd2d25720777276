//! What Slurm is asked for if the job's message does not say it.

use super::conversation::{Asked, Origin};
use domain::{
    InputKind, Inputs, Layer, NamedResources, ResourceSettings, SiteChoice, TrainingSettings,
    Walltime,
};

/// Memory of a training without its batch, in MB: the program, weights, Adam's moments, four
/// threads, a checkpoint.
const BASE_MB: u64 = 600;

/// Memory of one patch of [`PATCH_PIXELS`] in a batch, in MB: the intermediate images that its
/// gradients need.
const PATCH_MB: u64 = 130;

/// 256 × 256.
const PATCH_PIXELS: u64 = 65_536;

/// Memory for a megapixel of a page, in MB, while it is decoded.
const MEGAPIXEL_MB: u64 = 10;

/// A page is taken to have so many megapixels: a folio at 400 dots an inch. `check` does not see
/// the files.
const PAGE_MEGAPIXELS: u64 = 25;

/// A zip of several pages is taken to have so many.
const PAGES_OF_A_ZIP: u64 = 10;

/// A zip's page is taken to have so many layers.
const LAYERS_OF_A_ZIP: u64 = 4;

/// What CUDA's libraries take on the host, in MB. Not measured; from what their makers say of them.
const CUDA_MB: u64 = 1_600;

/// Memory is rounded up to a multiple of so many MB.
const ROUND_MB: u64 = 100;

/// What a job takes beside its training, in seconds: the downloads, the decoding, the last picture.
const BESIDE_SECONDS: f64 = 1_200.0;

/// Times are rounded up to a multiple of so many seconds.
const ROUND_SECONDS: u64 = 300;

/// How fast finished jobs of the same kind were.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Seconds for a million pixels of patches that were learned from, validation and checkpoints
    /// included.
    pub seconds_per_megapixel: f64,
}

/// What Slurm is asked for, and what each value was chosen by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The request.
    pub resources: ResourceSettings,
    /// The same with its origins, as the asker is told.
    pub asked: Asked,
}

/// The memory that a training takes at its peak, in MB, by the formula of `docs/quality.md`,
/// without a margin.
pub fn peak_memory_mb(training: &TrainingSettings, page_megapixels: u64) -> u64 {
    let pixels = u64::from(training.patch_height) * u64::from(training.patch_width);
    let batch = u64::from(training.batch_size).saturating_mul(pixels).saturating_mul(PATCH_MB)
        / PATCH_PIXELS;
    BASE_MB.saturating_add(batch).saturating_add(page_megapixels.saturating_mul(MEGAPIXEL_MB))
}

/// How many pages the inputs have, as far as their names tell.
fn pages(inputs: &Inputs) -> u64 {
    let in_zips = inputs.iter().map(|input| match input.kind {
        InputKind::Sample(_) => 1,
        InputKind::MultiSample => PAGES_OF_A_ZIP,
        _ => 0,
    });
    u64::from(inputs.has_page()) + in_zips.sum::<u64>()
}

/// How many layers are trained, as far as the names of the inputs tell.
fn layers(inputs: &Inputs) -> u64 {
    let named = inputs.layers().filter(|layer| *layer != Layer::Background).count() as u64 + 1;
    if inputs.iter().any(|input| input.kind.is_archive()) {
        named.max(LAYERS_OF_A_ZIP)
    } else {
        named
    }
}

/// The pixels of all patches that a training learns from, in millions, if no layer ends before its
/// last epoch.
fn megapixels_to_learn(training: &TrainingSettings, layers: u64) -> f64 {
    // A fifth of the samples validates.
    let samples = f64::from(training.max_samples) * 0.8;
    let pixels = f64::from(training.patch_height) * f64::from(training.patch_width);
    #[expect(clippy::cast_precision_loss, reason = "a few layers")]
    let layers = layers as f64;
    f64::from(training.epochs) * samples * pixels * layers / 1e6
}

fn memory(training: &TrainingSettings, inputs: &Inputs, site: &SiteChoice) -> u64 {
    // Accounting and containers count the page cache and the libraries in their own ways.
    let peak = peak_memory_mb(training, pages(inputs) * PAGE_MEGAPIXELS);
    let host = if site.gpu { CUDA_MB } else { 0 };
    let memory = (peak.saturating_mul(3) / 2).saturating_add(host);
    memory.div_ceil(ROUND_MB).saturating_mul(ROUND_MB).min(100_000_000)
}

fn time(training: &TrainingSettings, inputs: &Inputs, pace: Pace) -> Option<Walltime> {
    let learning = megapixels_to_learn(training, layers(inputs)) * pace.seconds_per_megapixel;
    let seconds = 1.5 * learning + BESIDE_SECONDS;
    if !seconds.is_finite() || seconds < 0.0 {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "finite and not negative"
    )]
    let seconds =
        (seconds.min(31_536_000.0) as u64).next_multiple_of(ROUND_SECONDS).min(31_536_000);
    Walltime::from_seconds(seconds).ok()
}

/// Completes what a job's message names by what its settings need, within what the site gives. What
/// the message names stays as it is.
pub fn choose(
    named: &NamedResources,
    training: &TrainingSettings,
    inputs: &Inputs,
    site: &SiteChoice,
    pace: Option<Pace>,
) -> Chosen {
    let limits = &site.limits;
    let (cpus, cpus_from) = match named.cpus {
        Some(cpus) => (cpus, Origin::Job),
        None => (limits.cpus.map_or(site.cpus, |most| most.min(site.cpus)), Origin::Site),
    };
    let (memory_mb, memory_from) = match named.memory_mb {
        Some(memory) => (memory, Origin::Job),
        None => {
            let memory = memory(training, inputs, site);
            (limits.memory_mb.map_or(memory, |most| most.min(memory)), Origin::Estimate)
        }
    };
    let (walltime, time_from) = match named.walltime {
        Some(walltime) => (walltime, Origin::Job),
        None => {
            let measured = pace.and_then(|pace| time(training, inputs, pace));
            let from = if measured.is_some() { Origin::Measured } else { Origin::Site };
            let walltime = measured.unwrap_or(site.walltime);
            (limits.walltime.map_or(walltime, |most| most.min(walltime)), from)
        }
    };
    let asked = Asked {
        cpus,
        cpus_from,
        memory_mb,
        memory_from,
        time_seconds: walltime.seconds(),
        time_from,
    };
    Chosen {
        resources: ResourceSettings { cpus, memory_mb, walltime, email: named.email.clone() },
        asked,
    }
}

#[cfg(test)]
mod tests {
    use domain::SiteLimits;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn site() -> SiteChoice {
        SiteChoice {
            cpus: 6,
            walltime: "0-06:00".parse().unwrap(),
            gpu: false,
            limits: SiteLimits::default(),
        }
    }

    fn training(patch: u32, batch: u32, epochs: u32, samples: u32) -> TrainingSettings {
        let map = json!({"Maximum number of training epochs": epochs,
            "Maximum number of samples per \
            label": samples, "Patch height": patch, "Patch width": patch,
            "Batch Size": batch});
        TrainingSettings::from_job(map.as_object().unwrap()).unwrap()
    }

    fn inputs(names: &[&str]) -> Inputs {
        Inputs::new(&names.iter().map(|name| ((*name).to_owned(), "/x".to_owned())).collect())
            .unwrap()
    }

    fn page() -> Inputs {
        inputs(&["Image", "Background", "rgba PNG - Layer 0", "rgba PNG - Layer 1"])
    }

    #[test]
    fn what_the_message_names_is_taken_as_it_is() {
        let named = NamedResources {
            cpus: Some(3),
            memory_mb: Some(777),
            walltime: Some("17".parse().unwrap()),
            email: Some("a@b.c".into()),
        };
        let chosen = choose(&named, &training(256, 16, 15, 1000), &page(), &site(), None);
        let resources = &chosen.resources;
        assert_eq!(
            (resources.cpus, resources.memory_mb, resources.walltime.seconds()),
            (3, 777, 17 * 60)
        );
        assert_eq!(resources.email.as_deref(), Some("a@b.c"));
        let from = |asked: &Asked| [asked.cpus_from, asked.memory_from, asked.time_from];
        assert_eq!(from(&chosen.asked), [Origin::Job; 3]);
    }

    #[test]
    fn what_it_does_not_name_is_the_sites_or_follows_from_the_settings() {
        let chosen = |training, inputs: &Inputs, site: &SiteChoice, pace| {
            choose(&NamedResources::default(), &training, inputs, site, pace)
        };
        let usual = chosen(training(256, 16, 15, 1000), &page(), &site(), None);
        assert_eq!((usual.resources.cpus, usual.asked.cpus_from), (6, Origin::Site));
        assert_eq!((usual.resources.memory_mb, usual.asked.memory_from), (4400, Origin::Estimate));
        assert_eq!((usual.asked.time_seconds, usual.asked.time_from), (6 * 3600, Origin::Site));
        let small = chosen(training(64, 8, 15, 1000), &page(), &site(), None);
        assert_eq!(small.resources.memory_mb, 1400);
        let gpu = SiteChoice { gpu: true, ..site() };
        assert_eq!(
            chosen(training(256, 16, 15, 1000), &page(), &gpu, None).resources.memory_mb,
            6000
        );
        let zips = inputs(&["Sample 1", "Sample 2", "Multi-Sample Zip"]);
        assert_eq!(
            chosen(training(256, 16, 15, 1000), &zips, &site(), None).resources.memory_mb,
            8600
        );
        // 15 epochs of 800 samples of 256 × 256 in three layers are 2,359 megapixels.
        let pace = Some(Pace { seconds_per_megapixel: 3.0 });
        let measured = chosen(training(256, 16, 15, 1000), &page(), &site(), pace);
        assert_eq!(
            (measured.asked.time_seconds, measured.asked.time_from),
            (12_000, Origin::Measured)
        );
    }

    #[test]
    fn no_choice_goes_beyond_what_the_site_gives() {
        let limits = SiteLimits {
            cpus: Some(2),
            memory_mb: Some(3000),
            walltime: Some("60".parse().unwrap()),
            ..SiteLimits::default()
        };
        let site = SiteChoice { limits, ..site() };
        let chosen =
            choose(&NamedResources::default(), &training(256, 16, 15, 1000), &page(), &site, None)
                .resources;
        assert_eq!((chosen.cpus, chosen.memory_mb, chosen.walltime.seconds()), (2, 3000, 3600));
        let pace = Some(Pace { seconds_per_megapixel: 1e9 });
        let slow =
            choose(&NamedResources::default(), &training(256, 16, 15, 1000), &page(), &site, pace);
        assert_eq!(slow.resources.walltime.seconds(), 3600);
    }

    proptest! {
        /// Whatever the settings: a request that Slurm can take, and more work never gets less.
        #[test]
        fn every_choice_is_within_the_ranges_of_a_request(
            patch in 4u32..1024,
            batch in 1u32..1024,
            epochs in 1u32..10_000,
            samples in 1u32..10_000_000,
            pace in prop::option::of(any::<f64>()),
        ) {
            let pace = pace.map(|seconds_per_megapixel| Pace { seconds_per_megapixel });
            let of = |patch, batch, epochs, samples| {
                let training = training(patch, batch, epochs, samples);
                choose(&NamedResources::default(), &training, &page(), &site(), pace).resources
            };
            let (patch, more) = (patch * 4, (patch * 4 + 4).min(4096));
            let chosen = of(patch, batch, epochs, samples);
            prop_assert!((1..=100_000_000).contains(&chosen.memory_mb));
            prop_assert!((60..=31_536_000).contains(&chosen.walltime.seconds()));
            prop_assert!(of(more, batch, epochs, samples).memory_mb >= chosen.memory_mb);
            prop_assert!(of(patch, batch + 1, epochs, samples).memory_mb >= chosen.memory_mb);
        }
    }
}
