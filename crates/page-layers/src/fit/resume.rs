//! Where checkpoints lie, when the next is due, and whether the one that is there belongs to this
//! job.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use crate::fit::checkpoint::{Checkpoint, FinishedLayer};
use crate::fit::outcome::FitState;
use crate::fit::outcome::TrainedLayer;
use crate::keras::{self, Weights};
use crate::page::page::TrainingInputs;
use base::files::{sweep, write_atomic};
use base::text::hex;
use domain::{InputKind, Layer, TrainingSettings, hex_sha256};

/// Largest checkpoint that is read; ours have 23 MB, or 29 MB with an average over steps.
const MAX_BYTES: u64 = 256 << 20;

/// How long to wait at least after a checkpoint that could not be written.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// The directory for the checkpoint of one job's training: `training.safetensors`, and the models
/// of the layers that are done.
#[derive(Debug)]
pub struct Checkpoints {
    directory: PathBuf,
    every: Duration,
    fingerprint: String,
    /// When the next checkpoint is due.
    next: Instant,
    /// The checkpoint that an earlier run has left.
    found: Option<(Checkpoint, Vec<Weights>)>,
    /// The layers that are done.
    finished: Vec<FinishedLayer>,
    /// Whether the latest attempt to write one succeeded.
    saved: bool,
    /// Whether a layer is done whose model could not be kept. A checkpoint that is written then
    /// would give the state of a later layer as that layer's.
    lacks_a_layer: bool,
}

impl Checkpoints {
    /// Uses `directory` (made with mode 0700 if it is not there), writes a checkpoint at most every
    /// `every` (zero: after every step), and looks for a checkpoint of these pages with these
    /// settings. One that belongs to other pages, is torn or has another version is ignored with a
    /// warning.
    ///
    /// # Errors
    ///
    /// When the directory can't be made or an input can't be read.
    pub fn open(
        directory: &Path,
        every: Duration,
        inputs: &TrainingInputs,
        settings: &TrainingSettings,
    ) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut checkpoints = Self {
            directory: directory.to_path_buf(),
            every,
            fingerprint: fingerprint(inputs, settings)?,
            next: Instant::now() + every,
            found: None,
            finished: Vec::new(),
            saved: false,
            lacks_a_layer: false,
        };
        sweep(directory); // each half-made one has 23 MB or more
        checkpoints.look();
        Ok(checkpoints)
    }

    /// True when the latest checkpoint of this run is on disk. Without it there is no use in a
    /// requeue.
    pub fn is_saved(&self) -> bool {
        self.saved
    }

    /// Looks for the checkpoint that an earlier run, or this one, has left.
    pub fn look(&mut self) {
        self.finished.clear();
        self.lacks_a_layer = false;
        self.found = match self.read() {
            Ok(found) => found,
            Err(why) => {
                warn!("the checkpoint in {} is not used, {why}", self.directory.display());
                None
            }
        };
    }

    /// The seed of the checkpoint that was found; a job without the setting has to use it.
    pub fn seed(&self) -> Option<u64> {
        self.found.as_ref().map(|(found, _)| found.seed)
    }

    /// How many layers are done in the checkpoint that was found, or that this run has written.
    pub fn layers_done(&self) -> usize {
        let found = self.found.as_ref().map_or(0, |(found, _)| found.finished.len());
        found.max(self.finished.len())
    }

    /// True when the checkpoint that was found has a model to show: a layer that is done, or the
    /// best epoch of the one after it.
    pub fn shows_a_model(&self) -> bool {
        self.found.as_ref().is_some_and(|(found, _)| {
            let best = found.fit.as_ref().is_some_and(|fit| fit.best.is_some());
            best || !found.finished.is_empty()
        })
    }

    /// True when an earlier run, or this one, has left a checkpoint.
    pub fn is_found(&self) -> bool {
        self.found.is_some()
    }

    fn read(&self) -> Result<Option<(Checkpoint, Vec<Weights>)>, String> {
        let path = self.file();
        let bytes = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Ok(metadata) if metadata.len() > MAX_BYTES => return Err("it is far too large".into()),
            _ => fs::read(&path).map_err(|error| error.to_string())?,
        };
        let found =
            Checkpoint::from_bytes(&bytes, &self.fingerprint).map_err(|error| error.to_string())?;
        let models =
            found.finished.iter().map(|layer| self.model(layer)).collect::<Result<_, _>>()?;
        Ok(Some((found, models)))
    }

    fn model(&self, layer: &FinishedLayer) -> Result<Weights, String> {
        let damaged =
            |why: &dyn std::fmt::Display| format!("its {} is damaged: {why}", layer.model_name);
        let bytes =
            fs::read(self.model_file(&layer.model_name)).map_err(|error| damaged(&error))?;
        if hex_sha256(&bytes) != layer.model_hash {
            return Err(damaged(&"it is another file"));
        }
        keras::from_bytes(bytes).map(|model| model.weights).map_err(|error| damaged(&error))
    }

    #[cfg(test)]
    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn file(&self) -> PathBuf {
        self.directory.join("training.safetensors")
    }

    fn model_file(&self, model_name: &str) -> PathBuf {
        self.directory.join(format!("{model_name}.hdf5"))
    }

    /// Where the model of a layer lies that is done, in the directory of its checkpoint.
    pub fn model_in(directory: &Path, layer: Layer) -> PathBuf {
        directory.join(format!("{}.hdf5", layer.model_name()))
    }

    /// Takes the checkpoint that was found, if it has this seed and these layers: the weights of
    /// the layers that are done, and the state of the next one.
    pub(crate) fn take(&mut self, seed: u64, layers: &[Layer]) -> Option<Resumed> {
        let (found, weights) = self.found.take()?;
        let names = layers.iter().map(|layer| layer.model_name());
        let fits = found.seed == seed
            && found.finished.len() <= layers.len()
            && found.finished.iter().zip(names).all(|(done, name)| done.model_name == name);
        if !fits {
            warn!(
                "the checkpoint in {} is not used, its layers are others",
                self.directory.display()
            );
            return None;
        }
        self.finished.clone_from(&found.finished);
        Some(Resumed {
            finished: found.finished.into_iter().zip(weights).collect(),
            fit: found.fit,
        })
    }

    /// True when it is time to write the next checkpoint.
    pub(crate) fn is_due(&self) -> bool {
        Instant::now() >= self.next
    }

    /// Writes a checkpoint, unless a layer is done whose model could not be kept: then the one that
    /// is there stays. If writing fails the training goes on: the checkpoint is needed only when
    /// the node fails.
    pub(crate) fn save(&mut self, seed: u64, fit: Option<FitState>) {
        if self.lacks_a_layer {
            return;
        }
        let started = Instant::now();
        let checkpoint = Checkpoint { seed, finished: self.finished.clone(), fit };
        let written = match checkpoint.to_bytes(&self.fingerprint) {
            Ok(bytes) => write_atomic(&self.file(), &bytes).map(|()| bytes.len()),
            Err(error) => Err(io::Error::other(error)),
        };
        self.next = Instant::now() + self.every;
        self.saved = written.is_ok();
        match written {
            Ok(len) => tracing::debug!("checkpoint of {len} bytes in {:?}", started.elapsed()),
            Err(error) => {
                warn!("{} can't be written: {error}", self.file().display());
                self.next = self.next.max(Instant::now() + AFTER_FAILURE);
            }
        }
    }

    /// Keeps the model of a layer that is done, and writes a checkpoint.
    pub(crate) fn finish_layer(&mut self, seed: u64, layer: &TrainedLayer) {
        let model_name = layer.layer.model_name();
        let kept = fs::read(&layer.path).and_then(|bytes| {
            write_atomic(&self.model_file(&model_name), &bytes)?;
            Ok(hex_sha256(&bytes))
        });
        match kept {
            Ok(model_hash) => {
                self.finished.push(FinishedLayer {
                    model_name,
                    model_hash,
                    course: layer.course.clone(),
                    seconds: layer.times.whole.as_secs_f64(),
                });
                self.save(seed, None);
            }
            Err(error) => {
                warn!(
                    "{} can't be kept: {error}; no more checkpoints are written",
                    layer.path.display()
                );
                self.saved = false;
                self.lacks_a_layer = true;
            }
        }
    }
}

/// What a training continues from.
pub(crate) struct Resumed {
    pub(crate) finished: Vec<(FinishedLayer, Weights)>,
    pub(crate) fit: Option<FitState>,
}

impl Resumed {
    /// Tells the log where the training continues.
    pub(crate) fn report(&self) {
        let done = self.finished.len();
        match &self.fit {
            Some(fit) => info!(
                "going on from a checkpoint: {done} layers done, then epoch {} after step {}",
                fit.history.len() + 1,
                fit.step
            ),
            None => info!("going on from a checkpoint: {done} layers done"),
        }
    }
}

/// SHA-256 of the settings and the files that a training depends on.
fn fingerprint(inputs: &TrainingInputs, settings: &TrainingSettings) -> io::Result<String> {
    let mut all = Sha256::new();
    all.update(settings.fingerprint());
    for page in &inputs.pages {
        let background = (InputKind::Layer(Layer::Background), &page.background);
        let layers = page.layers.iter().map(|(layer, path)| (InputKind::Layer(*layer), path));
        let regions = page.regions.iter().map(|path| (InputKind::Regions, path));
        for (kind, path) in
            [(InputKind::Image, &page.image), background].into_iter().chain(regions).chain(layers)
        {
            all.update(format!("\n{kind}\n"));
            all.update(hash_of_file(path)?);
        }
    }
    for (layer, path) in &inputs.models {
        all.update(format!("\n{}\n", InputKind::Model(*layer)));
        all.update(hash_of_file(path)?);
    }
    Ok(hex(&all.finalize()))
}

fn hash_of_file(path: &Path) -> io::Result<[u8; 32]> {
    let (mut file, mut hash, mut piece) = (File::open(path)?, Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().into()),
            length => hash.update(&piece[..length]),
        }
    }
}
