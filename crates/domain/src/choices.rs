//! Settings whose value is a word, and those of augmentation.

/// A setting that is one of a few words.
pub(crate) trait Choice: Copy + Default + PartialEq + 'static {
    /// The words and what they mean; the first is the default.
    const WORDS: &'static [(&'static str, Self)];

    /// Its word.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, choice)| *choice == self).map_or("", |(word, _)| word)
    }
}

/// The words of a choice, the default first.
pub(crate) fn words<T: Choice>() -> Vec<&'static str> {
    T::WORDS.iter().map(|(word, _)| *word).collect()
}

/// The metric of the validation samples by which epochs are compared, for the best one and for
/// early stopping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoppingMetric {
    /// Share of the pixels on the right side of 0.5; the original's rule.
    #[default]
    Accuracy,
    /// Harmonic mean of the layer's precision and recall.
    F1,
    /// Binary cross entropy; lower is better.
    Loss,
}

impl Choice for StoppingMetric {
    const WORDS: &'static [(&'static str, Self)] =
        &[("accuracy", Self::Accuracy), ("F1", Self::F1), ("loss", Self::Loss)];
}

/// How the centres of a layer's patches are chosen among its pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PatchSelection {
    /// Each pixel is as likely as another; the original's rule.
    #[default]
    Random,
    /// First such pixels that every pixel that may be a centre lies in a patch, as far as the
    /// number of patches allows; the rest at random.
    Covering,
}

impl Choice for PatchSelection {
    const WORDS: &'static [(&'static str, Self)] =
        &[("random", Self::Random), ("covering", Self::Covering)];
}

/// In which directions patches may be mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flip {
    /// None: notation has a direction.
    #[default]
    None,
    /// Left and right may change places.
    Horizontal,
    /// Top and bottom may change places.
    Vertical,
    /// Both.
    Both,
}

impl Flip {
    /// Whether left and right may change places.
    pub fn horizontal(self) -> bool {
        matches!(self, Self::Horizontal | Self::Both)
    }

    /// Whether top and bottom may change places.
    pub fn vertical(self) -> bool {
        matches!(self, Self::Vertical | Self::Both)
    }
}

impl Choice for Flip {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("horizontal", Self::Horizontal),
        ("vertical", Self::Vertical),
        ("both", Self::Both),
    ];
}

/// Whether the layers of a job are calibrated together once they are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calibrate {
    /// They are, where that makes the choice among them better.
    #[default]
    Yes,
    /// The models are as they were trained, each by itself.
    No,
}

impl Choice for Calibrate {
    const WORDS: &'static [(&'static str, Self)] = &[("yes", Self::Yes), ("no", Self::No)];
}

/// How the training patches vary from epoch to epoch; those for validation never vary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Augmentation {
    /// Each patch gets lighter or darker by at most this many percent of white, 0 to 50.
    pub brightness: u32,
    /// Each patch is cut at most this many pixels further up, down, left or right, 0 to half its
    /// smaller side.
    pub shift: u32,
    /// Directions in which each patch is mirrored, each with a probability of one half.
    pub flip: Flip,
}

impl Augmentation {
    /// True when patches stay as they are.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}
