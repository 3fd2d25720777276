//! What a conversation has to send, on disk: the models of the layers that are done, and which
//! messages the broker has.
//!
//! The directory `outbox/` of a job holds `NAME.hdf5` for each model, `training.json`, `live.json`
//! (what the trainer could tell while it trained) and an empty `ID.sent` for each message that the
//! broker has confirmed. It is removed with the reply.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use base::files::{read_own, write_atomic};
use contract::wire::conversation::JobState;

/// The messages of one job that are to be sent.
#[derive(Clone, Debug)]
pub struct Outbox {
    directory: PathBuf,
}

/// What the trainer could tell while it trained: its note for `check`, which tells what the trainer
/// can't.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// False when it last could not reach the broker.
    pub reachable: bool,
    /// The state that it told last, or wanted to.
    pub state: Option<JobState>,
    /// True once the broker has that.
    pub state_sent: bool,
    /// The time of the progress that it told last.
    pub progress_at: Option<Timestamp>,
}

impl Outbox {
    /// The messages in this directory, which need not exist yet.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)
    }

    /// A file in the directory. Names come from job messages, so they are checked: nothing leads
    /// out of the directory.
    fn file(&self, name: &str) -> io::Result<PathBuf> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || " .-_".contains(c);
        if name.is_empty()
            || name.len() > 120
            || name.starts_with('.')
            || !name.chars().all(is_plain)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no name of a message's file",
            ));
        }
        Ok(self.directory.join(name))
    }

    /// Keeps a model until it is sent. One that is there already, byte by byte, is left as it is.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn put_model(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.file(&format!("{name}.hdf5"))?;
        if read_own(&path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        self.make()?;
        write_atomic(&path, bytes)
    }

    /// The file of a model.
    ///
    /// # Errors
    /// When there is none, or it can't be read.
    pub fn model(&self, name: &str) -> io::Result<Vec<u8>> {
        read_own(&self.file(&format!("{name}.hdf5"))?)
    }

    /// Keeps the figures of the training.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn put_figures(&self, bytes: &[u8]) -> io::Result<()> {
        self.make()?;
        write_atomic(&self.directory.join("training.json"), bytes)
    }

    /// The figures of the training, where there are any.
    pub fn figures(&self) -> Option<Vec<u8>> {
        read_own(&self.directory.join("training.json")).ok()
    }

    /// True when the broker has confirmed the message of this id, as far as it was noted.
    pub fn is_sent(&self, message_id: &str) -> bool {
        self.file(&format!("{message_id}.sent")).is_ok_and(|path| path.exists())
    }

    /// Notes that the broker has confirmed a message. Where that fails the message is sent again
    /// some time.
    pub fn note_sent(&self, message_id: &str) {
        let write = || {
            self.make()?;
            write_atomic(&self.file(&format!("{message_id}.sent"))?, b"")
        };
        if let Err(error) = write() {
            tracing::warn!("{}: can't note what was sent: {error}", self.directory.display());
        }
    }

    /// Notes what the trainer could tell. Only messages that need not arrive depend on it.
    pub fn note_live(&self, live: &Live) {
        let write = || {
            self.make()?;
            write_atomic(
                &self.directory.join("live.json"),
                &serde_json::to_vec(live).map_err(io::Error::other)?,
            )
        };
        if let Err(error) = write() {
            tracing::debug!("{}: can't note what was told: {error}", self.directory.display());
        }
    }

    /// What [`Outbox::note_live`] has written.
    pub fn live(&self) -> Option<Live> {
        serde_json::from_slice(&read_own(&self.directory.join("live.json")).ok()?).ok()
    }

    /// Removes all of it: the job has its end.
    pub fn remove(&self) {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("can't remove {}: {error}", self.directory.display());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::wire::conversation::Stage;

    fn outbox() -> (tempfile::TempDir, Outbox) {
        let dir = tempfile::tempdir().unwrap();
        let outbox = Outbox::new(&dir.path().join("outbox"));
        (dir, outbox)
    }

    #[test]
    fn models_and_marks_are_kept_until_the_job_has_its_end() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, outbox) = outbox();
        assert!(
            outbox.model("Model 0").is_err() && !outbox.is_sent("a1") && outbox.live().is_none()
        );
        outbox.put_model("Model 0", b"abc").unwrap();
        outbox.put_model("Model 0", b"abc").unwrap();
        assert_eq!(outbox.model("Model 0").unwrap(), b"abc");
        outbox.put_model("Model 0", b"other").unwrap();
        assert_eq!(outbox.model("Model 0").unwrap(), b"other");
        outbox.note_sent("a1");
        assert!(outbox.is_sent("a1") && !outbox.is_sent("a2"));
        outbox.put_figures(b"{}").unwrap();
        assert_eq!(outbox.figures().unwrap(), b"{}");
        let mode = fs::metadata(outbox.directory()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        outbox.remove();
        assert!(!outbox.directory().exists());
        outbox.remove();
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let (dir, outbox) = outbox();
        fs::write(dir.path().join("x.hdf5"), "secret").unwrap();
        for name in ["../x", "/etc/passwd", "..", "", "a/b", "a\0b", "a\nb", &"x".repeat(200)] {
            assert!(outbox.model(name).is_err(), "{name:?}");
            assert!(outbox.put_model(name, b"").is_err() || name.is_empty(), "{name:?}");
            outbox.note_sent(&format!("{name}/"));
            assert!(!outbox.is_sent(&format!("{name}/")));
        }
        let made = fs::read_dir(dir.path()).unwrap().count();
        assert!(made <= 2, "nothing is made beside the outbox");
    }

    #[test]
    fn what_the_trainer_could_tell_is_read_back() {
        let (_dir, outbox) = outbox();
        let live = Live {
            reachable: true,
            state: Some(JobState::new(Stage::Running, Timestamp::UNIX_EPOCH, "it runs")),
            state_sent: true,
            progress_at: Some(Timestamp::UNIX_EPOCH),
        };
        outbox.note_live(&live);
        assert_eq!(outbox.live(), Some(live));
        fs::write(outbox.directory().join("live.json"), "{").unwrap();
        assert_eq!(outbox.live(), None);
    }
}
