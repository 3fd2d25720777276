//! What Slurm is asked for if the job's message does not say it.

use super::conversation::{Asked, AskedInstances, Origin};
use domain::{
    InputKind, Inputs, Instances, Layer, NamedResources, PIXELS_AT_A_TIME, ResourceSettings,
    SiteChoice, TrainingSettings, Walltime,
};

/// Memory of a training without its batch, in MB: the program, weights, Adam's moments, four
/// threads, a checkpoint.
const BASE_MB: u64 = 600;

/// Memory of one patch of [`PATCH_PIXELS`] among those that are gone through at a time, in MB: the
/// intermediate images that its gradients need.
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

/// What the process takes that starts and collects the tasks of a job, in MB, without its pages.
const LEADER_MB: u64 = 100;

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
    let patch = u64::from(training.patch_height) * u64::from(training.patch_width);
    let at_a_time = u64::from(training.batch_size)
        .saturating_mul(patch)
        .min((PIXELS_AT_A_TIME as u64).max(patch));
    let batch = at_a_time.saturating_mul(PATCH_MB) / PATCH_PIXELS;
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

/// The memory of a task. The first one's node also holds the process that collects what several
/// tasks have trained, with the pages once more; all tasks ask for the same.
fn memory(training: &TrainingSettings, inputs: &Inputs, site: &SiteChoice, tasks: u32) -> u64 {
    let megapixels = pages(inputs) * PAGE_MEGAPIXELS;
    let mut peak = peak_memory_mb(training, megapixels);
    if tasks > 1 {
        peak = peak.saturating_add(LEADER_MB + megapixels * MEGAPIXEL_MB);
    }
    // Accounting and containers count the page cache and the libraries in their own ways.
    let host = if site.gpu { CUDA_MB } else { 0 };
    let memory = (peak.saturating_mul(3) / 2).saturating_add(host);
    memory.div_ceil(ROUND_MB).saturating_mul(ROUND_MB).min(100_000_000)
}

fn time(training: &TrainingSettings, inputs: &Inputs, pace: Pace, tasks: u32) -> Option<Walltime> {
    // A task trains whole layers, one after the other.
    let one_by_one = layers(inputs).div_ceil(u64::from(tasks.max(1)));
    let learning = megapixels_to_learn(training, one_by_one) * pace.seconds_per_megapixel;
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

/// How many tasks a job gets, and what that was chosen by; nothing where its message asks for one.
/// A zip may hold more layers than can be known here.
fn instances(
    named: &NamedResources,
    training: &TrainingSettings,
    inputs: &Inputs,
    site: &SiteChoice,
    cpus: u32,
) -> Option<AskedInstances> {
    let layers = u32::try_from(layers(inputs)).unwrap_or(u32::MAX);
    let (mut number, mut from) = match named.instances {
        Instances::Number(1) => return None,
        Instances::Number(number) => (number, Origin::Job),
        Instances::Auto => (layers, Origin::Estimate),
    };
    let is_known = !inputs.iter().any(|input| input.kind.is_archive());
    if is_known && number > layers {
        (number, from) = (layers, Origin::Estimate);
    }
    // A message that names more than the site gives is refused, as with every other limit.
    let limit = site.limits.instances.filter(|_| named.instances == Instances::Auto);
    for most in limit.into_iter().chain(room(named, training, inputs, site, cpus)) {
        if number > most {
            (number, from) = (most, Origin::Site);
        }
    }
    Some(AskedInstances { number, from })
}

/// How many tasks the host has room for, where there is no Slurm. Its jobs get one GPU.
fn room(
    named: &NamedResources,
    training: &TrainingSettings,
    inputs: &Inputs,
    site: &SiteChoice,
    cpus: u32,
) -> Option<u32> {
    let host = site.host?;
    if site.gpu {
        return Some(1);
    }
    let memory_mb = named.memory_mb.unwrap_or_else(|| memory(training, inputs, site, 2)).max(1);
    let by_memory = host.memory_mb.map_or(u64::MAX, |has| has / memory_mb);
    let room = u64::from(host.cpus / cpus.max(1)).min(by_memory).max(1);
    Some(u32::try_from(room).unwrap_or(u32::MAX))
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
    let instances = instances(named, training, inputs, site, cpus);
    let tasks = instances.map_or(1, |instances| instances.number);
    let (memory_mb, memory_from) = match named.memory_mb {
        Some(memory) => (memory, Origin::Job),
        None => {
            let memory = memory(training, inputs, site, tasks);
            (limits.memory_mb.map_or(memory, |most| most.min(memory)), Origin::Estimate)
        }
    };
    let (walltime, time_from) = match named.walltime {
        Some(walltime) => (walltime, Origin::Job),
        None => {
            let measured = pace.and_then(|pace| time(training, inputs, pace, tasks));
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
        instances,
    };
    Chosen {
        resources: ResourceSettings {
            cpus,
            memory_mb,
            walltime,
            email: named.email.clone(),
            instances: tasks,
        },
        asked,
    }
}

#[cfg(test)]
mod tests {
    use domain::{Host, SiteLimits};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn site() -> SiteChoice {
        SiteChoice {
            cpus: 6,
            walltime: "0-06:00".parse().unwrap(),
            gpu: false,
            host: None,
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
            instances: Instances::default(),
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
        assert_eq!((usual.resources.memory_mb, usual.asked.memory_from), (2900, Origin::Estimate));
        assert_eq!((usual.asked.time_seconds, usual.asked.time_from), (6 * 3600, Origin::Site));
        let small = chosen(training(64, 8, 15, 1000), &page(), &site(), None);
        assert_eq!(small.resources.memory_mb, 1400);
        let gpu = SiteChoice { gpu: true, ..site() };
        assert_eq!(
            chosen(training(256, 16, 15, 1000), &page(), &gpu, None).resources.memory_mb,
            4500
        );
        let zips = inputs(&["Sample 1", "Sample 2", "Multi-Sample Zip"]);
        assert_eq!(
            chosen(training(256, 16, 15, 1000), &zips, &site(), None).resources.memory_mb,
            7000
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
    fn a_job_gets_as_many_tasks_as_it_asks_for_has_layers_and_is_given() {
        use Instances::{Auto, Number};
        use Origin::{Estimate, Job, Site};
        let host = |cpus, memory_mb| Some(Host { cpus, memory_mb });
        let zip = inputs(&["Multi-Sample Zip"]);
        let page = page(); // three layers, of 6 cores and 5,000 MB each
        for (asks, inputs, most, host, gpu, expected) in [
            (Number(1), &page, None, None, false, None),
            (Number(2), &page, None, None, false, Some((2, Job))),
            (Number(3), &page, Some(8), None, true, Some((3, Job))),
            (Number(9), &page, None, None, true, Some((3, Estimate))),
            (Number(9), &zip, None, None, true, Some((9, Job))),
            (Number(3), &page, Some(2), None, true, Some((3, Job))), // to be refused
            (Auto, &page, None, None, true, Some((3, Estimate))),
            (Auto, &page, Some(2), None, true, Some((2, Site))),
            (Auto, &zip, None, None, false, Some((4, Estimate))),
            (Number(3), &page, None, host(18, Some(64_000)), false, Some((3, Job))),
            (Number(3), &page, None, host(12, Some(64_000)), false, Some((2, Site))),
            (Number(3), &page, None, host(64, Some(8_000)), false, Some((2, Site))),
            (Auto, &page, None, host(2, None), false, Some((1, Site))),
            (Auto, &page, None, host(64, None), true, Some((1, Site))),
        ] {
            let named = NamedResources { instances: asks, ..NamedResources::default() };
            let limits = SiteLimits { instances: most, ..SiteLimits::default() };
            let site = SiteChoice { limits, host, gpu, ..site() };
            let chosen = choose(&named, &training(256, 16, 15, 1000), inputs, &site, None);
            let found = chosen.asked.instances.map(|found| (found.number, found.from));
            assert_eq!(found, expected, "{asks:?} of {most:?} on {host:?}");
            assert_eq!(chosen.resources.instances, expected.map_or(1, |(number, _)| number));
        }
    }

    #[test]
    fn several_tasks_need_less_time_and_a_little_more_memory() {
        let pace = Some(Pace { seconds_per_megapixel: 3.0 });
        let of = |tasks| {
            let instances = Instances::Number(tasks);
            let named = NamedResources { instances, ..NamedResources::default() };
            let chosen = choose(&named, &training(256, 16, 15, 1000), &page(), &site(), pace);
            (chosen.resources.memory_mb, chosen.resources.walltime.seconds())
        };
        // Three layers of 2,359 s each, times 1.5, and 1,200 s.
        assert_eq!([of(1), of(2), of(3)], [(2900, 12_000), (3400, 8_400), (3400, 4_800)]);
    }

    #[test]
    fn no_choice_goes_beyond_what_the_site_gives() {
        let limits = SiteLimits {
            cpus: Some(2),
            memory_mb: Some(2000),
            walltime: Some("60".parse().unwrap()),
            ..SiteLimits::default()
        };
        let site = SiteChoice { limits, ..site() };
        let chosen =
            choose(&NamedResources::default(), &training(256, 16, 15, 1000), &page(), &site, None)
                .resources;
        assert_eq!((chosen.cpus, chosen.memory_mb, chosen.walltime.seconds()), (2, 2000, 3600));
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
