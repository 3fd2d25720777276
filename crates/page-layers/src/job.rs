//! All layers of a page, one after another: what `--local` and a job from the broker have in
//! common.

mod calibrate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thiserror::Error;
use tracing::{info, warn};

use crate::fit::checkpoint::FinishedLayer;
use crate::fit::epochs::fit_from;
use crate::fit::observe::{JobObserver, LayerObserver};
use crate::fit::outcome::{
    FitError, FitOptions, FitState, LayerTimes, Stop, StopReason, TrainedLayer,
};
use crate::fit::resume::{Checkpoints, Resumed};
use crate::gpu::device::Device;
use crate::keras::{self, ReadProblem, Weights, WriteError};
use crate::page::decode::PageError;
use crate::page::page::{Page, PageInputs, TrainingInputs};
use crate::patch::patches::{self, Rule, SampleError, Split};
use crate::patch::samples::Samples as _;
use crate::spent::Spent;
use domain::{InputKind, Layer, PatchShape, PatchShapeError, SampleCounts, TrainingSettings};

/// Pages that are decoded, checked and sampled: everything that can be wrong with the input is
/// found before the first layer is trained.
#[derive(Debug)]
pub struct TrainingJob {
    pages: Vec<Arc<Page>>,
    settings: TrainingSettings,
    shape: PatchShape,
    seed: u64,
    layers: Vec<PreparedLayer>,
    decoding: Duration,
    sampling: Duration,
}

#[derive(Clone, Debug)]
struct PreparedLayer {
    layer: Layer,
    split: Split,
    /// The weights that it starts from, if not from random ones.
    initial: Option<Weights>,
    /// Seed of its first weights and of the order of its samples.
    seed: u64,
}

impl PreparedLayer {
    fn samples(&self) -> SampleCounts {
        SampleCounts { train: self.split.train.len(), validation: self.split.validation.len() }
    }
}

/// Why a page could not be trained.
#[derive(Debug, Error)]
pub enum TrainError {
    /// There is no page.
    #[error("there is no page to learn from")]
    NoPage,
    /// An image can't be used.
    #[error("{}{source}", label.as_ref().map(|label| format!("{label}: ")).unwrap_or_default())]
    Page {
        /// What its user calls the page, where there are several.
        label: Option<String>,
        /// The image, and what is wrong with it.
        source: Box<PageError>,
    },
    /// A model to start from can't be used.
    #[error("the input \"{input}\" can't be used: {source}")]
    Model {
        /// Which model.
        input: InputKind,
        /// What is wrong with it.
        source: Box<ReadProblem>,
    },
    /// A model to start from belongs to a layer that no page has.
    #[error(
        "the input \"{input}\" belongs to no layer that is trained (there are {layers}); leave the \
        model out, or add the layer"
    )]
    NoLayer {
        /// Which model.
        input: InputKind,
        /// The models that are trained.
        layers: String,
    },
    /// A layer has no usable pixel.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The network can't have this patch size.
    #[error(transparent)]
    Patch(#[from] PatchShapeError),
    /// The training itself failed.
    #[error("{model}: the training failed: {source}")]
    Fit {
        /// The wire's name of the model.
        model: String,
        /// What failed.
        source: FitError,
    },
    /// A model can't be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The observer asked for it.
    #[error("the training was stopped before {model} was done")]
    Stopped {
        /// The wire's name of the first model that was not finished.
        model: String,
    },
}

impl TrainError {
    /// True when the page or the settings are at fault, and not the machine or the program.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Fit { .. } | Self::Write(_) | Self::Stopped { .. })
    }
}

impl TrainingJob {
    /// Decodes and checks the pages, reads the models to go on from, and draws the samples of every
    /// layer.
    ///
    /// # Errors
    /// [`TrainError`], with the wire's name of the input that can't be used.
    pub fn prepare(
        inputs: &TrainingInputs,
        settings: &TrainingSettings,
    ) -> Result<Self, TrainError> {
        let shape = PatchShape::new(settings.patch_height as usize, settings.patch_width as usize)?;
        let began = Instant::now();
        let load = |page: &PageInputs| {
            let named =
                |error| TrainError::Page { label: page.label.clone(), source: Box::new(error) };
            Page::load(page).map(Arc::new).map_err(named)
        };
        let pages = inputs.pages.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        if pages.is_empty() {
            return Err(TrainError::NoPage);
        }
        let decoding = began.elapsed();
        // 32 bits only, so that a person can type a drawn seed again.
        let seed = settings.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 32);
        for page in pages.iter().filter(|page| patches::is_mirrored(page, shape)) {
            warn!(
                "the page ({}x{}) is not larger than two patches ({}x{}): patches are completed by \
                mirroring it at its edges",
                page.width(),
                page.height(),
                shape.width(),
                shape.height()
            );
        }
        let all = patches::layers_of(&pages);
        let mut models = read_models(&inputs.models, &all)?;
        let rule = Rule {
            n: patches::samples_per_layer(&pages, settings.max_samples),
            shape,
            selection: settings.selection,
            around_others: settings.around_others,
            exact_below: 2 * settings.batch_size as usize,
        };
        let mut layers = Vec::with_capacity(all.len());
        for (index, layer) in all.into_iter().enumerate() {
            // A random stream of its own for each layer: what one layer draws does not change what
            // the next one draws.
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(index as u64);
            let seed = rng.next_u64();
            let split = patches::sample(&pages, layer, &rule, &mut rng)?;
            if split.not_covered > 0 {
                warn!(
                    "{}: {} places of the layer got no patch of their own and may be seen by none; \
                    raise \"Maximum number of samples per label\" to see them",
                    layer.model_name(),
                    split.not_covered
                );
            }
            layers.push(PreparedLayer { layer, split, initial: models.remove(&layer), seed });
        }
        let sampling = began.elapsed().saturating_sub(decoding);
        Ok(Self { pages, settings: *settings, shape, seed, layers, decoding, sampling })
    }

    /// The pages.
    pub fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The layers in their order, each with the number of samples that it learns from.
    pub fn lengths(&self) -> Vec<(Layer, usize)> {
        self.layers.iter().map(|layer| (layer.layer, layer.samples().train)).collect()
    }

    /// The same job with this layer alone; `None` where it has no such layer. What is trained is
    /// what the whole job would train: a layer's samples and seeds do not depend on the others.
    pub fn only(&self, layer: Layer) -> Option<Self> {
        let layers = self.layers.iter().filter(|prepared| prepared.layer == layer).cloned();
        let layers: Vec<_> = layers.collect();
        (!layers.is_empty()).then(|| Self { pages: self.pages.clone(), layers, ..*self })
    }

    /// Size of the samples.
    pub fn shape(&self) -> PatchShape {
        self.shape
    }

    /// Where the time went, for layers that this job has trained.
    pub fn spent(&self, layers: &[TrainedLayer]) -> Spent {
        let sum = |part: fn(&TrainedLayer) -> Duration| layers.iter().map(part).sum();
        Spent {
            decode: self.decoding,
            sample: self.sampling,
            train: sum(|layer| layer.times.training),
            validate: sum(|layer| layer.times.validating),
            write: sum(|layer| layer.times.writing),
        }
    }

    /// The seed of all random choices: the setting's, or the one that was drawn.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Trains all layers, background first, and writes `<model name>.hdf5` into `folder` as soon as
    /// a layer is done. Such a file is always whole.
    ///
    /// If `observer` asks to [keep the best](super::Stop::KeepBest) while the last layer is being
    /// trained, and that layer has finished an epoch, its best epoch is kept and the job is done.
    ///
    /// # Errors
    ///
    /// [`TrainError::Fit`], [`TrainError::Write`], or [`TrainError::Stopped`] when `observer` asked
    /// for it.
    pub fn train(
        &self,
        device: &Device,
        folder: &Path,
        observer: &mut dyn JobObserver,
    ) -> Result<Vec<TrainedLayer>, TrainError> {
        self.train_from(None, device, folder, observer)
    }

    /// As [`TrainingJob::train`], with checkpoints: continues from the one that was found, and
    /// writes one whenever one is due, a layer is done, or training ends early.
    ///
    /// # Errors
    ///
    /// As [`TrainingJob::train`]. A checkpoint that can't be written is only a warning.
    pub fn train_from(
        &self,
        mut checkpoints: Option<&mut Checkpoints>,
        device: &Device,
        folder: &Path,
        observer: &mut dyn JobObserver,
    ) -> Result<Vec<TrainedLayer>, TrainError> {
        let sizes: Vec<_> =
            self.pages.iter().map(|page| format!("{}x{}", page.width(), page.height())).collect();
        info!(
            "page{} {}, patches {}x{}, {} layers, seed {}",
            if sizes.len() == 1 { "" } else { "s" },
            sizes.join(" "),
            self.shape.width(),
            self.shape.height(),
            self.layers.len(),
            self.seed
        );
        let layers = self.names();
        let resumed = checkpoints.as_mut().and_then(|c| c.take(self.seed, &layers));
        resumed.iter().for_each(Resumed::report);
        let (finished, mut state) = resumed.map_or((Vec::new(), None), |r| (r.finished, r.fit));
        let mut trained = self.written_again(finished, folder)?;
        while let (Some(&layer), Some(prepared)) =
            (layers.get(trained.len()), self.layers.get(trained.len()))
        {
            let last = trained.len() + 1 == layers.len();
            let mut inner = LayerObserver {
                layer,
                number: trained.len() + 1,
                seed: self.seed,
                job: observer,
                checkpoints: checkpoints.as_deref_mut(),
            };
            let done =
                self.train_layer(prepared, last, state.take(), device, folder, &mut inner)?;
            if let Some(checkpoints) = &mut checkpoints {
                checkpoints.finish_layer(self.seed, &done);
            }
            observer.layer_finished(&done);
            trained.push(done);
        }
        Ok(trained)
    }

    fn names(&self) -> Vec<Layer> {
        self.layers.iter().map(|layer| layer.layer).collect()
    }

    /// The layers that are done in a checkpoint, without training any. Their models are written
    /// into `folder`.
    ///
    /// # Errors
    /// When a model can't be written.
    pub fn finished(
        &self,
        checkpoints: &mut Checkpoints,
        folder: &Path,
    ) -> Result<Vec<TrainedLayer>, TrainError> {
        let resumed = checkpoints.take(self.seed, &self.names());
        self.written_again(resumed.map_or_else(Vec::new, |resumed| resumed.finished), folder)
    }

    /// The first layers, which an earlier run has trained.
    fn written_again(
        &self,
        finished: Vec<(FinishedLayer, Weights)>,
        folder: &Path,
    ) -> Result<Vec<TrainedLayer>, TrainError> {
        let mut trained = Vec::with_capacity(self.layers.len());
        for ((done, weights), prepared) in finished.into_iter().zip(&self.layers) {
            let began = Instant::now();
            let path = self.write_model(&done.model_name, &weights, folder)?;
            trained.push(TrainedLayer {
                layer: prepared.layer,
                path,
                weights,
                samples: prepared.samples(),
                course: done.course,
                times: LayerTimes {
                    whole: Duration::try_from_secs_f64(done.seconds).unwrap_or_default(),
                    writing: began.elapsed(),
                    ..LayerTimes::default()
                },
            });
        }
        Ok(trained)
    }

    fn train_layer(
        &self,
        prepared: &PreparedLayer,
        last: bool,
        state: Option<FitState>,
        device: &Device,
        folder: &Path,
        observer: &mut LayerObserver<'_>,
    ) -> Result<TrainedLayer, TrainError> {
        let layer = observer.layer;
        let started = Instant::now();
        let model_name = layer.model_name();
        let Split { train, validation, .. } = &prepared.split;
        observer.job.layer_started(
            layer,
            observer.number,
            train.len(),
            validation.len(),
            self.settings.epochs,
        );
        if prepared.initial.is_some() {
            info!("{model_name}: goes on from the model that was given");
        }
        let options = FitOptions {
            initial: prepared.initial.clone(),
            settings: self.settings,
            ..FitOptions::new(device.clone(), self.settings.epochs, prepared.seed)
        };
        let before = state.as_ref().map_or(Duration::ZERO, FitState::time);
        let fitted = match fit_from(train, validation, &options, state, observer) {
            Ok(fitted) if fitted.stopped == StopReason::Interrupted => {
                // With this layer every layer has a model: its best epoch so far is better than
                // none.
                if !last || observer.job.stop() == Stop::Suspend {
                    return Err(TrainError::Stopped { model: model_name });
                }
                let epoch = fitted.course.best_epoch;
                warn!("{model_name}: stopped early, its best epoch so far ({epoch}) is kept");
                fitted
            }
            Err(FitError::Interrupted) => return Err(TrainError::Stopped { model: model_name }),
            Err(source) => return Err(TrainError::Fit { model: model_name, source }),
            Ok(fitted) => fitted,
        };
        if !fitted.course.learned {
            warn!(
                "{model_name} learned nothing, whatever it was started from: check what was drawn \
                in its layer"
            );
        }
        let validating = fitted.validating;
        let training = started.elapsed().saturating_sub(validating);
        let began = Instant::now();
        let path = self.write_model(&model_name, &fitted.weights, folder)?;
        let writing = began.elapsed();
        Ok(TrainedLayer {
            layer,
            path,
            weights: fitted.weights,
            samples: prepared.samples(),
            course: fitted.course,
            times: LayerTimes {
                whole: before + training + validating + writing,
                training,
                validating,
                writing,
            },
        })
    }

    fn write_model(
        &self,
        model_name: &str,
        weights: &Weights,
        folder: &Path,
    ) -> Result<PathBuf, WriteError> {
        let path = folder.join(format!("{model_name}.hdf5"));
        keras::write(&path, weights, self.shape)?;
        Ok(path)
    }
}

/// The models to start from; each must belong to a layer in `layers`.
fn read_models(
    models: &[(Layer, PathBuf)],
    layers: &BTreeSet<Layer>,
) -> Result<BTreeMap<Layer, Weights>, TrainError> {
    let read = |(layer, path): &(Layer, PathBuf)| {
        let input = InputKind::Model(*layer);
        if !layers.contains(layer) {
            let names: Vec<_> = layers.iter().map(|layer| layer.model_name()).collect();
            return Err(TrainError::NoLayer { input, layers: names.join(", ") });
        }
        let unusable =
            |error: keras::ReadError| TrainError::Model { input, source: Box::new(error.problem) };
        let model = keras::read(path).map_err(unusable)?;
        let weights = model.as_trained().map_err(ReadProblem::from);
        Ok((
            *layer,
            weights.map_err(|problem| TrainError::Model { input, source: problem.into() })?,
        ))
    };
    models.iter().map(read).collect()
}

/// Decodes a page and trains all its layers: [`TrainingJob::prepare`], then [`TrainingJob::train`].
///
/// # Errors
///
/// As these two.
pub fn train_page(
    inputs: &TrainingInputs,
    settings: &TrainingSettings,
    device: &Device,
    folder: &Path,
    observer: &mut dyn JobObserver,
) -> Result<Vec<TrainedLayer>, TrainError> {
    TrainingJob::prepare(inputs, settings)?.train(device, folder, observer)
}
